"""The musicnn taggers (Pons and Serra, 2019) in plain numpy: 50 tags and a 200-d embedding per 3 s.

    audio 16 kHz -> log10(1 + 10000 mel)  (187 frames x 96 bands, hop 256, FFT 512)
      -> batch norm -> [2 timbral + 3 temporal convolutions, max over frequency]  561 features
      -> three dense-in-frequency convolutions of width 7, the last two residual   3 x 64 features
      -> max and mean over time -> batch norm -> dense 200, relu, batch norm (penultimate)
      -> dense 50 (tag logits)

The weights are the TensorFlow 1 checkpoints inside the PyPI wheel ``musicnn`` (ISC licence);
neither TensorFlow, torch nor librosa is needed. Departures from the wheel's own extractor: the mel
spectrogram stays in float32 (its float16 overflows), every patch has its own penultimate (the wheel
repeats the first one), and resampling is soxr HQ (librosa's default today).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from noise2music.evaluate.encoders.tf_checkpoint import read_checkpoint

SAMPLE_RATE = 16000
HOP = 256
FFT = 512
BANDS = 96
PATCH_FRAMES = 187  # 3 s as the original counts it: (3 * 16000 - 512 / 2) // 256 + 1
MODELS = ("MTT_musicnn", "MSD_musicnn")

_BATCH_NORM_EPSILON = 1e-3  # TensorFlow's default, which the wheel's graphs use

Array = np.ndarray


def wheel_folder() -> Path | None:
    """Return the folder of the installed ``musicnn`` wheel, or None when it is absent."""
    spec = importlib.util.find_spec("musicnn")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder if (folder / MODELS[0] / ".index").exists() else None


def tag_names() -> list[str]:
    """Return the 100 tag names, ``mtt:guitar`` ... ``msd:happy``, in the order of the logits."""
    labels = importlib.import_module("musicnn.configuration")
    return [f"mtt:{t}" for t in labels.MTT_LABELS] + [f"msd:{t}" for t in labels.MSD_LABELS]


@functools.cache
def mel_filters() -> Array:
    """Triangles of unit area on Slaney's mel scale, as librosa's default: (257, 96) float32."""
    knee, step = 15.0, np.log(6.4) / 27.0  # linear below 1 kHz = 15 mel, logarithmic above
    top = knee + np.log(SAMPLE_RATE / 2 / 1000.0) / step
    mel = np.linspace(0.0, top, BANDS + 2)
    edges = np.where(mel < knee, mel * (1000.0 / knee), 1000.0 * np.exp((mel - knee) * step))
    bins = np.arange(FFT // 2 + 1)[:, None] * (SAMPLE_RATE / FFT)
    width = np.diff(edges)
    rise, fall = (bins - edges[:-2]) / width[:-1], (edges[2:] - bins) / width[1:]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.maximum(0.0, np.minimum(rise, fall)) * area).astype(np.float32)


def log_mel_patches(audio: Array, sample_rate: int) -> Array:
    """Return log10(1 + 10000 mel) cut into patches of 3 s without overlap.

    Args:
      audio: (N,) float, mono, in [-1, 1].
      sample_rate: Hz of ``audio``; resampled to 16 kHz.

    Returns:
      (P, 187, 96) float32, P = floor(frames / 187): 3 for a clip of 10 s. A clip shorter than 3 s
      is repeated up to 3 s.

    Raises:
      ValueError: the audio is empty or not one-dimensional.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or audio.size == 0:
        raise ValueError(f"n2m.evaluate: audio must be (N,) with N > 0, got {audio.shape}")
    if sample_rate != SAMPLE_RATE:
        audio = soxr.resample(audio, sample_rate, SAMPLE_RATE, quality="HQ")
    needed = (PATCH_FRAMES - 1) * HOP
    if audio.size < needed:
        audio = np.resize(audio, needed)
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FFT) / FFT)).astype(np.float32)
    padded = np.pad(audio, FFT // 2)
    spectra = scipy.fft.rfft(sliding_window_view(padded, FFT)[::HOP] * window, axis=1)
    mel = np.square(np.abs(spectra)) @ mel_filters()
    frames: Array = np.log10(10000.0 * mel + 1.0).astype(np.float32)
    count = frames.shape[0] // PATCH_FRAMES
    return frames[: count * PATCH_FRAMES].reshape(count, PATCH_FRAMES, BANDS)


@dataclass(frozen=True)
class Heard:
    """What one tagger gives for P patches: logits (P, 50), penultimate (P, 200), pools (P, 753)."""

    logits: Array
    penultimate: Array
    max_pool: Array
    mean_pool: Array

    @property
    def tags(self) -> Array:
        """Tag probabilities 1 / (1 + exp(-logits)), (P, 50)."""
        probabilities: Array = 1.0 / (1.0 + np.exp(-self.logits))
        return probabilities


class Tagger:
    """One of the wheel's two musicnn models.

    Args:
      model: ``"MTT_musicnn"`` (MagnaTagATune) or ``"MSD_musicnn"`` (Million Song Dataset).
      folder: the wheel's package folder; found by itself when None.

    Raises:
      FileNotFoundError: the wheel is not installed.
    """

    def __init__(self, model: str = "MTT_musicnn", folder: Path | None = None) -> None:
        folder = folder or wheel_folder()
        if folder is None:
            raise FileNotFoundError(
                "n2m.evaluate: the musicnn wheel is missing; "
                "install it with: pip install --no-deps musicnn==0.1.0"
            )
        self.model = model
        self._tensors = read_checkpoint(folder / model)

    def _affine(self, index: int) -> tuple[Array, Array]:
        """Batch normalisation ``index`` as (a, b) with y = a x + b, from its moving statistics."""
        name = "batch_normalization" + (f"_{index}" if index else "")
        get = {k: self._tensors[f"{name}/{k}"] for k in ("gamma", "beta", "moving_mean")}
        variance = self._tensors[f"{name}/moving_variance"]
        a = get["gamma"] / np.sqrt(variance + _BATCH_NORM_EPSILON)
        return a, get["beta"] - get["moving_mean"] * a

    def _layer(self, kind: str, index: int) -> tuple[Array, Array]:
        name = f"{kind}_{index}" if index else kind
        return self._tensors[f"{name}/kernel"], self._tensors[f"{name}/bias"]

    def _pooled(self, columns: Array, kernel: Array, bias: Array, norm: int) -> Array:
        """max over frequency of norm(relu(columns @ kernel + bias)).

        relu and an affine map are monotone, so the maximum is taken first, over the largest
        response where the map rises and over the smallest where it falls.
        columns (T, F, K), kernel (K, C) -> (T, C).
        """
        a, b = self._affine(norm)
        response = columns @ kernel
        extreme = np.where(a >= 0, response.max(axis=1), response.min(axis=1))
        pooled: Array = np.maximum(extreme + bias, 0) * a + b
        return pooled

    def _front_end(self, patch: Array) -> Array:
        """(187, 96) -> (187, 561): two timbral and three temporal groups of features."""
        a, b = self._affine(0)
        x = patch * a + b
        features = []
        padded = np.pad(x, ((3, 3), (0, 0)))
        for i in range(2):
            kernel, bias = self._layer("conv2d", i)  # (7, 38 or 67, 1, 204)
            height, width = kernel.shape[:2]
            windows = sliding_window_view(padded, (height, width))
            columns = windows.reshape(*windows.shape[:2], height * width)
            features.append(self._pooled(columns, kernel.reshape(height * width, -1), bias, i + 1))
        for i in range(2, 5):
            kernel, bias = self._layer("conv2d", i)  # (128, 64 or 32, 1, 1, 51)
            height = kernel.shape[0]
            before = (height - 1) // 2  # SAME in TensorFlow: the odd sample of padding goes after
            padded = np.pad(x, ((before, height - 1 - before), (0, 0)))
            columns = np.ascontiguousarray(sliding_window_view(padded, height, axis=0))
            features.append(self._pooled(columns, kernel.reshape(height, -1), bias, i + 1))
        return np.concatenate(features, axis=1)

    def _mid_end(self, x: Array, index: int) -> Array:
        """Convolution of width 7 over time, all features at once: (T, F) -> (T, 64)."""
        kernel, bias = self._layer("conv2d", index)  # (7, F, 1, 64)
        windows = sliding_window_view(np.pad(x, ((3, 3), (0, 0))), 7, axis=0)  # (T, F, 7)
        columns = windows.transpose(0, 2, 1).reshape(x.shape[0], -1)
        a, b = self._affine(index + 1)
        response = columns @ kernel.reshape(columns.shape[1], -1)
        out: Array = np.maximum(response + bias, 0) * a + b
        return out

    def __call__(self, patches: Array) -> Heard:
        """Run the model on patches (P, 187, 96) float32; P = 0 gives empty arrays."""
        max_pool, mean_pool = [], []
        for patch in np.asarray(patches, np.float32):
            front = self._front_end(patch)
            first = self._mid_end(front, 5)
            second = self._mid_end(first, 6) + first
            third = self._mid_end(second, 7) + second
            features = np.concatenate([front, first, second, third], axis=1)
            max_pool.append(features.max(axis=0))
            mean_pool.append(features.mean(axis=0))
        highest = np.asarray(max_pool, np.float32).reshape(-1, 753)
        mean = np.asarray(mean_pool, np.float32).reshape(-1, 753)
        flat = np.stack([highest, mean], axis=2).reshape(-1, 2 * 753)
        a, b = self._affine(9)
        kernel, bias = self._layer("dense", 0)
        hidden = np.maximum((flat * a + b) @ kernel + bias, 0)
        a, b = self._affine(10)
        penultimate = hidden * a + b
        kernel, bias = self._layer("dense", 1)
        return Heard(penultimate @ kernel + bias, penultimate, highest, mean)
