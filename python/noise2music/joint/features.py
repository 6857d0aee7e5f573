"""What the audio tower is given of a window of sound: its log-mel spectrogram, summed up.

No part of this learns, so a training computes it once a clip. Pure numpy: the same window gives
the same bits wherever it is heard.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from noise2music.mel import log_mel

RATE = 16_000
WINDOW, HOP, CHANNELS = 2048, 320, 192  # of the log-mel spectrogram: 128 ms, 20 ms
FRAMES_A_SECOND = RATE // HOP

LOWEST_HZ, OCTAVES, BINS_A_SEMITONE = 55.0, 7, 2
PITCHES = 12 * OCTAVES * BINS_A_SEMITONE
BANDS = 24  # of the rhythm's onsets
SLOWEST_HZ, RHYTHM_OCTAVE, RHYTHM_BINS = 0.4, 14, 72  # 0.4 to 13.4 events a second
FLOOR = (-1.0, -1.0, -1.0, 0.0)  # the four summaries of silence

Array = NDArray[Any]


class Features(NamedTuple):
    """pitch (..., seconds, 168, 4) and rhythm (..., 72, 24) of windows of sound."""

    pitch: Any
    rhythm: Any


def features(samples: Array) -> Features:
    """16 kHz sound (n,) in [-1, 1], n a whole number of seconds -> its Features, float32.

    pitch: of each second and half semitone the mean, maximum and minimum of the log-mel
    spectrogram and four times its mean rise. rhythm: `onset_spectrum`.
    """
    if samples.ndim != 1 or samples.size == 0 or samples.size % RATE:
        raise ValueError(
            f"n2m.joint: samples must be (n,), n a multiple of {RATE}, got {samples.shape}"
        )
    mel = log_mel(samples, window=WINDOW, hop=HOP, channels=CHANNELS)
    x = on_pitch_axis(mel)
    parts, rise = (a.reshape(-1, FRAMES_A_SECOND, PITCHES) for a in (x, rises(x)))
    pitch = np.stack([parts.mean(1), parts.max(1), parts.min(1), 4.0 * rise.mean(1)], -1)
    return Features(pitch.astype(np.float32), onset_spectrum(mel))


def on_pitch_axis(mel: Array) -> Array:
    """(..., 192 mel channels) -> (..., 168): read at half semitones from 55 Hz, seven octaves.

    Linear between channels. On this axis a transposed sound is a shifted one.
    """
    hz = LOWEST_HZ * 2.0 ** (np.arange(PITCHES) / 12 / BINS_A_SEMITONE)
    to_mel = lambda f: 2595.0 * np.log10(1.0 + f / 700.0)  # noqa: E731
    edges = np.linspace(to_mel(30.0), to_mel(RATE / 2), CHANNELS + 2)  # as mel_filters has them
    place = (to_mel(hz) - edges[1]) / (edges[1] - edges[0])
    below = np.floor(place).astype(int)
    part = (place - below).astype(np.float32)
    return (1.0 - part) * mel[..., below] + part * mel[..., below + 1]


def rises(x: Array) -> Array:
    """max(0, x_t - x_{t-1}) over frames, axis 0; the first is 0: where sounds begin."""
    return np.maximum(np.diff(x, axis=0, prepend=x[:1]), 0.0)


def onset_spectrum(mel: Array) -> Array:
    """(F, 192) log-mel -> (72, 24): how regularly the 24 bands begin anew, at 72 rates.

    |sum_t w_t o_t exp(-2 pi i f_k t)| / |w o| with o the rises of a band less their mean, w Hann's
    window and f_k = 0.4 Hz 2^{k / 14}.
    """
    onsets = rises(mel.reshape(len(mel), BANDS, -1).mean(-1)).astype(np.float64)
    onsets = (onsets - onsets.mean(0)) * np.hanning(len(mel))[:, None]
    hz = SLOWEST_HZ * 2.0 ** (np.arange(RHYTHM_BINS) / RHYTHM_OCTAVE)
    turns = np.exp(-2j * np.pi * np.outer(hz, np.arange(len(mel)) / FRAMES_A_SECOND))
    power = np.square(np.abs(turns @ onsets))
    spectrum: Array = np.sqrt((power + 1e-6) / (np.square(onsets).sum(0) + 1e-3))
    return spectrum.astype(np.float32)
