"""A set of clips and the sound of each: nothing is dropped in silence.

A set is a folder of sound files, or a manifest: JSONL with one object a line (`audio`, and any of
`id`, `caption`, `captions`, `prompt`, `split`, and `start` and `excerpt` in seconds for a part of
the file), paths relative to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio import resample
from noise2music.errors import UserError

Array = np.ndarray

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
RATE = 16_000  # section 4.3: judged before super-resolution
SILENT_RMS = 1e-4  # -80 dB below full scale
RESAMPLER = "soxr-VHQ"

REASONS = {
    "missing": "there is no such file",
    "corrupt": "cannot be decoded",
    "empty": "holds no samples",
    "nan": "holds NaN or infinite samples",
    "silent": "is silent: its root mean square is below -80 dB",
    "too_short": "is shorter than the encoder's window, or than the excerpt asked for",
    "wrong_rate": "has a sample rate below the one it is judged at",
    "duplicate": "is the same sound as another file of the set",
    "unpaired": "has no partner in the other set",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One clip of a set. start, seconds: the excerpt to use, from the file's beginning."""

    id: str
    path: Path
    text: str = ""
    start: float = 0.0
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that is not in the figures, and why: a key of REASONS, and what was found."""

    id: str
    path: str
    reason: str
    detail: str


class BadSound(Exception):
    """A clip that cannot be judged."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def read_set(source: Path, split: str | None = None) -> list[Item]:
    """The clips of a folder (its manifest.jsonl if it has one) or of a manifest, in its order.

    split: only the lines of a manifest with this `split`.

    Raises:
      UserError: no such source, no clip in it, a line that cannot be read, or an id twice.
    """
    source = Path(source)
    if source.is_dir() and (source / "manifest.jsonl").is_file():
        source = source / "manifest.jsonl"
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
        items = [Item(p.relative_to(source).with_suffix("").as_posix(), p) for p in paths]
        seen: dict[str, int] = {}
        for i, item in enumerate(items):  # a.wav beside a.mp3
            seen[item.id] = seen.get(item.id, 0) + 1
            if seen[item.id] > 1:
                items[i] = dataclasses.replace(item, id=item.path.relative_to(source).as_posix())
    elif source.is_file():
        items = _read_manifest(source, split)
    else:
        raise UserError(f"there is no folder and no manifest {str(source)!r}")
    if not items:
        raise UserError(f"{str(source)!r} holds no sound file ({', '.join(SUFFIXES)})")
    return items


def _read_manifest(path: Path, split: str | None) -> list[Item]:
    items: dict[str, Item] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a manifest: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            name = str(row["audio"])
            start = float(row.get("start") or 0.0)
            seconds = None if row.get("excerpt") is None else float(row["excerpt"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} line {number} must be a JSON object with audio, got {line[:80]!r}: {error}"
            ) from error
        if split is not None and row.get("split") != split:
            continue
        captions = row.get("captions") or [""]
        text = str(row.get("prompt") or row.get("caption") or captions[0])
        item = Item(str(row.get("id", Path(name).stem)), path.parent / name, text, start, seconds)
        if item.id in items:
            raise UserError(f"{path} line {number}: the id {item.id!r} is there twice")
        items[item.id] = item
    return list(items.values())


def middle(items: Sequence[Item], seconds: float) -> list[Item]:
    """The same clips, of which only the middle `seconds` are used (start < 0 says so)."""
    if not seconds > 0:
        raise UserError(f"the middle excerpt must be longer than 0 s, got {seconds}")
    return [dataclasses.replace(item, start=-1.0, seconds=seconds) for item in items]


def file_hash(path: Path) -> str:
    """sha256 of the file's bytes; BadSound("missing") where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadSound("missing", error.strerror or str(error)) from error


def decode(item: Item, rate: int = RATE) -> Array:
    """The clip's excerpt as mono float32 at `rate`; BadSound with the reason where it has none."""
    import soundfile

    try:
        samples, own = soundfile.read(
            io.BytesIO(item.path.read_bytes()), dtype="float32", always_2d=True
        )
    except OSError as error:
        raise BadSound("missing", error.strerror or str(error)) from error
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadSound("corrupt", str(error)) from error
    if samples.shape[0] == 0:
        raise BadSound("empty", "0 samples")
    if own < rate:
        raise BadSound("wrong_rate", f"{own} Hz, judged at {rate} Hz")
    samples = _excerpt(samples.mean(axis=1, dtype=np.float32), own, item)
    if not np.isfinite(samples).all():
        raise BadSound("nan", f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples")
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    if level < SILENT_RMS:
        raise BadSound("silent", f"root mean square {level:.1e}")
    return resample(np.ascontiguousarray(samples), own, rate)


def _excerpt(samples: Array, rate: int, item: Item) -> Array:
    if item.seconds is None and item.start == 0.0:
        return samples
    wanted = samples.size if item.seconds is None else round(item.seconds * rate)
    first = (samples.size - wanted) // 2 if item.start < 0 else round(item.start * rate)
    part = samples[max(first, 0) : max(first, 0) + wanted]
    if item.seconds is not None and part.size < wanted:
        raise BadSound("too_short", f"{samples.size / rate:.2f} s, {item.seconds} s asked for")
    if part.size == 0:
        raise BadSound("too_short", f"{samples.size / rate:.2f} s, from {item.start} s asked for")
    return part
