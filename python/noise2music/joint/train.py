"""`noise2music train joint`: the contrastive training of both towers, resumable to the bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from tqdm import tqdm

from noise2music.config import to_dict
from noise2music.joint.features import BINS_A_SEMITONE, FLOOR, Features
from noise2music.joint.options import JointOptions, text_folder
from noise2music.joint.pairs import Pairs
from noise2music.joint.released import TOKENIZER, abstract_modules, save_joint
from noise2music.joint.texts import Texts
from noise2music.joint.towers import JointConfig, Towers, contrastive_loss, pool
from noise2music.text.released import load_text_encoder
from noise2music.text.t5 import T5Encoder
from noise2music.text.tokenizer import Tokenizer, train_tokenizer
from noise2music.train.assemble import save_tokenizer
from noise2music.train.checkpoint import Checkpoints
from noise2music.train.insight import Log
from noise2music.train.loader import open_clips
from noise2music.train.processes import StopSignal, folder
from noise2music.train.step import TrainState

_VALIDATION = 256  # pairs at most: each is told from the others, so their number is in the loss


def train_joint(options: JointOptions, config: JointConfig | None = None) -> dict[str, float]:
    """Trains the towers and exports their averaged weights to `<run>/joint.safetensors`.

    A run found in the folder goes on from its newest whole checkpoint, to the bit as if it had
    never stopped. Returns the last line of the log. Ctrl-C and SIGTERM write a checkpoint.

    Errors: ValueError for a corpus without captions or shorter than a window, or fewer clips than
    batch_size; ForeignRunError for a folder of another run; FloatingPointError for a loss of NaN.
    """
    clips = open_clips(options.corpus)  # before anything is made
    run = Path(options.run).absolute()
    with StopSignal() as stop, folder(run):
        return _Run(run, clips, options, config or JointConfig()).go(stop)


def augment(pitch: Array, key: Array) -> Array:
    """Features.pitch (B, S, P, 4) with a band and some seconds silenced, other ones in each row.

    Up to an octave and up to a fifth of the window (Park et al. 2019).
    """
    batch, seconds, pitches, _ = pitch.shape
    draws = jax.random.uniform(key, (4, batch, 1))

    def block(width: Array, place: Array, most: int, length: int) -> Array:
        width = jnp.floor(width * (most + 1))
        start = jnp.floor(place * (length - width + 1))
        at = jnp.arange(length)[None]
        return (at >= start) & (at < start + width)

    band = block(draws[0], draws[1], 12 * BINS_A_SEMITONE, pitches)[:, None, :, None]
    moment = block(draws[2], draws[3], seconds // 5, seconds)[:, :, None, None]
    return jnp.where(band | moment, jnp.asarray(FLOOR), pitch)


def make_loss(graphs: dict[str, Any]) -> Callable[..., Array]:
    """loss(params, heard, text, key): text is pooled (B, d) of a frozen T5, or (tokens, mask).

    key None: as the towers are used, nothing dropped or augmented.
    """

    def loss(params: Any, heard: Features, text: Any, key: Array | None) -> Array:
        towers: Towers = nnx.merge(graphs["towers"], params["towers"])
        heard = Features(*(column.astype(jnp.float32) for column in heard))
        k_audio = k_text = None
        if key is not None:
            k_mask, k_audio, k_text = jax.random.split(key, 3)
            heard = heard._replace(pitch=augment(heard.pitch, k_mask))
        if "text" in params:
            text = pool(nnx.merge(graphs["text"], params["text"]), *text)
        return contrastive_loss(
            towers.audio(heard, k_audio), towers.text(text, k_text), towers.log_scale[...]
        )

    return loss


def make_optimiser(options: JointOptions) -> optax.GradientTransformation:
    """AdamW after clipping; linear warm-up, cosine to zero at the last step."""
    warmup = min(options.warmup, max(1, options.steps - 1))
    rate = optax.warmup_cosine_decay_schedule(0.0, options.peak_lr, warmup, options.steps)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        optax.adamw(rate, weight_decay=options.weight_decay, mask=matrices),
    )


def make_step(graphs: dict[str, Any], options: JointOptions, tx: Any) -> Any:
    """(state, heard, text) -> (state, metrics), jitted, the state donated."""
    loss_of = make_loss(graphs)

    def step(state: TrainState, heard: Features, text: Any) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        loss, grads = jax.value_and_grad(loss_of)(state.params, heard, text, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(options.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state.ema, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, ema, opt), metrics

    return jax.jit(step, donate_argnums=0)


class _Run:
    """One start of a training run: from a checkpoint or from nothing to the last step."""

    def __init__(self, run: Path, clips: Any, options: JointOptions, config: JointConfig):
        self.run, self.options = run, options
        self.pairs = Pairs(clips, config, run / "features")
        if len(self.pairs) < options.batch_size:
            raise ValueError(
                f"n2m.joint: batch_size must be at most the {len(self.pairs)} clips that have a "
                f"text, got {options.batch_size}"
            )
        self.tokenizer, self.t5, frozen = _text(options, config, self.pairs.texts, run)
        self.config = dataclasses.replace(config, text=self.t5.config)
        self.identity = {
            "stage": "joint",
            "model": to_dict(self.config),
            "frozen": frozen,
            "clips": self.pairs.fingerprint,
            "seed": options.seed,
            "batch_size": options.batch_size,
        }
        self.checkpoints = Checkpoints(run, options.keep)
        self.checkpoints.check(self.identity, options.resume)
        given = self.t5 if frozen else None
        self.texts = Texts(self.pairs.texts, self.tokenizer, self.config.token_length, given)
        graphs: dict[str, Any] = {"towers": nnx.split(abstract_modules(self.config)[0])[0]}
        learnt: dict[str, Any] = {}
        if not frozen:
            graphs["text"], learnt["text"] = nnx.split(self.t5)
        tx = make_optimiser(options)
        self.step = make_step(graphs, options, tx)
        self.loss = jax.jit(lambda p, heard, text: make_loss(graphs)(p, heard, text, None))
        self.held_out = self._held_out(config, given)
        self.losses: list[Any] = []  # since the last line of the log
        self.state = _first_state(self.config, options.seed, learnt, tx)
        self._restore()
        self.start = int(self.state.step)
        self.log = Log(run, self.start)

    def _held_out(self, config: JointConfig, given: T5Encoder | None) -> tuple[Any, Any]:
        """Pairs of the validation split; of the training split where there is no other."""
        pairs, texts = self.pairs, self.texts
        try:
            clips = open_clips(self.options.corpus, "validation")
        except ValueError:
            pass
        else:
            pairs = Pairs(clips, config, self.run / "features")
            texts = Texts(pairs.texts, self.tokenizer, config.token_length, given)
        heard, which = pairs.fixed(_VALIDATION)
        return heard, texts(which)

    def _restore(self) -> None:
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), self.state
        )
        found = self.checkpoints.restore(shapes, self.identity, self.options.resume)
        if found is not None:
            self.state = found.state
            self.losses = [np.float32(v) for v in found.about["losses"]]

    def go(self, stop: StopSignal) -> dict[str, float]:
        options, row = self.options, {}
        stop.begin(options.minutes)
        bar = tqdm(total=options.steps, initial=self.start, desc="joint", unit="step")
        try:
            for done in range(self.start + 1, options.steps + 1):
                heard, which = self.pairs.draw(done - 1, options.batch_size, options.seed)
                self.state, metrics = self.step(self.state, heard, self.texts(which))
                if self.losses:
                    jax.block_until_ready(self.losses[-1])  # one step ahead, not a hundred
                self.losses.append(metrics["loss"])
                bar.update()
                last, stopping = done == options.steps, stop.requested(done)
                if done % options.log_every == 0 or last:
                    row = self._log(done, metrics, last)
                    bar.set_postfix(loss=f"{row['loss']:.3f}")
                if done % options.checkpoint_every == 0 or last or stopping:
                    self._save(done)
                if stopping:
                    break
        finally:
            bar.close()
            self.log.close()
        self.checkpoints.close()
        ema = self.state.ema
        text = ema["text"] if "text" in ema else nnx.split(self.t5)[1]
        save_joint(self.run, self.config, ema["towers"], text, self.tokenizer)
        return row

    def _log(self, done: int, metrics: dict[str, Any], last: bool) -> dict[str, float]:
        row = {"step": float(done), "loss": float(np.mean(self._fetched()))}
        row["grad_norm"] = float(metrics["grad_norm"])
        row["scale"] = float(jnp.exp(self.state.params["towers"]["log_scale"][...]))
        if done % self.options.validate_every == 0 or last:
            row["validation_loss"] = float(self.loss(self.state.ema, *self.held_out))
        self.losses = []
        self.log.write({**row, "step": done, "time": round(time.time(), 1)})
        return row

    def _fetched(self) -> list[Any]:
        """The losses since the last line of the log; FloatingPointError for NaN and Inf."""
        self.losses = [np.asarray(a, np.float32) for a in jax.device_get(self.losses)]
        if not np.isfinite(self.losses).all():
            raise FloatingPointError(
                f"n2m.joint: the loss is not finite at about step {int(self.state.step)}; lower "
                "peak_lr or clip_norm"
            )
        return self.losses

    def _save(self, done: int) -> None:
        """A checkpoint of this moment. The log up to here is on disk before it."""
        if done in self.checkpoints.steps():
            return
        losses = [float(a) for a in self._fetched()]
        self.log.sync()
        about = {"options": dataclasses.asdict(self.options), "losses": losses}
        self.checkpoints.save(done, self.state, {**self.identity, **about})


def _first_state(config: JointConfig, seed: int, learnt: dict[str, Any], tx: Any) -> TrainState:
    """New towers beside what is given to be learnt on, and the optimiser's first state."""

    def first(learnt: dict[str, Any]) -> TrainState:
        towers = nnx.split(Towers(config, rngs=nnx.Rngs(seed)))[1]
        params = {**learnt, "towers": towers}
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, average, tx.init(params))

    once = {"xla_backend_optimization_level": 0}  # it runs a single time
    return jax.jit(first, compiler_options=once)(learnt)


def _text(
    options: JointOptions, config: JointConfig, texts: list[str], run: Path
) -> tuple[Tokenizer, T5Encoder, bool]:
    """(tokenizer, T5, whether it is frozen): given, or both learnt here."""
    given = options.text_encoder or options.text_init
    if given:
        return *load_text_encoder(text_folder(given)), options.text_encoder is not None
    path = run / TOKENIZER
    if not path.exists():
        save_tokenizer(train_tokenizer(texts, config.text.vocab_size), path)
    return Tokenizer.from_file(path), T5Encoder(config.text, rngs=nnx.Rngs(options.seed + 1)), False
