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
import numpy as np
from flax import nnx
from jax import Array

from noise2music.text.t5 import TINY, T5Config

RATE = 16_000
WINDOW, HOP, CHANNELS = 2048, 320, 192  # of the log-mel spectrogram: 128 ms, 20 ms
FRAMES_A_SECOND = RATE // HOP

_LOWEST_HZ, _OCTAVES = 55.0, 7
_BINS_A_SEMITONE = 2
_SEGMENT = FRAMES_A_SECOND // 2  # frames that are summed up as one: half a second
_BANDS = 24  # of the rhythm's onsets
_SLOWEST_HZ, _RHYTHM_OCTAVE, _RHYTHM_BINS = 0.4, 14, 72  # 0.4 to 13.4 events a second
_MAX_LOG_SCALE = math.log(100.0)  # as CLIP and MuLan do: beyond, a single pair fills the loss


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """Sizes of a joint model.

    window: seconds of sound that the audio tower hears at once, a multiple of half a second
    (section 3.5: 10). dim: numbers of an embedding. token_length: tokens of a text that are read.
    pitch_channels, pitch_hidden, rhythm_channels, rhythm_hidden, hidden: widths of the audio tower;
    text_hidden: width of the layer after T5. dropout: share of units dropped in training.
    text: the T5 encoder.

    Errors: ValueError for a size below 1, a window of no whole half seconds, a dropout not in
    [0, 1).
    """

    window: float = 10.0
    dim: int = 128
    token_length: int = 64
    pitch_channels: tuple[int, int, int] = (32, 48, 24)
    pitch_hidden: int = 192
    rhythm_channels: tuple[int, int] = (32, 8)
    rhythm_hidden: int = 128
    hidden: int = 256
    text_hidden: int = 256
    dropout: float = 0.2
    text: T5Config = TINY

    def __post_init__(self) -> None:
        if not self.window >= 0.5 or (2 * self.window) % 1:
            raise ValueError(
                f"n2m.joint: window must be a multiple of 0.5 s and at least that, got "
                f"{self.window}"
            )
        sizes = {n: v for n, v in dataclasses.asdict(self).items() if n not in _NOT_SIZES}
        for name, value in sizes.items():
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"n2m.joint: {name} must be at least 1, got {value}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"n2m.joint: dropout must be in [0, 1), got {self.dropout}")

    @property
    def frames(self) -> int:
        """Frames of the log-mel spectrogram in a window."""
        return round(self.window * FRAMES_A_SECOND)


_NOT_SIZES = ("window", "dropout", "text")


