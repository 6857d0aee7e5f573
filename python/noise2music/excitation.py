r"""Audio without its spectral envelope: what the small vocoder learns to make.

The mel spectrogram that a vocoder is given says how loud every frequency is at every moment; only
the fine structure is missing. With E the envelope that the mel spectrogram stands for,

    r = ISTFT(STFT(x) / E(x_mel)),      x = ISTFT(STFT(r) E(x_mel)),

and r, not x, is the target of the diffusion: it has about unit variance in silence as in a tutti,
so the noise of every t is in proportion, and noise itself in the place of r is already heard as the
right rhythm and timbre. The idea is that of SpecGrad (Koizumi et al., 2022), which shapes the noise
where we flatten the audio. E is tilted so that r has equal power in every octave: pitch lives in
the lower ones, half the samples' power would be above 4 kHz. docs/design/prediction.md has why.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music.config import MEL_CHANNELS, MEL_HOP
from noise2music.mel import FLOOR_DB, RATE, WINDOW, mel_filters

_LOWEST_HZ = 50.0  # the tilt stops here
_INAUDIBLE = 2  # bins below 30 Hz: no mel channel hears them, so no gain of theirs is known
_BLOCKS = -(-WINDOW // MEL_HOP)  # hops that a window reaches over


@functools.cache
def _window() -> NDArray[np.float32]:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)


@functools.cache
def _channels_to_bins() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(80, 513) interpolation from channels to bins, and (513,) decibels to add to the result."""
    filters = mel_filters().astype(np.float64)
    bins = np.arange(len(filters))
    area = filters.sum(0)
    centres = (filters * bins[:, None]).sum(0) / area
    interpolate = np.stack([np.interp(bins, centres, row) for row in np.eye(MEL_CHANNELS)])
    window = _window().astype(np.float64)
    # A channel's level for white noise of unit variance: Rayleigh mean, the sum over the triangle.
    noise = np.sqrt(np.pi) / 2 * np.sqrt(np.square(window).sum()) * 2 / window.sum()
    hz = np.maximum(bins * RATE / WINDOW, _LOWEST_HZ)
    tilt = np.sqrt(hz * np.mean(1.0 / hz))  # mean of 1 / tilt^2 is 1: r keeps unit variance
    offset = 20 * np.log10(tilt) - (20 * np.log10(area) @ interpolate) - 20 * np.log10(noise)
    return interpolate.astype(np.float32), offset.astype(np.float32)


def envelope(mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """E: log-mel (..., F, 80) in [-1, 1] -> gain of every bin (..., F, 513), > 0."""
    interpolate, offset = _channels_to_bins()
    db = FLOOR_DB / 2 * (1.0 - np.asarray(mel, np.float32))
    return 10.0 ** ((db @ interpolate + offset) / 20.0)


def flatten(samples: NDArray[np.floating], mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """x -> r: 16 kHz audio (..., 160 F) and its log-mel (..., F, 80) -> excitation (..., 160 F)."""
    return _filtered(samples, 1.0 / envelope(mel))


def shape(excitation: NDArray[np.floating], mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """r -> x, the inverse of `flatten` up to what the windows' overlap smears (about -24 dB)."""
    return _filtered(excitation, envelope(mel))


def _filtered(samples: NDArray[np.floating], gain: NDArray[np.float32]) -> NDArray[np.float32]:
    """A filter that changes from frame to frame: windowed frames (those of `log_mel`), their

    spectra times `gain`, overlap-added with the window again and divided by the sum of its squares.
    """
    x = np.asarray(samples, np.float32)
    n, frames, batch = x.shape[-1], gain.shape[-2], x.shape[:-1]
    if n != frames * MEL_HOP or gain.shape[:-2] != batch:
        raise ValueError(
            f"n2m.excitation: audio must have {MEL_HOP} samples for each of the {frames} mel "
            f"frames, got shapes {x.shape} and {gain.shape[:-1]}"
        )
    window, ends = _window(), (WINDOW - MEL_HOP) // 2
    padded = np.pad(x, [(0, 0)] * len(batch) + [(ends, ends)])
    cut = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=-1)[..., ::MEL_HOP, :]
    spectra = np.fft.rfft(cut * window, axis=-1).astype(np.complex64) * gain
    spectra[..., :_INAUDIBLE] = 0.0
    parts = np.fft.irfft(spectra, WINDOW, axis=-1).astype(np.float32) * window
    out = _overlap_added(parts)[..., ends : ends + n]
    weight = _overlap_added(np.broadcast_to(np.square(window), (frames, WINDOW)))[ends : ends + n]
    return out / weight


def _overlap_added(parts: Any) -> NDArray[np.float32]:
    """(..., F, WINDOW) -> (..., (F + _BLOCKS - 1) MEL_HOP): part i is added at sample i MEL_HOP."""
    batch, frames = parts.shape[:-2], parts.shape[-2]
    parts = np.pad(parts, [(0, 0)] * (parts.ndim - 1) + [(0, _BLOCKS * MEL_HOP - WINDOW)])
    parts = parts.reshape(*batch, frames, _BLOCKS, MEL_HOP)
    out = np.zeros((*batch, frames + _BLOCKS - 1, MEL_HOP), np.float32)
    for j in range(_BLOCKS):
        out[..., j : j + frames, :] += parts[..., j, :]
    return out.reshape(*batch, -1)
