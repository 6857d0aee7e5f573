"""A piece of generated music and everything that is known about it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from noise2music.errors import UserError, import_extra


@dataclasses.dataclass(eq=False, repr=False)
class Clip:
    """One mono clip.

    samples       (T,) float32, nominally in [-1, 1]; `save` makes sure that a file never clips
    sample_rate   in Hz
    prompt        the text that was used (after cutting); "" is unconditional
    seed          the seed of the call that made it
    stages        name of the stage -> its output: (T,) float32 audio or (frames, channels) float32
                  log-mel spectrogram, in the order in which the cascade ran
    stage_rates   name of the stage -> samples or frames a second of its output
    metadata      what `noise2music replay` needs, JSON types only: version, model, model_hash,
                  prompt, negative, seconds, seed, index (position of the clip in its call), route,
                  steps, guidance, sampler, gamma
    """

    samples: np.ndarray
    sample_rate: int
    prompt: str = ""
    seed: int = 0
    stages: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    stage_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        samples = np.ascontiguousarray(self.samples, dtype=np.float32)
        if samples.ndim != 1:
            raise UserError(f"samples of a clip must have shape (T,), got {samples.shape}")
        self.samples = samples
        self.sample_rate = int(self.sample_rate)
        if self.sample_rate <= 0:
            raise UserError(f"sample_rate must be positive, got {self.sample_rate}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Clip:
        """Reads a sound file; the metadata is that which `save` wrote, or empty."""
        from noise2music import audio

        samples, sample_rate = audio.read_audio(path)
        metadata = audio.read_metadata(path) or {}
        return cls(
            samples,
            sample_rate,
            prompt=str(metadata.get("prompt", "")),
            seed=seed if isinstance(seed := metadata.get("seed"), int) else 0,
            metadata=metadata,
        )

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples.shape[0] / self.sample_rate

    def __len__(self) -> int:
        return self.samples.shape[0]

    def __repr__(self) -> str:
        prompt = self.prompt if len(self.prompt) <= 40 else self.prompt[:37] + "..."
        return (
            f"Clip({self.seconds:.2f} s at {self.sample_rate} Hz, prompt={prompt!r}, "
            f"seed={self.seed}, stages={list(self.stages)})"
        )

    def save(
        self, path: str | os.PathLike[str], *, bits: int = 16, normalize: bool = False
    ) -> pathlib.Path:
        """Writes WAV, FLAC, OGG or MP3, chosen by the suffix, with the metadata as JSON in it.

        The peak is held at -1 dBFS or below by turning the whole clip down; `normalize=True` also
        turns a quiet clip up to there. `bits` is 16 or 24 (WAV and FLAC only). The file appears
        under its name only when it is complete.
        """
        from noise2music import audio

        return audio.write_audio(
            path,
            self.samples,
            self.sample_rate,
            metadata=self.metadata and {**self.metadata, "bits": bits, "normalize": normalize},
            title=self.prompt,
            bits=bits,
            normalize=normalize,
        )

    def resample(self, sample_rate: int) -> Clip:
        """The same clip at another sample rate (band-limited, by soxr). Stages stay as they are."""
        from noise2music import audio

        return dataclasses.replace(
            self,
            samples=audio.resample(self.samples, self.sample_rate, sample_rate),
            sample_rate=sample_rate,
        )

    def play(self, *, autoplay: bool = False) -> Any:
        """Returns a player for a notebook (IPython.display.Audio)."""
        from noise2music import audio

        display = import_extra(
            "IPython.display",
            extra="pip install ipython, or write a file with clip.save('out.wav')",
            purpose="clip.play()",
        )
        safe = audio.limit_peak(self.samples)
        return display.Audio(safe, rate=self.sample_rate, normalize=False, autoplay=autoplay)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the waveform above its mel spectrogram; returns the matplotlib figure.

        With a path the picture is also written there (PNG, PDF or SVG by suffix).
        """
        from noise2music import plot

        return plot.plot_clip(self, path)
