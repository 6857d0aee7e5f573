"""Pieces: note lists with bars, before an instrument, a key and a tempo are drawn for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Note = tuple[float, float, int, int]
"""(onset, duration) in quarter notes, MIDI pitch, velocity 1..127."""

# Pitch-class profiles of major and minor keys (Albrecht and Shanahan 2013, Music Perception 31).
_MAJOR = (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081)
_MINOR = (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)


class PieceError(Exception):
    """A piece that cannot be used; the draw moves on to another one and counts the reason."""


@dataclasses.dataclass(frozen=True)
class PieceRef:
    """What the catalogue knows of a piece before it is read. `source`: "scores" or "mma"."""

    id: str
    source: str
    genre: str
    where: str
    """Scores: the file inside the corpus folder. MMA: "library/file:Groove"."""
    variant: int = 0


@dataclasses.dataclass(frozen=True)
class Track:
    """One part. `role`: voice, melody, chord, bass or drums."""

    role: str
    notes: list[Note]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece in its original key; `bars` holds (start in quarters, "n/d") for each bar.

    `tonic` is None where the key must be found in the notes of the window.
    """

    id: str
    genre: str
    source: str
    tracks: list[Track]
    bars: list[tuple[float, str]]
    length: float
    tonic: int | None = None
    mode: str | None = None
    loops: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Piece:
        raw: dict[str, Any] = json.loads(text)
        raw["tracks"] = [
            Track(t["role"], [(n[0], n[1], n[2], n[3]) for n in t["notes"]]) for t in raw["tracks"]
        ]
        raw["bars"] = [(b[0], b[1]) for b in raw["bars"]]
        return cls(**raw)


def bar_quarters(metre: str) -> float:
    """Quarter notes in a bar of metre "n/d": 4 n / d."""
    top, bottom = metre.split("/")
    return 4.0 * int(top) / int(bottom)


def beat_quarters(metre: str) -> float:
    """Quarter notes in the felt beat: a dotted quarter in 6/8, 9/8, 12/8; else the note d."""
    top, bottom = (int(x) for x in metre.split("/"))
    if bottom == 8 and top % 3 == 0:
        return 1.5
    return 4.0 / bottom if bottom in (2, 4) else 1.0


def find_key(
    pitches: Sequence[int], weights: Sequence[float], prior: tuple[int, str] | None = None
) -> tuple[int, str, float]:
    """(tonic, mode, distance) of the key profile nearest (Euclidean) to the pitch classes' weights.

    prior: a key whose distance is taken 0.85-fold, e.g. the whole piece's.
    """
    classes = np.bincount(np.asarray(pitches) % 12, weights=weights, minlength=12)
    classes = classes / max(classes.sum(), 1e-9)
    answer = (0, "major", np.inf)
    for mode, profile in (("major", _MAJOR), ("minor", _MINOR)):
        for tonic in range(12):
            distance = float(np.linalg.norm(classes - np.roll(profile, tonic)))
            if prior == (tonic, mode):
                distance *= 0.85
            if distance < answer[2]:
                answer = (tonic, mode, distance)
    return answer


def split_pieces(refs: Sequence[PieceRef]) -> dict[str, str]:
    """Split by piece, within each genre: 7 % test, 3 % validation (at least one each), rest train.

    The order is that of the ids' SHA-256, so it depends on the catalogue only, never on the seed.
    A genre with fewer than three pieces is train only.
    """
    splits: dict[str, str] = {}
    for genre in sorted({ref.genre for ref in refs}):
        ids = sorted(
            {ref.id for ref in refs if ref.genre == genre},
            key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
        )
        if len(ids) < 3:
            splits.update(dict.fromkeys(ids, "train"))
            continue
        test = max(1, round(0.07 * len(ids)))
        validation = max(1, round(0.03 * len(ids)))
        for rank, name in enumerate(ids):
            if rank < test:
                splits[name] = "test"
            else:
                splits[name] = "validation" if rank < test + validation else "train"
    return splits


def cached_piece(ref: PieceRef, folder: Path, read: Any) -> Piece:
    """The piece from its JSON cache, else from `read(ref)`, which is then kept for the next time.

    A failure is kept too, as {"error": reason}: a score that does not parse is tried once.
    """
    name = hashlib.sha256(ref.id.encode()).hexdigest()[:20]
    path = folder / f"{name}.json"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if text.startswith('{"error"'):
            raise PieceError(json.loads(text)["error"])
        return Piece.from_json(text)
    try:
        piece = read(ref)
        text = piece.to_json()
    except PieceError as error:
        write_atomic(path, json.dumps({"error": str(error)}))
        raise
    write_atomic(path, text)
    return Piece.from_json(text)


def write_atomic(path: Path, text: str) -> None:
    """Write beside the target under a name of this process, then rename over it."""
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
