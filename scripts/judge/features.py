"""What is heard in clips: tag logits, embeddings, tempo and chroma, kept in a cache.

The cache is a folder with one small npz a clip, named by the SHA-256 of the sound (samples and
rate) and of this module's version: a changed file is heard afresh, an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from noise2music.evaluate.encoders import musicnn

from . import hearing

Array = np.ndarray
Sound = tuple[Array, int]  # samples (N,) float32, sample rate in Hz

VERSION = "2"
LOW_PASS_HZ = 1600
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Features:
    """N clips: mean tag logits (N, 100), embeddings, tempo (N,) in BPM, mean chroma (N, 12).

    embeddings: one (P_i, 200) array of musicnn MTT penultimates a clip.
    """

    logits: Array
    embeddings: tuple[Array, ...]
    tempo: Array
    chroma: Array

    def __len__(self) -> int:
        return len(self.tempo)

    def take(self, rows: Sequence[int]) -> Features:
        """The chosen clips, in the given order."""
        index = list(rows)
        return Features(
            self.logits[index],
            tuple(self.embeddings[i] for i in index),
            self.tempo[index],
            self.chroma[index],
        )

    @property
    def inputs(self) -> Array:
        """What the classifiers see: mean tag logits and mean MTT penultimate, (N, 300)."""
        return np.concatenate(
            [self.logits, np.stack([rows.mean(axis=0) for rows in self.embeddings])], axis=1
        )

    @property
    def patches(self) -> Array:
        """All embeddings, (sum P_i, 200)."""
        return np.concatenate(self.embeddings)


def read_sound(path: Path) -> Sound:
    """Decode a file to mono float32."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), int(rate)


def low_pass(sound: Sound) -> Sound:
    """Band-limit to 1.6 kHz through 3.2 kHz, the waveform generator's rate (soxr HQ)."""
    samples, rate = sound
    narrow = soxr.resample(samples, rate, 2 * LOW_PASS_HZ, quality="HQ")
    return soxr.resample(narrow, 2 * LOW_PASS_HZ, rate, quality="HQ")[: samples.size], rate


def first_seconds(sound: Sound, seconds: float) -> Sound:
    """The beginning of a sound, so that real clips are as long as generated ones."""
    samples, rate = sound
    return samples[: round(seconds * rate)], rate


def clip_files(folder: Path) -> list[Path]:
    """The sound files of a folder in the order of their names (0000.wav, 0001.wav, ...)."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def clip_sounds(source: Path) -> Iterable[Sound]:
    """The sounds of a folder, or of an npz: ``audio`` (n, N) or (n, N, 1), ``sample_rate``."""
    if source.is_dir():
        return (read_sound(path) for path in clip_files(source))
    with np.load(source) as data:
        rate = int(data["sample_rate"])
        audio = np.asarray(data["audio"], np.float32)
    return ((row.reshape(-1), rate) for row in audio)


class Listener:
    """Hears clips with both taggers and librosa.

    Args:
      cache: folder of the cache, made on demand; None: nothing is kept.
      model_folder: folder of the musicnn wheel; found by itself when None.
      progress: called with (done, text) now and then; None: silent.
    """

    def __init__(
        self,
        cache: Path | None = None,
        model_folder: Path | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        self._cache = cache
        self._folder = model_folder
        self._progress = progress
        self._taggers: list[musicnn.Tagger] = []

    def _tag(self, sound: Sound, models: int) -> list[musicnn.Heard]:
        if not self._taggers:
            self._taggers = [musicnn.Tagger(name, self._folder) for name in musicnn.MODELS]
        patches = musicnn.log_mel_patches(*sound)
        return [tagger(patches) for tagger in self._taggers[:models]]

    def _embed(self, sound: Sound) -> dict[str, Array]:
        return {"penultimate": self._tag(sound, 1)[0].penultimate}

    def _hear(self, sound: Sound) -> dict[str, Array]:
        samples, rate = sound
        mtt, msd = self._tag(sound, 2)
        return {
            "logits": np.concatenate([mtt.logits, msd.logits], axis=1),
            "penultimate": mtt.penultimate,
            "tempo": np.asarray(hearing.estimate_tempo(samples, rate)),
            "chroma": hearing.mean_chroma(samples, rate),
        }

    def _cached(self, sound: Sound, everything: bool = True) -> dict[str, Array]:
        compute = self._hear if everything else self._embed
        if self._cache is None:
            return compute(sound)
        samples, rate = sound
        digest = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes())
        digest.update(f"{rate}/{VERSION}{'' if everything else '/embedding'}".encode())
        path = self._cache / f"{digest.hexdigest()[:24]}.npz"
        if path.exists():
            with np.load(path) as data:
                return dict(data)
        heard = compute(sound)
        self._cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **heard)
        part.replace(path)
        return heard

    def _rows(self, sounds: Iterable[Sound], name: str, everything: bool) -> list[dict[str, Array]]:
        rows = []
        for i, sound in enumerate(sounds):
            if not np.isfinite(sound[0]).all():
                raise ValueError(f"judge.features: {name} {i} must be finite, got NaN or Inf")
            rows.append(self._cached(sound, everything))
            if self._progress is not None and i % 25 == 24:
                self._progress(i + 1, name)
        if not rows:
            raise ValueError(f"judge.features: {name} holds no sound file")
        return rows

    def embed(self, sounds: Iterable[Sound], name: str = "clips") -> Array:
        """The MTT embeddings alone of every sound, (sum P_i, 200); errors as in ``hear``."""
        return np.concatenate([row["penultimate"] for row in self._rows(sounds, name, False)])

    def hear(self, sounds: Iterable[Sound], name: str = "clips") -> Features:
        """Hear every sound.

        Raises:
          ValueError: no sound, or a sound that is not finite.
        """
        rows = self._rows(sounds, name, True)
        return Features(
            np.stack([row["logits"].mean(axis=0) for row in rows]),
            tuple(row["penultimate"] for row in rows),
            np.array([float(row["tempo"]) for row in rows]),
            np.stack([row["chroma"] for row in rows]),
        )


def report_progress(done: int, name: str) -> None:
    """Write progress to the error stream."""
    sys.stderr.write(f"heard {done} {name}\n")
