r"""The two towers of the joint embedding, and the loss that trains them.

After MuLan (section 3.5; Huang et al. 2022, arXiv:2208.12415): a tower for sound, f, and one for
text, g, end on the same unit sphere, where the cosine tells how well they fit.

    a_i = f(x_i) / |f(x_i)|,   b_i = g(y_i) / |g(y_i)|,   s_ij = exp(tau) <a_i, b_j>
    L = -1/(2 B) sum_i [log softmax_j(s_ij)_i + log softmax_j(s_ji)_i]

over a batch of B pairs; exp(tau), the inverse temperature, is learnt. MuLan's towers are a
ResNet-50 or a spectrogram transformer and BERT; ours are small enough for one processor core, so
that f has built in what it could not learn from a few thousand clips (docs/design/joint.md).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from noise2music.joint.features import (
    BANDS,
    BINS_A_SEMITONE,
    FLOOR,
    OCTAVES,
    RHYTHM_BINS,
    RHYTHM_OCTAVE,
    Features,
)
from noise2music.text.t5 import TINY, T5Config

_MAX_LOG_SCALE = math.log(100.0)  # as CLIP and MuLan do: beyond, a single pair fills the loss


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """Sizes of a joint model.

    window: whole seconds of sound that the audio tower hears at once (section 3.5: 10). dim:
    numbers of an embedding. token_length: tokens of a text that are read. pitch_channels,
    pitch_hidden, rhythm_channels, rhythm_hidden, hidden: widths of the audio tower; text_hidden:
    width of the layer after T5. dropout: share of units dropped in training. text: the T5 encoder.

    Errors: ValueError for a size below 1, a dropout not in [0, 1).
    """

    window: int = 10
    dim: int = 128
    token_length: int = 64
    pitch_channels: tuple[int, int, int] = (24, 40, 24)
    pitch_hidden: int = 192
    rhythm_channels: tuple[int, int] = (32, 8)
    rhythm_hidden: int = 128
    hidden: int = 256
    text_hidden: int = 256
    dropout: float = 0.3
    text: T5Config = TINY

    def __post_init__(self) -> None:
        sizes = {n: v for n, v in dataclasses.asdict(self).items() if n not in _NOT_SIZES}
        for name, value in sizes.items():
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"n2m.joint: {name} must be at least 1, got {value}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"n2m.joint: dropout must be in [0, 1), got {self.dropout}")


_NOT_SIZES = ("dropout", "text")


def unit(x: Array) -> Array:
    """x / |x| over the last axis; the zero vector stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


class PitchBranch(nnx.Module):
    """What sounds: Features.pitch (B, seconds, 168, 4) -> (B, pitch_hidden).

    Convolutions along the pitch axis find partials and chords wherever they lie; their mean and
    maximum over the window are read as they are (register, timbre) and with the octaves folded
    (key).
    """

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        first, second, narrow = config.pitch_channels
        self.partials = nnx.Conv(len(FLOOR), first, (9,), rngs=rngs)
        self.chords = nnx.Conv(first, second, (5,), strides=BINS_A_SEMITONE, rngs=rngs)
        self.norm = nnx.LayerNorm(second, rngs=rngs)
        self.narrow = nnx.Linear(2 * second, narrow, rngs=rngs)
        self.out = nnx.Linear(12 * (OCTAVES + 1) * narrow, config.pitch_hidden, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch = len(x)
        h = x.reshape(-1, *x.shape[2:])
        h = jax.nn.gelu(self.partials(h))
        h = jax.nn.gelu(self.norm(self.chords(h)))
        h = h.reshape(batch, -1, *h.shape[1:])
        h = jax.nn.gelu(self.narrow(jnp.concatenate([h.mean(1), h.max(1)], -1)))
        folded = h.reshape(batch, OCTAVES, -1).mean(1)
        return jax.nn.gelu(self.out(jnp.concatenate([h.reshape(batch, -1), folded], -1)))


class RhythmBranch(nnx.Module):
    """When it sounds: Features.rhythm (B, 72, 24) -> (B, rhythm_hidden).

    A convolution two octaves wide along the rates tells the beat from its multiples, whatever the
    tempo.
    """

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        wide, narrow = config.rhythm_channels
        self.multiples = nnx.Conv(BANDS, wide, (2 * RHYTHM_OCTAVE + 1,), rngs=rngs)
        self.narrow = nnx.Linear(wide, narrow, rngs=rngs)
        self.out = nnx.Linear(RHYTHM_BINS * narrow, config.rhythm_hidden, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = jax.nn.gelu(self.narrow(jax.nn.gelu(self.multiples(x))))
        return jax.nn.gelu(self.out(h.reshape(len(h), -1)))


class AudioTower(nnx.Module):
    """f / |f|: both branches, one hidden layer, the unit sphere."""

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.pitch = PitchBranch(config, rngs=rngs)
        self.rhythm = RhythmBranch(config, rngs=rngs)
        both = config.pitch_hidden + config.rhythm_hidden
        self.norm = nnx.LayerNorm(both, rngs=rngs)
        self.hidden = nnx.Linear(both, config.hidden, rngs=rngs)
        self.out = nnx.Linear(config.hidden, config.dim, rngs=rngs)

    def __call__(self, heard: Features, key: Array | None = None) -> Array:
        """Features of B windows -> (B, dim), rows of norm 1.

        key: of the units to drop, in training; None drops none.
        """
        h = self.norm(jnp.concatenate([self.pitch(heard.pitch), self.rhythm(heard.rhythm)], -1))
        keys = [None, None] if key is None else jax.random.split(key)
        h = jax.nn.gelu(self.hidden(drop(h, self.dropout, keys[0])))
        return unit(self.out(drop(h, self.dropout, keys[1])))


class Towers(nnx.Module):
    """What a joint model learns beside T5: the audio tower, the text's last layers, the scale."""

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.audio = AudioTower(config, rngs=rngs)
        self.text_hidden = nnx.Linear(config.text.d_model, config.text_hidden, rngs=rngs)
        self.text_out = nnx.Linear(config.text_hidden, config.dim, rngs=rngs)
        self.log_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))

    def text(self, pooled: Array, key: Array | None = None) -> Array:
        """g / |g| of pooled texts (B, d_model) -> (B, dim), rows of norm 1."""
        h = drop(jax.nn.gelu(self.text_hidden(pooled)), self.dropout, key)
        return unit(self.text_out(h))


def pool(t5: Any, tokens: Array, mask: Array) -> Array:
    """The mean of T5's vectors over a text's tokens: (B, L), (B, L) -> (B, d_model) float32."""
    h = t5(tokens, mask).astype(jnp.float32)
    return h.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


def drop(x: Array, share: float, key: Array | None) -> Array:
    """Dropout: each number is zero with probability `share`, else over 1 - share."""
    if key is None or share == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, share, x.shape), 0.0, x / (1.0 - share))


def contrastive_loss(audio: Array, text: Array, log_scale: Array) -> Array:
    """L of the module's docstring for unit rows (B, dim), (B, dim), pair i in row i: a scalar."""
    s = jnp.exp(jnp.minimum(log_scale, _MAX_LOG_SCALE)) * (audio @ text.T)
    own = jnp.diagonal(s)
    sound_finds_text = own - jax.nn.logsumexp(s, axis=1)
    text_finds_sound = own - jax.nn.logsumexp(s, axis=0)
    return -0.5 * jnp.mean(sound_finds_text + text_finds_sound)
