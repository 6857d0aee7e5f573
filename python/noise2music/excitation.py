r"""Audio without its spectral envelope: what the small vocoder learns to make, and the way back.

The mel spectrogram that a vocoder is given says how loud every frequency is at every moment; what
is missing is the fine structure, above all the phases. So the small vocoder's diffusion makes

    r = ISTFT(STFT(x) / E(x_mel))

and not x: r has about unit variance in silence as in a tutti, so the noise of every t is in
proportion. E is a smooth envelope, tilted so that r has equal power in every octave (pitch lives
in the lower ones). The idea is that of SpecGrad (Koizumi et al., 2022), which shapes the noise
where we flatten the audio. On the way back r gives the phases, the mel spectrogram the magnitudes,

    X = S(x_mel) STFT(r) / |STFT(r)|,

made consistent by a few rounds of the fast Griffin-Lim algorithm (Perraudin et al., 2013), where S
solves W S = x_mel, S >= 0, least in Kullback-Leibler divergence (Lee & Seung, 2001).
docs/design/prediction.md has why.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music.config import MEL_CHANNELS, MEL_HOP
from noise2music.mel import FLOOR_DB, RATE, WINDOW, mel_filters

ROUNDS = 16  # of Griffin-Lim; 48 bring the mel spectrogram only 0.1 dB nearer
MOMENTUM = 0.99
_UPDATES = 10  # of S; the mel spectrogram of more is no nearer
_INAUDIBLE = 2  # bins below 30 Hz: no mel channel hears them, so nothing is known of them
_LOWEST_HZ = 50.0  # the tilt stops here
_BLOCKS = -(-WINDOW // MEL_HOP)  # hops that a window reaches over
_ENDS = (WINDOW - MEL_HOP) // 2  # samples by which the outer frames overhang


@functools.cache
def _window() -> NDArray[np.float32]:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)


@functools.cache
def _channels_to_bins() -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """For each of 513 bins: the channel c below it, the weight of c + 1, and decibels to add."""
    filters = mel_filters().astype(np.float64)
    bins = np.arange(len(filters))
    area = filters.sum(0)
    centres = (filters * bins[:, None]).sum(0) / area
    position = np.interp(bins, centres, np.arange(MEL_CHANNELS))
    below = np.minimum(position.astype(int), MEL_CHANNELS - 2)
    weight = position - below
    window = _window().astype(np.float64)
    # A channel's level for white noise of unit variance: Rayleigh mean, the sum over the triangle.
    noise = np.sqrt(np.pi) / 2 * np.sqrt(np.square(window).sum()) * 2 / window.sum()
    hz = np.maximum(bins * RATE / WINDOW, _LOWEST_HZ)
    tilt = np.sqrt(hz * np.mean(1.0 / hz))  # mean of 1 / tilt^2 is 1: r keeps unit variance
    area_db = 20 * np.log10(area)
    area_db = (1 - weight) * area_db[below] + weight * area_db[below + 1]
    offset = 20 * np.log10(tilt) - area_db - 20 * np.log10(noise)
    return below, weight.astype(np.float32), offset.astype(np.float32)


def envelope(mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """E: log-mel (..., F, 80) in [-1, 1] -> smooth gain of every bin (..., F, 513), > 0."""
    # Two channels a bin, and no matrix product: a small one of BLAS waits for its other threads,
    # which are busy while a network trains.
    below, weight, offset = _channels_to_bins()
    db = _decibels(mel)
    db = (1 - weight) * db[..., below] + weight * db[..., below + 1]
    return 10.0 ** ((db + offset) / 20.0)


def magnitudes(mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """S: log-mel (..., F, 80) in [-1, 1] -> |STFT| of every bin (..., F, 513), >= 0.

    S <- S (W (x / W^T S)) / sum_c W, from the channels' levels spread over their triangles: peaks
    that several channels share grow sharp, which is where pitch is.
    """
    filters = mel_filters()
    reach = np.maximum(filters.sum(1), 1e-3)
    floor = 10.0 ** (FLOOR_DB / 20.0)  # what is at the floor is silence
    wanted = np.maximum(10.0 ** (_decibels(mel) / 20.0) - floor, 1e-8).astype(np.float32)
    s = np.maximum((wanted / filters.sum(0)) @ filters.T / np.maximum(reach, 0.3), 1e-10)
    for _ in range(_UPDATES):
        s *= (wanted / np.maximum(s @ filters, 1e-12)) @ filters.T / reach
    return s * (_window().sum() / 2.0)


def flatten(samples: NDArray[np.floating], mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """x -> r: 16 kHz audio (..., 160 F) and its log-mel (..., F, 80) -> excitation (..., 160 F)."""
    spectra = _stft(_checked(samples, mel)) / envelope(mel)
    spectra[..., :_INAUDIBLE] = 0.0
    return _istft(spectra)


def shape(excitation: NDArray[np.floating], mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """r -> x: excitation (..., 160 F) and log-mel (..., F, 80) -> 16 kHz audio (..., 160 F)."""
    wanted = magnitudes(mel)
    estimate = _stft(_checked(excitation, mel))
    previous: Any = None
    for _ in range(ROUNDS):
        consistent = _stft(_istft(_with_magnitudes(wanted, estimate)))
        step = 0.0 if previous is None else MOMENTUM * (consistent - previous)
        estimate, previous = consistent + step, consistent
    return _istft(_with_magnitudes(wanted, estimate))


def _decibels(mel: NDArray[np.floating]) -> NDArray[np.float32]:
    return FLOOR_DB / 2 * (1.0 - np.asarray(mel, np.float32))


def _with_magnitudes(s: NDArray[np.float32], x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    return (s * x / np.maximum(np.abs(x), 1e-9)).astype(np.complex64, copy=False)


def _checked(samples: NDArray[np.floating], mel: NDArray[np.floating]) -> NDArray[np.float32]:
    x = np.asarray(samples, np.float32)
    if x.shape[-1] != mel.shape[-2] * MEL_HOP or x.shape[:-1] != mel.shape[:-2]:
        raise ValueError(
            f"n2m.excitation: audio must have {MEL_HOP} samples for each of the {mel.shape[-2]} "
            f"mel frames, got shapes {x.shape} and {mel.shape}"
        )
    return x


def _stft(x: NDArray[np.float32]) -> NDArray[np.complex64]:
    """(..., 160 F) -> (..., F, 513): the frames of `log_mel`."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(_ENDS, _ENDS)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=-1)[..., ::MEL_HOP, :]
    return np.fft.rfft(frames * _window(), axis=-1).astype(np.complex64)


def _istft(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """The least-squares inverse: windowed again, overlap-added, divided by the windows' squares."""
    frames, window = spectra.shape[-2], _window()
    parts = np.fft.irfft(spectra, WINDOW, axis=-1).astype(np.float32) * window
    weight = _overlap_added(np.broadcast_to(np.square(window), (frames, WINDOW)))
    kept = slice(_ENDS, _ENDS + frames * MEL_HOP)
    return _overlap_added(parts)[..., kept] / weight[kept]


def _overlap_added(parts: Any) -> NDArray[np.float32]:
    """(..., F, WINDOW) -> (..., (F + _BLOCKS - 1) MEL_HOP): part i is added at sample i MEL_HOP."""
    batch, frames = parts.shape[:-2], parts.shape[-2]
    parts = np.pad(parts, [(0, 0)] * (parts.ndim - 1) + [(0, _BLOCKS * MEL_HOP - WINDOW)])
    parts = parts.reshape(*batch, frames, _BLOCKS, MEL_HOP)
    out = np.zeros((*batch, frames + _BLOCKS - 1, MEL_HOP), np.float32)
    for j in range(_BLOCKS):
        out[..., j : j + frames, :] += parts[..., j, :]
    return out.reshape(*batch, -1)
