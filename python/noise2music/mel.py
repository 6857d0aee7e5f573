r"""The log-mel spectrogram of section 3.3.2.

80 channels, 10 ms stride, 16 kHz audio, normalised to [-1, 1]:

    m = 20 log10(max(W |STFT(x)|, 10^{-4})),  x_mel = 1 + m / 40

(so -80 dB -> -1, 0 dB -> 1; a full-scale sine in the middle of a channel is about 0 dB). Window
64 ms Hann, frame i centred on sample 160 i + 80, so n samples give exactly n / 160 frames.
W: triangles of height 1, evenly spaced on the mel scale 2595 log10(1 + f / 700), 30 Hz-8 kHz.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from noise2music.config import MEL_CHANNELS, MEL_HOP

RATE, WINDOW = 16_000, 1024
FLOOR_DB = -80.0


@functools.cache
def mel_filters(window: int = WINDOW, channels: int = MEL_CHANNELS) -> NDArray[np.float32]:
    """W (window / 2 + 1, channels), triangles of height 1."""
    to_mel = lambda f: 2595.0 * np.log10(1.0 + f / 700.0)  # noqa: E731
    edges = np.linspace(to_mel(30.0), to_mel(RATE / 2), channels + 2)
    hz = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    # No channel is narrower than one bin of the FFT, or it would hear nothing.
    width = np.maximum(np.diff(hz), RATE / window)
    bins = np.arange(window // 2 + 1) * RATE / window
    rise = 1.0 - (hz[1:-1] - bins[:, None]) / width[:-1]
    fall = 1.0 - (bins[:, None] - hz[1:-1]) / width[1:]
    return np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32)


@functools.cache
def _triangles(window: int, channels: int) -> list[tuple[slice, NDArray[np.float32]]]:
    """The bins of each channel, those that are not zero in W, and their weights."""
    filters = mel_filters(window, channels)
    heard = [np.flatnonzero(column) for column in filters.T]
    spans = [slice(int(k[0]), int(k[-1]) + 1) for k in heard]
    return [(k, filters[k, c].copy()) for c, k in enumerate(spans)]


def log_mel(
    samples: NDArray[np.floating],
    *,
    window: int = WINDOW,
    hop: int = MEL_HOP,
    channels: int = MEL_CHANNELS,
) -> NDArray[np.float32]:
    """16 kHz audio (..., n) in [-1, 1], n a multiple of hop -> (..., n / hop, channels) in [-1, 1].

    The defaults are those of section 3.3.2; frame i is centred on sample hop (i + 1/2).
    """
    x = np.asarray(samples, np.float32)
    n = x.shape[-1]
    if n == 0 or n % hop:
        raise ValueError(f"n2m.mel: the length must be a positive multiple of {hop}, got {n}")
    pad = (window - hop) // 2
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(pad, pad)])
    frames = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)[..., ::hop, :]
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    amplitude = np.abs(np.fft.rfft(frames * hann, axis=-1)).astype(np.float32) * (2.0 / hann.sum())
    # Channel by channel and not as one product: BLAS sums in an order that depends on its threads.
    mel = np.stack(
        [np.einsum("...k,k->...", amplitude[..., k], w) for k, w in _triangles(window, channels)],
        axis=-1,
    )
    db = 20.0 * np.log10(np.maximum(mel, 10.0 ** (FLOOR_DB / 20.0)))
    return np.clip(1.0 - 2.0 * db / FLOOR_DB, -1.0, 1.0).astype(np.float32)


def low_pass_in_time(mel: NDArray[np.floating], order: int) -> NDArray[np.float32]:
    """y_i = 2^{-n} sum_j C(n, j) x_{i + j - n/2}: a binomial low-pass, n even.

    (B, F, C) -> (B, F, C) float32, edges repeated. Its gain at f Hz is cos^n(pi f / 100): with
    n = 4 it is -3 dB at 13 Hz and nothing at 50 Hz, where a 64 ms window lets nothing through.
    """
    taps = np.array([math.comb(order, j) for j in range(order + 1)], np.float32) / 2.0**order
    x = np.asarray(mel, np.float32)
    half = order // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)), mode="edge")
    return sum(w * padded[:, j : j + x.shape[1]] for j, w in enumerate(taps)).astype(np.float32)
