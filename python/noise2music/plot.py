"""Pictures of a clip: the waveform above its mel spectrogram. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from noise2music import audio
from noise2music.errors import UserError, import_extra

if TYPE_CHECKING:
    from noise2music.clip import Clip

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")
_BANDS = 128
_WINDOW = 2048
_FLOOR_DB = -80.0


def require_matplotlib() -> Any:
    """matplotlib's figure module, or a UserError that says how to install it."""
    return import_extra(
        "matplotlib.figure",
        extra="pip install 'noise2music[plot]' (or pip install matplotlib)",
        purpose="plotting",
    )


def mel_picture(samples: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """20 log10 max(W |STFT(x)|, 1e-4) over the clip's whole band, for looking at.

    samples (T,) -> ((frames, 128) float32 in dB relative to the loudest cell, -80 to 0; (128,)
    band centres in Hz). Frames are a hundredth of a second apart. This is not the model's own
    spectrogram (`noise2music.mel`), which stops at 8 kHz.
    """
    hop = max(1, sample_rate // 100)
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(np.asarray(samples, np.float32), _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    edges = _hz(np.linspace(0.0, _mel(sample_rate / 2), _BANDS + 2))
    width = np.maximum(np.diff(edges), sample_rate / _WINDOW)
    bins = np.arange(_WINDOW // 2 + 1) * sample_rate / _WINDOW
    rise = 1.0 - (edges[1:-1] - bins[:, None]) / width[:-1]
    fall = 1.0 - (bins[:, None] - edges[1:-1]) / width[1:]
    filters = np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32)
    # In pieces: all windowed frames of a minute at once would take 200 MB.
    rows = [
        np.abs(np.fft.rfft(frames[i : i + 256] * window, axis=-1)).astype(np.float32) @ filters
        for i in range(0, len(frames), 256)
    ]
    mel = np.concatenate(rows)
    top = max(float(mel.max()), 1e-9)
    return 20.0 * np.log10(np.maximum(mel / top, 10.0 ** (_FLOOR_DB / 20.0))), edges[1:-1]


def plot_clip(clip: Clip, path: str | os.PathLike[str] | None = None) -> Any:
    """Draws `clip`; returns the figure and, with a path, writes it there."""
    if path is not None:
        path = audio.check_output(path, list(SUFFIXES))
    if clip.samples.shape[0] == 0:
        raise UserError("cannot plot an empty clip")
    figures = require_matplotlib()
    if path is None and "IPython" in sys.modules:
        # Registers matplotlib's picture formatter with the notebook.
        import_extra("matplotlib.pyplot", extra="pip install matplotlib", purpose="plotting")
    figure = figures.Figure(figsize=(10, 5), layout="constrained")
    wave, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    picture, centres = mel_picture(clip.samples, clip.sample_rate)
    seconds = clip.seconds
    low, high = _envelope(clip.samples)
    at = np.linspace(0.0, seconds, len(low))
    wave.fill_between(at, low, high, color="#30558a", linewidth=0.3)
    wave.set(ylim=(-1, 1), ylabel="amplitude", title=_title(clip))
    image = spectrum.imshow(
        picture.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, _BANDS)
    )
    ticks = [f for f in (100, 300, 1000, 2000, 4000, 8000, 16000) if f < centres[-1]]
    spectrum.set_yticks(np.interp(ticks, centres, np.arange(_BANDS) + 0.5))
    spectrum.set_yticklabels([f"{f / 1000:g}" for f in ticks])
    spectrum.set(xlim=(0, seconds), xlabel="seconds", ylabel="kHz (mel scale)")
    figure.colorbar(image, ax=spectrum, label="dB", pad=0.01)
    if path is not None:
        with audio.replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)
    return figure


def _envelope(samples: np.ndarray, points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest sample of each of `points` stretches: what a wide clip looks like."""
    count = min(points, len(samples))
    starts = np.linspace(0, len(samples), count, endpoint=False).astype(int)
    return np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)


def _title(clip: Clip) -> str:
    text = clip.prompt or "(no prompt)"
    text = text if len(text) <= 90 else text[:87] + "..."
    # Fonts lack emoji and many scripts: a box in the picture is fine, a warning per letter is not.
    text = "".join(c if ord(c) < 0x250 else "?" for c in text)
    return text.replace("$", r"\$") + f"  (seed {clip.seed})"


def _mel(hz: Any) -> Any:
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


def _hz(mel: Any) -> Any:
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)
