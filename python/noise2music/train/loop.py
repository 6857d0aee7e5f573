"""`noise2music train <stage>`: the loop, its checkpoints and its log."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tqdm import tqdm

from noise2music import weights
from noise2music.config import StageConfig, load_preset, to_dict
from noise2music.text.released import load_text_encoder, save_text_encoder
from noise2music.text.t5 import TINY, T5Encoder
from noise2music.text.tokenizer import Tokenizer, train_tokenizer
from noise2music.train.dataset import Batches, Corpus
from noise2music.train.step import TrainState, make_step, make_validation
from noise2music.unet1d import UNet1D


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of one training run. Defaults of the optimiser are the paper's (section 4.1).

    corpus: folder of `noise2music data corpus`. run: folder for checkpoints, log and export; a run
    found there is resumed. preset: "tiny_<stage>" unless given. text_encoder: an exported model
    folder whose text encoder is used, frozen; without one, a small T5 is trained with the model,
    from `text_init` (of `train text_encoder`) or from nothing. init: a folder with weights of the
    stage to start from. minutes: stop, resumably, after that long.
    """

    corpus: str
    run: str
    preset: str | None = None
    steps: int = 2_500_000
    batch_size: int = 16
    peak_lr: float = 1e-4
    warmup: int = 10_000
    lr_end_step: int = 2_500_000
    ema_decay: float = 0.9999
    text_dropout: float = 0.1
    clip_norm: float | None = None
    seed: int = 0
    text_encoder: str | None = None
    text_init: str | None = None
    init: str | None = None
    log_every: int = 50
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    minutes: float | None = None
    implementation: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr_end_step", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"n2m.train: {name} must be at least 1, got {getattr(self, name)}")
        if not (math.isfinite(self.peak_lr) and self.peak_lr > 0):
            raise ValueError(f"n2m.train: peak_lr must be positive, got {self.peak_lr}")
        if not 0.0 <= self.text_dropout <= 1.0:
            raise ValueError(f"n2m.train: text_dropout must be in [0, 1], got {self.text_dropout}")


def optimiser(options: TrainOptions) -> optax.GradientTransformation:
    """Adam (0.9, 0.999), linear warm-up, cosine to zero at lr_end_step."""
    warmup = min(options.warmup, max(1, options.lr_end_step - 1))
    rate = optax.warmup_cosine_decay_schedule(0.0, options.peak_lr, warmup, options.lr_end_step)
    adam = optax.adam(rate, b1=0.9, b2=0.999)
    return (
        adam
        if options.clip_norm is None
        else optax.chain(optax.clip_by_global_norm(options.clip_norm), adam)
    )


