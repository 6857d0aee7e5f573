"""`noise2music train <stage>`: the loop that makes steps, checkpoints and a log of them."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from noise2music import weights
from noise2music.config import StageConfig, to_dict
from noise2music.data.prepare.records import write_text
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
from noise2music.train.processes import StopSignal, fetched, first_alone, folder, join
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
    never stopped. Returns the last line of the log. SIGTERM before the first step raises
    `Stopped`, a SystemExit of code 0.
    """
    config = config or stage_config(stage, options.preset, {})
    if config.name != stage:
        raise ValueError(f"n2m.train: the config must be of stage {stage!r}, got {config.name!r}")
    join(options)
    mesh_of(options)
    open_clips(options.corpus)
    run = Path(options.run).absolute()
    with StopSignal() as stop, folder(run):  # after all that a mistyped option can stop
        inputs = first_alone(lambda: _Inputs.of(run, config, options))
        with closing(inputs.batches):
            return _Run(run, config, options, inputs).go(stop)


class _Inputs(NamedTuple):
    """What a run reads. held_out: batches for validation."""

    text: Text | None
    batches: BatchIterator
    held_out: list[dict[str, Any]]

    @classmethod
    def of(cls, run: Path, config: StageConfig, options: TrainOptions) -> _Inputs:
        text = text_of(config, options, run)
        if text is not None and jax.process_index() == 0:
            save_tokenizer(text.tokenizer, run / "tokenizer.json")
        batches = training_batches(options, config, text)
        return cls(text, batches, validation_batches(options, config, text))


class _Run:
    """One start of a training run: from a checkpoint or from nothing to the last step."""

    def __init__(self, run: Path, config: StageConfig, options: TrainOptions, inputs: _Inputs):
        self.run, self.config, self.options = run, config, options
        self.text, self.data = inputs.text, inputs.batches
        self.checkpoints = Checkpoints(run, options.keep)
        self.checkpoints.check(self._identity(), options.resume)
        model = build(config, options, self.text)
        self.mesh = model.mesh
        self.step = make_step(model.graphs, config, options, model.tx, mesh=self.mesh)
        held_out = [self._placed(batch) for batch in inputs.held_out]
        networks = Networks.of(model.graphs, config, options, self.mesh)
        self.validation = Validation(networks, held_out)
        flops = flops_of(plain_step(model, config, options), model.shapes, held_out[0])
        self.meter = Meter(options.batch_size, flops, peak_flops(options.dtype))
        self.demo: Demo | None = None
        self.losses: list[Any] = []  # since the last line of the log
        self.state = self._restored(model)
        self.start = int(self.state.step)
        self.leads = jax.process_index() == 0
        self.log = Log(run, self.start, tensorboard=options.tensorboard) if self.leads else None

    def go(self, stop: StopSignal) -> dict[str, float]:
        options, row = self.options, {}
        stop.begin(options.minutes)
        bar = tqdm(
            total=options.steps, initial=self.start, desc=self.config.name, unit="step",
            smoothing=0.05, disable=not self.leads,
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
                    bar.set_postfix({k: f"{row[k]:.4g}" for k in _SHOWN if k in row})
                stopping = stop.requested(done)
                if done % options.checkpoint_every == 0 or last or stopping:
                    self._save(done)
                if options.demo_every and done % options.demo_every == 0:
                    self._demo(done)
                if stopping:
                    break
        finally:
            bar.close()
            if self.log is not None:
                self.log.close()
        self.checkpoints.close()
        ema = fetched(self.state.ema)
        if self.leads:
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
        if self.log is not None:
            self.log.write({**row, "time": round(time.time(), 1)})
        return row

    def _demo(self, done: int) -> None:
        """Process 0 samples; the others wait for it at the next step."""
        with self.meter.paused():
            ema = fetched(self.state.ema)
            if self.leads:
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
        if self.log is not None:
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
        return {
            "stage": stage,
            "text": None if self.text is None else to_dict(self.text.config),
            "embedded": self.data.rows.embedded,
        }

    def _placed(self, batch: Any) -> Any:
        """A batch of this process where the step wants it."""
        return jax.device_put(batch) if self.mesh is None else place_batch(batch, self.mesh)

    def _restored(self, model: Model) -> TrainState:
        """The state to start from, the position of the data and the losses that belong to it."""
        found = self.checkpoints.restore(model.shapes, self._identity(), self.options.resume)
        if found is None:
            if jax.process_index() == 0:
                write_text(self.run / "config.json", self._config_file())
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
