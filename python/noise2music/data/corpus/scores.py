"""Scores of music21's corpus as pieces: which files are used, and how they are read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.data.corpus.pieces import (
    Note,
    Piece,
    PieceError,
    PieceRef,
    Track,
    bar_quarters,
    beat_quarters,
    find_key,
)

INSTALL = "pip install 'noise2music[data]' (it brings music21, pretty_midi and pyfluidsynth)"

# Only collections with no reservation in the corpus: not Essen, Palestrina, Monteverdi, trecento,
# nor leadSheet (one of its two files is all rights reserved).
_FOLDERS = {
    "bach": "chorale",
    "haydn": "classical",
    "mozart": "classical",
    "beethoven": "classical",
    "schumann_clara": "classical",
    "schumann_robert": "classical",
    "weber": "classical",
    "joplin": "ragtime",
    "ryansMammoth": "folk",
}
_SUFFIXES = (".mxl", ".xml", ".abc")
_METRES = ("4/4", "3/4", "2/4", "2/2", "6/8", "3/2", "3/8", "9/8", "12/8")


def corpus_folder() -> Path:
    """The folder of music21's corpus. ImportError that says how to install it."""
    try:
        import music21.corpus
    except ImportError as error:
        raise ImportError(f"n2m.corpus: music21 must be installed: {INSTALL}") from error
    return Path(music21.corpus.__file__).parent


def list_scores(folder: Path) -> list[PieceRef]:
    """Every usable score file, sorted; one file is one piece."""
    refs = []
    for name, genre in _FOLDERS.items():
        for path in sorted((folder / name).rglob("*")):
            if path.suffix in _SUFFIXES and not path.name.startswith("."):
                where = path.relative_to(folder).as_posix()
                refs.append(PieceRef(f"music21/{where}", "scores", genre, where))
    return refs


def _bars(part: Any) -> list[tuple[float, str]]:
    metre, bars = "", []
    for measure in part.getElementsByClass("Measure"):
        if measure.timeSignature is not None:
            metre = f"{measure.timeSignature.numerator}/{measure.timeSignature.denominator}"
        bars.append((float(measure.offset), metre))
    return bars


def _notes(part: Any) -> list[Note]:
    """Sounding notes of a part with ties merged; grace notes (no duration) are left out."""
    part.stripTies(inPlace=True)
    notes: list[Note] = []
    for element in part.flatten().notes:
        duration = float(element.quarterLength)
        if duration <= 0 or not hasattr(element, "pitches"):
            continue
        onset = float(element.offset)
        notes += [(onset, duration, int(p.midi), 80) for p in element.pitches]
    return sorted(notes)


def _notated_key(score: Any) -> tuple[int, str] | None:
    """The first written key where it is major or minor (tunes in abc name theirs)."""
    for key in score.recurse().getElementsByClass("Key"):
        if key.mode in ("major", "minor"):
            return int(key.tonic.pitchClass), str(key.mode)
        break
    return None


_PATTERNS = {
    "4/4": ((0.0, "b"), (1.0, "c"), (2.0, "b"), (3.0, "c")),
    "2/2": ((0.0, "b"), (1.0, "c"), (2.0, "b"), (3.0, "c")),
    "2/4": ((0.0, "b"), (0.5, "c"), (1.0, "b"), (1.5, "c")),
    "3/4": ((0.0, "b"), (1.0, "c"), (2.0, "c")),
    "6/8": ((0.0, "b"), (1.0, "c"), (1.5, "b"), (2.5, "c")),
}