def unit(x: Array) -> Array:
    """x / |x| over the last axis; the zero vector stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


def on_pitch_axis(mel: Array) -> Array:
    """(..., 192 mel channels) -> (..., 168): read at half semitones from 55 Hz, seven octaves.

    Linear between channels. On this axis a transposed sound is a shifted one.
    """
    hz = _LOWEST_HZ * 2.0 ** (np.arange(12 * _OCTAVES * _BINS_A_SEMITONE) / 12 / _BINS_A_SEMITONE)
    to_mel = lambda f: 2595.0 * np.log10(1.0 + f / 700.0)  # noqa: E731
    edges = np.linspace(to_mel(30.0), to_mel(RATE / 2), CHANNELS + 2)  # as mel_filters has them
    place = (to_mel(hz) - edges[1]) / (edges[1] - edges[0])
    below = np.floor(place).astype(int)
    part = jnp.asarray(place - below, mel.dtype)
    return (1.0 - part) * mel[..., below] + part * mel[..., below + 1]


def rises(x: Array) -> Array:
    """max(0, x_t - x_{t-1}) over frames, axis 1; the first is 0: where sounds begin."""
    return jnp.pad(jax.nn.relu(x[:, 1:] - x[:, :-1]), ((0, 0), (1, 0), (0, 0)))


def onset_spectrum(mel: Array) -> Array:
    """(B, F, 192) log-mel -> (B, 72, 24): how regularly the 24 bands begin anew, at 72 rates.

    |sum_t w_t o_t exp(-2 pi i f_k t)| / |w o| with o the rises of a band less their mean, w Hann's
    window and f_k = 0.4 Hz 2^{k / 14}.
    """
    batch, frames, channels = mel.shape
    x = rises(mel.reshape(batch, frames, _BANDS, channels // _BANDS).mean(-1))
    x = (x - x.mean(1, keepdims=True)) * np.hanning(frames).astype(np.float32)[:, None]
    hz = _SLOWEST_HZ * 2.0 ** (np.arange(_RHYTHM_BINS) / _RHYTHM_OCTAVE)
    angle = 2.0 * np.pi * np.outer(np.arange(frames) / FRAMES_A_SECOND, hz)
    power = jnp.square(jnp.einsum("bfc,fk->bkc", x, np.cos(angle).astype(np.float32)))
    power += jnp.square(jnp.einsum("bfc,fk->bkc", x, np.sin(angle).astype(np.float32)))
    norm = jnp.sum(jnp.square(x), 1, keepdims=True)
    return jnp.sqrt((power + 1e-6) / (norm + 1e-3))


class PitchBranch(nnx.Module):
    """What sounds: (B, F, 192) log-mel -> (B, pitch_hidden).

    Every half second is summed up as mean, maximum, minimum and rise of each half semitone;
    convolutions along the pitch axis find partials and chords wherever they lie; their mean and
    maximum over the window are read as they are (register, timbre) and with the octaves folded
    (key).
    """

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        first, second, narrow = config.pitch_channels
        self.partials = nnx.Conv(4, first, (9,), rngs=rngs)
        self.chords = nnx.Conv(first, second, (5,), strides=_BINS_A_SEMITONE, rngs=rngs)
        self.norm = nnx.LayerNorm(second, rngs=rngs)
        self.narrow = nnx.Linear(2 * second, narrow, rngs=rngs)
        self.out = nnx.Linear((12 * _OCTAVES + 12) * narrow, config.pitch_hidden, rngs=rngs)

    def __call__(self, mel: Array) -> Array:
        x = on_pitch_axis(mel)
        batch, _, pitches = x.shape
        parts = x.reshape(batch, -1, _SEGMENT, pitches)
        rise = rises(x).reshape(parts.shape).mean(2)
        h = jnp.stack([parts.mean(2), parts.max(2), parts.min(2), 4.0 * rise], -1)
        h = h.reshape(-1, pitches, 4)
        h = jax.nn.gelu(self.partials(h))
        h = jax.nn.gelu(self.norm(self.chords(h)))
        h = h.reshape(batch, -1, *h.shape[1:])
        h = jax.nn.gelu(self.narrow(jnp.concatenate([h.mean(1), h.max(1)], -1)))
        folded = h.reshape(batch, _OCTAVES, -1).mean(1)
        return jax.nn.gelu(self.out(jnp.concatenate([h.reshape(batch, -1), folded], -1)))


class RhythmBranch(nnx.Module):
    """When it sounds: (B, F, 192) log-mel -> (B, rhythm_hidden).

    A convolution two octaves wide along the rates of `onset_spectrum` tells the beat from its
    multiples, whatever the tempo.
    """

    def __init__(self, config: JointConfig, *, rngs: nnx.Rngs):
        wide, narrow = config.rhythm_channels
        self.multiples = nnx.Conv(_BANDS, wide, (2 * _RHYTHM_OCTAVE + 1,), rngs=rngs)
        self.narrow = nnx.Linear(wide, narrow, rngs=rngs)
        self.out = nnx.Linear(_RHYTHM_BINS * narrow, config.rhythm_hidden, rngs=rngs)

    def __call__(self, mel: Array) -> Array:
        h = jax.nn.gelu(self.multiples(onset_spectrum(mel)))
        h = jax.nn.gelu(self.narrow(h))
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

    def __call__(self, mel: Array, key: Array | None = None) -> Array:
        """Log-mel windows (B, F, 192) in [-1, 1] -> (B, dim), rows of norm 1.

        key: of the units to drop, in training; None drops none.
        """
        h = self.norm(jnp.concatenate([self.pitch(mel), self.rhythm(mel)], -1))
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
    """L of the module's docstring for unit rows (B, dim) and (B, dim), pair i in row i: a scalar."""
    s = jnp.exp(jnp.minimum(log_scale, _MAX_LOG_SCALE)) * (audio @ text.T)
    own = jnp.diagonal(s)
    sound_finds_text = own - jax.nn.logsumexp(s, axis=1)
    text_finds_sound = own - jax.nn.logsumexp(s, axis=0)
    return -0.5 * jnp.mean(sound_finds_text + text_finds_sound)
