r"""A fingerprint of sound that survives gain, noise and cutting: landmarks, then the picture.

Landmarks (after Wang 2003). Of the spectrogram at 8 kHz the rise over 64 ms is taken,

    D(f, t) = max(0, |X(f, t + 1)| - |X(f, t - 1)|),

for where a note begins stays where it is when noise moves the loudest place of a long note. Its
local maxima, but for those 26 dB below the largest within 1.5 s, are peaks; a peak and each of the
six strongest of the next 1.3 s make a landmark (f1, f2, t2 - t1). Two sounds that share landmarks
at one and the same offset may be the same sound.

Picture. Music of one grid and one set of instruments shares landmarks too. So the log-mel pictures
of both are laid over each other at that offset, in windows of 2.5 s. Each picture is cut off 30 dB
below its maximum in the window, for what lies below is noise, and each band's mean over time is
taken away, for instruments share it:

    r = <P, Q> / (|P| |Q|),        a copy where r >= 0.8 in some window.

Gain is a constant in log-mel; noise at 20 dB stays below the cut.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage, signal

from noise2music.audio import resample

Array = np.ndarray

RATE = 8000
WINDOW, HOP = 1024, 256
SECONDS_PER_FRAME = HOP / RATE
BANDS = 32
SPAN = round(2.5 / SECONDS_PER_FRAME)  # frames of a window of the picture
SAME = 0.8
VERSION = 1

_NEAR = (21, 9)  # bins and frames in which a peak is the only one
_FLOOR = 0.05  # of the largest rise within 1.5 s
_FAN, _AHEAD = 6, 40  # landmarks of a peak, and frames to look ahead
_RANGE_DB = 30.0


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """hashes (n,) uint32 and times (n,) int32 in frames; picture (frames, 32) int8 in dB."""

    hashes: Array
    times: Array
    picture: Array


def fingerprint(samples: Array, rate: int) -> Fingerprint:
    """Of mono samples (n,) float32 at any rate. Shorter than 0.13 s has no landmark."""
    x = resample(samples, rate, RATE)
    return _of_8_khz(x)


def shifted_landmarks(samples: Array, rate: int) -> tuple[Array, Array]:
    """(hashes, times) at four quarters of a frame: one of them lies as the other sound's frames."""
    x = resample(samples, rate, RATE)
    quarters = [_of_8_khz(x[k * HOP // 4 :]) for k in range(4)]
    return (
        np.concatenate([q.hashes for q in quarters]),
        np.concatenate([q.times for q in quarters]),
    )


def _of_8_khz(x: Array) -> Fingerprint:
    if x.size < WINDOW:
        x = np.pad(x, (0, WINDOW - x.size))
    frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP]
    magnitude = np.abs(np.fft.rfft(frames * signal.windows.hann(WINDOW, sym=False), axis=1))
    magnitude = magnitude[:, : WINDOW // 2].astype(np.float32)
    hashes, times = _landmarks(magnitude)
    power = np.square(magnitude) @ _mel_bands()
    picture = np.clip(10 * np.log10(power + 1e-12), -127, 127)
    return Fingerprint(hashes, times, np.round(picture).astype(np.int8))


def overlay(p: Array, q: Array, offset: int) -> tuple[float, int, int]:
    """The best r over windows of 2.5 s of picture p laid over q, p's frame 0 at q's frame `offset`.

    Returns: r, and the frames of p between which windows reach `SAME` (0, 0 where none does).
    A common part shorter than that is one window; below 1 s, or without any change, r = 0.
    """
    first, last = max(0, -offset), min(len(p), len(q) - offset)
    if last - first < SPAN // 3:
        return 0.0, 0, 0
    span = min(SPAN, last - first)
    best, begin, end = 0.0, 0, 0
    for a in [*range(first, last - span, span // 10), last - span]:
        r = _correlation(p[a : a + span], q[a + offset : a + offset + span])
        best = max(best, r)
        if r >= SAME:
            begin, end = (a if end == 0 else begin), a + span
    return best, begin, end


def _correlation(p: Array, q: Array) -> float:
    both = []
    for picture in (p, q):
        level = picture.astype(np.float32)
        level = np.maximum(level, level.max() - _RANGE_DB)
        both.append(level - level.mean(axis=0))
    norms = [float(np.sqrt(np.mean(np.square(x)))) for x in both]
    if min(norms) < 1.0:  # dB: nothing happens here that could be recognised
        return 0.0
    return float(np.mean(both[0] * both[1])) / (norms[0] * norms[1])


def _landmarks(magnitude: Array) -> tuple[Array, Array]:
    rise = np.zeros_like(magnitude)
    rise[1:-1] = np.maximum(magnitude[2:] - magnitude[:-2], 0)
    near = ndimage.maximum_filter(rise, size=_NEAR[::-1], mode="constant")
    loud = ndimage.maximum_filter1d(rise.max(axis=1), round(3.0 / SECONDS_PER_FRAME))
    t, f = np.nonzero((rise == near) & (rise > _FLOOR * loud[:, None]) & (rise > 0))
    strength = rise[t, f]
    ends = np.searchsorted(t, t + _AHEAD, side="right")
    begins = np.searchsorted(t, t, side="right")
    first, second = [], []
    for peak in range(t.size):
        ahead = np.arange(begins[peak], ends[peak])
        chosen = ahead[np.argsort(-strength[ahead], kind="stable")[:_FAN]]
        second.append(chosen)
        first.append(np.full(chosen.size, peak))
    if not first:
        return np.zeros(0, np.uint32), np.zeros(0, np.int32)
    i, j = np.concatenate(first), np.concatenate(second)
    hashes = (f[i] << 15) | (f[j] << 6) | (t[j] - t[i])
    return hashes.astype(np.uint32), t[i].astype(np.int32)


def _mel_bands() -> Array:
    """(512, 32): triangles equally wide in mel from 60 Hz to 4 kHz."""
    mel = np.linspace(_mel(60.0), _mel(RATE / 2), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hz = np.arange(WINDOW // 2) * RATE / WINDOW
    up = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down)).astype(np.float32) / WINDOW


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))