def train(stage: str, options: TrainOptions, config: StageConfig | None = None) -> dict[str, float]:
    """Trains one stage and exports its EMA weights to `<run>/<stage>.safetensors`.

    Returns the last metrics.
    """
    run = Path(options.run).absolute()
    if config is None:
        config = load_preset(options.preset or f"tiny_{stage}")
    if config.name != stage:
        raise ValueError(f"n2m.train: the config must be of stage {stage!r}, got {config.name!r}")
    corpus = Corpus(options.corpus)
    run.mkdir(parents=True, exist_ok=True)  # after all that a mistyped option can stop
    tokenizer, text = _text(config, options, corpus, run)
    batches = Batches(corpus, config, tokenizer, options.batch_size, options.seed)
    validation = _validation_batches(options, config, tokenizer)

    unet = UNet1D(config.unet, rngs=nnx.Rngs(options.seed), implementation=options.implementation)
    graphs, params = {}, {}
    graphs["unet"], params["unet"] = nnx.split(unet)
    if text is not None:
        graphs["text"], params["text"] = nnx.split(text)
    if options.init:
        source = Path(options.init)
        params["unet"] = weights.load_state(source / f"{stage}.safetensors", params["unet"])
    tx = _freeze_text(optimiser(options), params) if options.text_encoder else optimiser(options)
    state = TrainState(
        jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), tx.init(params)
    )
    step_fn = make_step(graphs, config, options, tx)
    validate = make_validation(graphs, config, options)

    manager = ocp.CheckpointManager(
        run / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=options.keep)
    )
    (run / "config.json").write_text(json.dumps(to_dict(config), indent=1))
    if manager.latest_step() is not None:
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(target))

    stop = _StopSignal()
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    metrics: dict[str, float] = {}
    start = int(state.step)
    bar = tqdm(
        range(start, options.steps), initial=start, total=options.steps, desc=stage, unit="step"
    )
    losses = []
    with (run / "log.jsonl").open("a") as log:
        for n in bar:
            state, m = step_fn(state, jax.tree.map(jnp.asarray, batches.batch(n)))
            losses.append(m["loss"])
            done = n + 1
            last = done == options.steps or stop.requested or time.monotonic() > deadline
            if done % options.log_every == 0 or last:
                metrics = {"step": done, "loss": float(np.mean(jax.device_get(losses)))}
                metrics["grad_norm"] = float(m["grad_norm"])
                losses = []
                if not math.isfinite(metrics["loss"]):
                    raise FloatingPointError(
                        f"n2m.train: the loss of {stage} is {metrics['loss']} at step {done}; "
                        "lower peak_lr or set clip_norm"
                    )
                if done % options.validate_every == 0 or last:
                    metrics["validation_loss"] = float(
                        np.mean(
                            [float(validate(state.ema, b, i)) for i, b in enumerate(validation)]
                        )
                    )
                bar.set_postfix({k: f"{v:.4g}" for k, v in metrics.items() if k != "step"})
                log.write(json.dumps({**metrics, "time": round(time.time(), 1)}) + "\n")
                log.flush()
            if done % options.checkpoint_every == 0 or last:
                manager.save(done, args=ocp.args.StandardSave(state))
                export(run, config, state.ema, tokenizer)  # so that a running training can be heard
            if last:
                break
    manager.wait_until_finished()
    manager.close()
    stop.restore()
    return metrics


def export(run: Path, config: StageConfig, ema: Any, tokenizer: Tokenizer | None) -> None:
    """EMA weights as float16 safetensors with the config inside; the text encoder beside them."""
    weights.save_state(run / f"{config.name}.safetensors", ema["unet"], to_dict(config))
    if tokenizer is not None and "text" in ema:
        save_text_encoder(run, ema["text"], TINY, tokenizer)


def _text(config: StageConfig, options: TrainOptions, corpus: Corpus, run: Path) -> tuple[Any, Any]:
    """(tokenizer, encoder) of a stage with text: given and frozen, or trained with it."""
    if not config.unet.has_text:
        return None, None
    if options.text_encoder or options.text_init:
        return load_text_encoder(Path(options.text_encoder or options.text_init or ""))
    path = run / "tokenizer.json"
    if path.exists():
        tokenizer = Tokenizer.from_file(path)
    else:
        tokenizer = train_tokenizer(
            [c for r in corpus.rows for c in r["captions"]], TINY.vocab_size
        )
        tokenizer.save(path)
    return tokenizer, T5Encoder(TINY, rngs=nnx.Rngs(options.seed + 1))


def _freeze_text(tx: optax.GradientTransformation, params: Any) -> optax.GradientTransformation:
    labels = {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}
    return optax.multi_transform({"unet": tx, "text": optax.set_to_zero()}, labels)


def _validation_batches(
    options: TrainOptions, config: StageConfig, tokenizer: Any
) -> list[dict[str, Any]]:
    """Four fixed batches of the validation split; of the training split where there is no other."""
    try:
        corpus = Corpus(options.corpus, "validation")
    except ValueError:
        corpus = Corpus(options.corpus)
    batches = Batches(corpus, config, tokenizer, options.batch_size, options.seed + 1)
    return [batches.batch(i) for i in range(4)]


class _StopSignal:
    """SIGTERM or Ctrl-C once: finish the step, write a checkpoint, leave.

    A second Ctrl-C leaves at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._old = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: the caller keeps its own handling
                pass

    def _request(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
