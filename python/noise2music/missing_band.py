r"""The band that a condition lacks, without its envelope: what the small cascaders make.

A cascader is given c at a lower rate, and U c, its up-sampling, is already right in the band that
both rates have. What is missing lies 20 to 70 dB below it, and is covered by the noise that a
small network leaves, some 50 dB below the whole. So a small cascader's diffusion makes

    r = D (x - U c) / g,     and the clip is     x = U c + D^-1 (g r),

where D is an equaliser, the inverse of the mean spectrum S of music in the missing band and zero
below it, and g the level of the equalised condition around each moment:

    g^2 = h * (D_c c)^2 + floor^2,    h a Hann window of 30 ms, D_c the same inverse over c's band.

r has about unit variance whatever the loudness, and noise that is left in it has the shape of
music. The condition is shown to the network equalised and levelled likewise: D_c c / g. All filters
are symmetric, of 32 ms, with taps n = -N .. N of

    d[n] = hann[n] / M  sum_k G(f_k) cos(2 pi k n / M),    f_k = k rate / M, M = 2 N + 1.

The idea is that of `excitation.py`; docs/design/prediction.md has why.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from noise2music.config import StageConfig

CONTEXT = 0.128  # seconds beside a snippet on which its edges depend, the outer half faded
FLOOR = 0.2  # of the level, which is about 1 in music: a cymbal alone is not made 50 times louder
_FILTER = 0.032  # seconds
_WINDOW = 0.03  # seconds
_RAMP = 0.9  # of the condition's Nyquist frequency, from where the equaliser rises

Sound = NDArray[np.float32]
Points = tuple[tuple[float, float], ...]


def levelled(c: Sound, config: StageConfig) -> tuple[Sound, Sound]:
    """c (..., T') at condition_rate -> what the network is shown of it, and g at the target's rate.

    Shapes (..., T') and (..., T' up / down).
    """
    rate = config.condition_rate or 0
    equalised = _filtered(c, _equaliser(config.missing_band, rate, 0.0, -1.0))
    window = scipy.signal.windows.hann(round(_WINDOW * rate) // 2 * 2 + 1)
    power = _filtered(np.square(equalised), window / window.sum())
    level = np.sqrt(np.maximum(power, 0.0) + FLOOR**2)
    up, down = config.up
    place = np.minimum(np.arange(c.shape[-1] * up // down) * (down / up), c.shape[-1] - 1)
    below = np.minimum(place.astype(int), max(c.shape[-1] - 2, 0))
    above = np.minimum(below + 1, c.shape[-1] - 1)
    weight = place - below
    raised = (1.0 - weight) * level[..., below] + weight * level[..., above]
    return (equalised / level).astype(np.float32), raised.astype(np.float32)


def extract(x: Sound, up: Sound, level: Sound, config: StageConfig) -> Sound:
    """x, U c and g (..., T) -> r (..., T)."""
    d = _equaliser(config.missing_band, config.rate, _band_from(config), -1.0)
    return (_filtered(x - up, d) / level).astype(np.float32)


def complete(r: Sound, up: Sound, level: Sound, config: StageConfig) -> Sound:
    """r, U c and g (..., T) -> x (..., T)."""
    d = _equaliser(config.missing_band, config.rate, _band_from(config), 1.0)
    return (up + _filtered(level * r, d)).astype(np.float32)


def snippet(x: Sound, c: Sound, config: StageConfig) -> tuple[Sound, Sound]:
    """A stretch of x (T,) and of c (T',), with context -> its r (T,) and the condition shown (T',).

    The ends are faded, so that U, which sees the stretch as one period, meets no jump there.
    """
    fade = round(CONTEXT / 2 * (config.condition_rate or 0))
    c = c * _faded(len(c), fade)
    x = x * _faded(len(x), fade * config.up[0] // config.up[1])
    shown, level = levelled(c, config)
    up = scipy.signal.resample(c, len(x)).astype(np.float32)
    return extract(x, up, level, config), shown


def _band_from(config: StageConfig) -> float:
    return (config.condition_rate or 0) / 2


@functools.cache
def _equaliser(spectrum: Points, rate: int, band_from: float, sign: float) -> NDArray[np.float64]:
    """Taps whose gain is S^sign, from `band_from` Hz on."""
    half = round(_FILTER / 2 * rate)
    taps = 2 * half + 1
    hz = np.arange(half + 1) * rate / taps
    gain = 10.0 ** (sign * np.interp(hz, *np.transpose(spectrum)) / 20.0)
    if band_from:
        gain *= np.clip((hz / band_from - _RAMP) / (1.0 - _RAMP), 0.0, 1.0)
    response = np.fft.fftshift(np.fft.irfft(gain, taps))
    return response * np.hanning(taps + 2)[1:-1]


def _filtered(x: Any, taps: NDArray[np.float64]) -> NDArray[np.float64]:
    shape = (1,) * (np.ndim(x) - 1) + (-1,)
    return scipy.signal.oaconvolve(x, taps.reshape(shape), mode="full", axes=-1)[
        ..., len(taps) // 2 : len(taps) // 2 + np.shape(x)[-1]
    ]


def _faded(length: int, fade: int) -> NDArray[np.float32]:
    window = np.ones(length, np.float32)
    if fade and length > 2 * fade:
        ramp = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / fade).astype(np.float32) ** 2
        window[:fade], window[-fade:] = ramp, ramp[::-1]
    return window
