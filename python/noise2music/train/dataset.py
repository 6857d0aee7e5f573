"""A corpus: the folder that `noise2music data corpus` makes, as arrays.

The corpus folder (manifest.jsonl + audio) is decoded once into memory-mapped arrays under
`<corpus>/cache`. `train/loader.py` makes batches of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from noise2music.config import MEL_CHANNELS, MEL_HOP
from noise2music.data.prepare.records import whole
from noise2music.mel import log_mel

SOURCE_RATE = 24_000
_FIELDS = ("id", "split", "audio", "seconds", "captions")


class Corpus:
    """The clips of one split, all one length.

    Captions, attributes, and audio at 24, 16 or 3.2 kHz or as mel.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train"):
        self.folder = Path(folder)
        manifest = self.folder / "manifest.jsonl"
        if not manifest.is_file():
            raise ValueError(
                f"n2m.train: the corpus must have a manifest.jsonl, found none in {self.folder}; "
                "`noise2music data corpus` makes one"
            )
        lines = _read_manifest(manifest)
        self.rows = sorted((r for r in lines if r["split"] == split), key=lambda r: str(r["id"]))
        if not self.rows:
            raise ValueError(
                f"n2m.train: {manifest} must have clips of split {split!r}, it has none"
            )
        self.split = split
        # 480 samples of 24 kHz audio are two mel frames: every rate cuts at whole samples.
        self.seconds = Fraction(int(min(r["seconds"] for r in self.rows) * 50), 50)
        self._open: dict[str, NDArray[Any]] = {}
        ids = "\n".join(str(r["id"]) for r in self.rows)
        self._key = f"{split}-{hashlib.sha256(ids.encode()).hexdigest()[:12]}"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Of the split's lines of the manifest: equal for equal clips and captions."""
        text = json.dumps(self.rows, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def meta(self, clip: int) -> dict[str, Any]:
        """The clip's line of the manifest."""
        return self.rows[clip]

    def open(self, name: str) -> NDArray[Any]:
        """audio<rate> or mel of all clips; decoded where that was not done before."""
        if name not in self._open:
            self._open[name] = self.mel() if name == "mel" else self.audio(int(name[5:]))
        return self._open[name]

    def column(self, name: str, clip: int) -> NDArray[Any]:
        """audio<rate> (samples,) int16, or mel (frames, 80) float16, of one clip."""
        return self.open(name)[clip]

    def audio(self, rate: int) -> NDArray[np.int16]:
        """(clips, samples) int16 at `rate`, memory-mapped."""
        if rate == SOURCE_RATE:
            return self._cached(f"audio{rate}", np.int16, (int(self.seconds * rate),), self._read)
        source = self.audio(SOURCE_RATE)

        def resample(i: int) -> NDArray[np.int16]:
            y = soxr.resample(source[i].astype(np.float32), SOURCE_RATE, rate, quality="HQ")
            y = np.pad(y, (0, max(0, int(self.seconds * rate) - len(y))))
            return np.clip(np.round(y[: int(self.seconds * rate)]), -32768, 32767).astype(np.int16)

        return self._cached(f"audio{rate}", np.int16, (int(self.seconds * rate),), resample)

    def mel(self) -> NDArray[np.float16]:
        """(clips, frames, 80) float16 log-mel in [-1, 1], memory-mapped."""
        source = self.audio(16_000)
        frames = int(self.seconds * 100)
        return self._cached(
            "mel",
            np.float16,
            (frames, MEL_CHANNELS),
            lambda i: log_mel(source[i, : frames * MEL_HOP] / np.float32(32768)).astype(np.float16),
        )

    def _read(self, i: int) -> NDArray[np.int16]:
        path = self.folder / self.rows[i]["audio"]
        try:
            samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        except (OSError, RuntimeError) as error:  # soundfile's own is a RuntimeError
            raise ValueError(f"n2m.train: {path} must be a sound file, got: {error}") from error
        if rate != SOURCE_RATE:
            raise ValueError(f"n2m.train: {path} must be at {SOURCE_RATE} Hz, got {rate}")
        need = int(self.seconds * rate)
        if len(samples) < need:
            raise ValueError(f"n2m.train: {path} must have {need} samples, got {len(samples)}")
        return samples[:need].astype(np.int32).mean(1).round().astype(np.int16)

    def _cached(
        self,
        name: str,
        dtype: Any,
        shape: tuple[int, ...],
        make: Callable[[int], NDArray[Any]],
    ) -> NDArray[Any]:
        path = self.folder / "cache" / f"{self._key}-{name}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with whole(path, f".{os.getpid()}") as part:  # two processes do it twice, and well
                out = np.lib.format.open_memmap(part, "w+", dtype, (len(self), *shape))
                what = f"{self.split} {name}"
                for i in tqdm(range(len(self)), desc=what, unit="clip", leave=False):
                    out[i] = make(i)
                out.flush()
        return np.load(path, mmap_mode="r")


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    """The lines of a manifest; ValueError names the first that is not one, by its number."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [name for name in _FIELDS if name not in row]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"n2m.train: line {number} of {path} must be a JSON object, got {line[:60]!r}"
            ) from error
        if missing:
            raise ValueError(
                f"n2m.train: line {number} of {path} must have {', '.join(_FIELDS)}; missing: "
                f"{', '.join(missing)}"
            )
        rows.append(row)
    return rows