def accompany(
    notes: list[Note], bars: list[tuple[float, str]], tonic: int, mode: str
) -> list[Track]:
    """Bass and off-beat chords for a bare tune: per bar, the diatonic triad that covers it best.

    The candidates are I, IV, V, vi (i, iv, V, VII, VI in minor); a triad scores the duration of
    the tune's notes it holds, with a bonus for the tonic.
    """
    degrees = (
        ((0, 4, 7), (5, 9, 0), (7, 11, 2), (9, 0, 4))
        if mode == "major"
        else ((0, 3, 7), (5, 8, 0), (7, 11, 2), (10, 2, 5), (8, 0, 3))
    )
    triads = [tuple((tonic + d) % 12 for d in degree) for degree in degrees]
    bass: list[Note] = []
    chords: list[Note] = []
    for start, metre in bars:
        pattern = _PATTERNS.get(metre)
        if pattern is None:
            continue
        stop = start + bar_quarters(metre)
        inside = [n for n in notes if start <= n[0] < stop]
        scores = [
            sum(n[1] for n in inside if n[2] % 12 in triad) * (1.1 if i == 0 else 1.0)
            for i, triad in enumerate(triads)
        ]
        triad = triads[int(np.argmax(scores))]
        step = 0.5 if metre in ("2/4", "6/8") else 1.0
        low = 0
        for at, kind in pattern:
            if kind == "b":
                pitch = 36 + (triad[0] if low % 2 == 0 else triad[2])
                bass.append((start + at, step, pitch, 76))
                low += 1
            else:
                chords += [(start + at, step * 0.8, 55 + (c - 55) % 12, 60) for c in triad]
    return [Track("chord", chords), Track("bass", bass)]


def _check_bars(bars: list[tuple[float, str]], piece: str) -> None:
    if not bars or any(metre not in _METRES for _, metre in bars):
        raise PieceError(f"{piece}: no or unusual metre")


def read_score(ref: PieceRef, folder: Path) -> Piece:
    """Parse one score. PieceError where music21 fails or the score does not suit its genre."""
    import music21

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score: Any = music21.converter.parse(folder / ref.where, forceSource=True)
            parts = list(score.parts)
            bars = _bars(parts[0]) if parts else []
            tracks = [Track("voice", _notes(part)) for part in parts]
    except Exception as error:  # music21 raises anything from KeyError to its own families
        raise PieceError(f"{ref.id}: music21 failed: {type(error).__name__}") from error
    tracks = [track for track in tracks if track.notes]
    _check_bars(bars, ref.id)
    if not tracks or (ref.genre == "chorale" and len(tracks) != 4):
        raise PieceError(f"{ref.id}: {len(tracks)} sounding parts do not suit {ref.genre}")
    everything = [n for track in tracks for n in track.notes]
    tonic, mode, _ = find_key([n[2] for n in everything], [n[1] for n in everything])
    length = bars[-1][0] + bar_quarters(bars[-1][1])
    if ref.genre != "folk":
        return Piece(ref.id, ref.genre, "scores", tracks, bars, length, tonic, mode)
    return _folk(ref, tracks[0].notes, bars, *(_notated_key(score) or (tonic, mode)))


def _folk(
    ref: PieceRef, notes: list[Note], bars: list[tuple[float, str]], tonic: int, mode: str
) -> Piece:
    """Drop the pickup and incomplete bars, close the gaps, so that the tune loops in time."""
    metre = bars[-1][1]
    size = bar_quarters(metre)
    ends = [start for start, _ in bars[1:]] + [bars[-1][0] + size]
    full = [
        start
        for (start, m), end in zip(bars, ends, strict=True)
        if m == metre and abs(end - start - size) < 1e-6
    ]
    if len(full) < 8 or metre not in _PATTERNS:
        raise PieceError(f"{ref.id}: fewer than 8 whole bars of one common metre")
    tune: list[Note] = []
    for i, start in enumerate(full):
        for onset, duration, pitch, velocity in notes:
            if start - 1e-6 <= onset < start + size - 1e-6:
                room = size - (onset - start)
                tune.append((i * size + onset - start, min(duration, room), pitch, velocity))
    if len(tune) < len(full) * beat_quarters(metre):
        raise PieceError(f"{ref.id}: hardly any notes")
    new_bars = [(i * size, metre) for i in range(len(full))]
    tracks = [Track("melody", sorted(tune)), *accompany(tune, new_bars, tonic, mode)]
    length = len(full) * size
    return Piece(ref.id, ref.genre, "scores", tracks, new_bars, length, tonic, mode, loops=True)
