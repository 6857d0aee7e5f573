"""`noise2music train <stage>`: the loop that makes steps, checkpoints and a log of them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from noise2music import weights
from noise2music.config import StageConfig, to_dict
from noise2music.text.released import save_text_encoder
from noise2music.train.assemble import (
    Model,
    Text,
    build,
    mesh_of,
    plain_step,
    save_tokenizer,
    text_of,
    training_batches,
    validation_batches,
)
from noise2music.train.checkpoint import Checkpoints, differences
from noise2music.train.demo import Demo, make_demo
from noise2music.train.insight import Log, Meter, Validation, flops_of, peak_flops, scalars
from noise2music.train.loader import BatchIterator, open_clips
from noise2music.train.options import TrainOptions, stage_config
from noise2music.train.processes import fetched, join
from noise2music.train.sharding import place_batch
from noise2music.train.step import Networks, TrainState, make_step

__all__ = ["TrainOptions", "train"]

# Options that a run may change between its starts without a word.
_FREE = {f.name for f in dataclasses.fields(TrainOptions)} - {
    *("corpus", "batch_size", "peak_lr", "warmup", "lr_end_step", "ema_decay", "text_dropout"),
    *("clip_norm", "seed", "accumulate", "dtype", "text_encoder"),
}
_SHOWN = ("loss", "validation_loss", "clips_per_second", "utilisation", "data_wait")  # in the bar
# Fields of a stage that training does not read.
_SAMPLING = (
    *("denoising", "gamma", "guidance", "sampler", "steps", "clip_percentile"),
    *("default_seconds", "paper_params_m"),
)


def train(stage: str, options: TrainOptions, config: StageConfig | None = None) -> dict[str, float]:
    """Trains one stage and exports its EMA weights to `<run>/<stage>.safetensors`.

    A run found in the folder goes on from its newest whole checkpoint, to the bit as if it had
    never stopped. Returns the last line of the log.
    """
    config = config or stage_config(stage, options.preset, {})
    if config.name != stage:
        raise ValueError(f"n2m.train: the config must be of stage {stage!r}, got {config.name!r}")
    join(options)
    mesh_of(options)
    open_clips(options.corpus)
    run = Path(options.run).absolute()
    with _folder(run):  # after all that a mistyped option can stop
        text = text_of(config, options, run)
        if text is not None and jax.process_index() == 0:
            save_tokenizer(text.tokenizer, run / "tokenizer.json")
        with closing(training_batches(options, config, text)) as data:
            return _Run(run, config, options, text, data).go()


class _Run:
    """One start of a training run: from a checkpoint or from nothing to the last step."""

    def __init__(
        self,
        run: Path,
        config: StageConfig,
        options: TrainOptions,
        text: Text | None,
        data: BatchIterator,
    ):
        self.run, self.config, self.options, self.text, self.data = run, config, options, text, data
        self.checkpoints = Checkpoints(run, options.keep)
        self.checkpoints.check(self._identity(), options.resume)
        model = build(config, options, text)
        self.mesh = model.mesh
        self.step = make_step(model.graphs, config, options, model.tx, mesh=self.mesh)
        held = validation_batches(options, config, text)
        networks = Networks.of(model.graphs, config, options, self.mesh)
        self.validation = Validation(networks, [self._placed(b) for b in held])
        flops = flops_of(plain_step(model, config, options), model.shapes, held[0])
        self.meter = Meter(options.batch_size, flops, peak_flops(options.dtype))
        self.demo: Demo | None = None
        self.losses: list[Any] = []  # since the last line of the log
        self.state = self._restored(model)
        self.start = int(self.state.step)
        self.log = Log(run, self.start, tensorboard=options.tensorboard)

    def go(self) -> dict[str, float]:
        options, row = self.options, {}
        stop = _StopSignal(options.minutes)
        bar = tqdm(
            total=options.steps, initial=self.start, desc=self.config.name, unit="step",
            smoothing=0.05,
        )  # fmt: skip
        self.meter.reset()
        loss: Any = None
        try:
            for done in range(self.start + 1, options.steps + 1):
                began = time.perf_counter()
                batch = next(self.data)
                waited = time.perf_counter() - began
                self.state, metrics = self.step(self.state, self._placed(batch))
                if loss is not None:
                    jax.block_until_ready(loss)  # one step ahead of the device, not a hundred
                loss = metrics["loss"]
                self.losses.append(loss)
                self.meter.step(waited)
                bar.update()
                last = done == options.steps
                if done % options.log_every == 0 or last:
                    row = self._log(done, metrics, validate=last)
                    bar.set_postfix(
                        {k: f"{v:.4g}" for k, v in scalars(row).items() if "/" not in k}
                    )
                if done % options.checkpoint_every == 0 or last or stop.requested:
                    self._save(done)
                if options.demo_every and done % options.demo_every == 0:
                    self._demo(done)
                if stop.requested:
                    break
        finally:
            stop.restore()
            bar.close()
            self.log.close()
        self.checkpoints.close()
        ema = fetched(self.state.ema)
        if jax.process_index() == 0:
            _export(self.run, self.config, ema, self.text)
        return {"step": float(row["step"]), **scalars(row)} if row else {}

    def _log(self, done: int, metrics: dict[str, Any], *, validate: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"step": done, "loss": float(np.mean(self._fetched()))}
        row["grad_norm"] = float(metrics["grad_norm"])
        row |= self.meter.read()
        self.losses = []
        if done % self.options.validate_every == 0 or validate:
            with self.meter.paused():
                row |= self.validation(self.state.ema)
        self.log.write({**row, "time": round(time.time(), 1)})
        return row

    def _demo(self, done: int) -> None:
        """Process 0 samples; the others wait for it at the next step."""
        with self.meter.paused():
            ema = fetched(self.state.ema)
            if jax.process_index() == 0:
                if self.demo is None:
                    self.demo = make_demo(self.run, self.config, self.options, self.text)
                self.demo(done, ema)

    def _fetched(self) -> list[Any]:
        """The losses since the last line of the log; FloatingPointError for NaN and Inf."""
        self.losses = [np.asarray(a, np.float32) for a in jax.device_get(self.losses)]
        bad = [float(a) for a in self.losses if not np.isfinite(a)]
        if bad:
            raise FloatingPointError(
                f"n2m.train: the loss of {self.config.name} is {bad[0]} at about step "
                f"{int(self.state.step)}; lower peak_lr or set clip_norm"
            )
        return self.losses

    def _save(self, done: int) -> None:
        """A checkpoint of this moment. The log up to here is on disk before it."""
        pending = [float(a) for a in self._fetched()]
        self.log.sync()
        if done not in self.checkpoints.steps():
            about = {
                **self._about(),
                "losses": pending,
                "data": self.data.get_state(),
            }
            self.checkpoints.save(done, self.state, about)

    def _about(self) -> dict[str, Any]:
        from noise2music import __version__

        key = jax.random.key(self.options.seed)
        return {
            **self._identity(),
            "config": to_dict(self.config),
            "options": dataclasses.asdict(self.options),
            "rng": {"implementation": str(jax.random.key_impl(key)), "seed": self.options.seed},
            "version": __version__,
            "jax": jax.__version__,
        }

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        stage = {n: v for n, v in to_dict(self.config).items() if n not in _SAMPLING}
        return {"stage": stage, "text": None if self.text is None else to_dict(self.text.config)}

    def _placed(self, batch: Any) -> Any:
        """A batch of this process where the step wants it."""
        return jax.device_put(batch) if self.mesh is None else place_batch(batch, self.mesh)

    def _restored(self, model: Model) -> TrainState:
        """The state to start from, the position of the data and the losses that belong to it."""
        found = self.checkpoints.restore(model.shapes, self._identity(), self.options.resume)
        if found is None:
            (self.run / "config.json").write_text(self._config_file())
            return model.first()
        about = found.about
        for name, was, now in differences(about["options"], dataclasses.asdict(self.options)):
            if name not in _FREE:
                warnings.warn(
                    f"{name} was {was!r} until step {found.step} and is {now!r} from here on",
                    stacklevel=2,
                )
        self.losses = [np.float32(v) for v in about["losses"]]
        self.data.set_state(about["data"])
        return found.state

    def _config_file(self) -> str:
        """What --config reads: every option and the whole stage."""
        values = dataclasses.asdict(self.options) | {"stage": to_dict(self.config)}
        return json.dumps(values, indent=1) + "\n"


def _export(run: Path, config: StageConfig, ema: Any, text: Text | None) -> None:
    """EMA weights as float16 safetensors with the config inside; the text encoder beside them."""
    weights.save_state(run / f"{config.name}.safetensors", ema["unet"], to_dict(config))
    if text is not None:
        save_text_encoder(run, ema["text"], text.config, text.tokenizer)


@contextmanager
def _folder(run: Path) -> Iterator[None]:
    """The run's folder, which can be written and which no other training is using."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".lock").open("w")
    except OSError as error:
        raise ValueError(
            f"n2m.train: run must be a folder that can be written, got {run} ({error.strerror})"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"n2m.train: another training is writing to {run}") from error
        except OSError:  # a file system without locks
            pass
        yield


class _StopSignal:
    """SIGTERM, Ctrl-C once, or so many minutes: finish the step, write a checkpoint, leave.

    A second Ctrl-C leaves at once.
    """

    def __init__(self, minutes: float | None) -> None:
        self._signalled = False
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._old = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: the caller keeps its own handling
                pass

    @property
    def requested(self) -> bool:
        return self._signalled or time.monotonic() > self._deadline

    def _request(self, number: int, frame: Any) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True

    def restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
