"""From a piece to a clip: draw the family, key, tempo, register, dynamics and a window of bars."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from noise2music.data.corpus.pieces import (
    Note,
    Piece,
    PieceError,
    Track,
    bar_quarters,
    beat_quarters,
    find_key,
)
from noise2music.data.corpus.vocabulary import (
    DYNAMICS,
    FAMILIES,
    MODES,
    TEMPO_RANGE,
    Family,
    Voice,
    key_name,
)

_DRUMS = -1
_VELOCITY = {"soft": 50, "medium": 80, "loud": 108}
LEVEL_DB = {"soft": -29.0, "medium": -24.0, "loud": -19.0}
"""Root mean square of the whole clip in dB relative to full scale, by dynamics."""
_MAX_ONSETS_A_SECOND = 9.0
_MIN_ONSETS_A_SECOND = 1.2


@dataclasses.dataclass(frozen=True)
class Sound:
    """One note to render: seconds, General MIDI program (-1: drum kit), pitch, velocity."""

    start: float
    stop: float
    program: int
    pitch: int
    velocity: int


@dataclasses.dataclass(frozen=True)
class Arrangement:
    sounds: list[Sound]
    attributes: dict[str, Any]


def draw_tempo(low: float, high: float, rng: np.random.Generator) -> int:
    """Whole beats a minute, log-uniform in [low, high] cut to TEMPO_RANGE."""
    low = min(max(low, TEMPO_RANGE[0]), TEMPO_RANGE[1] / 1.2)
    high = max(min(high, TEMPO_RANGE[1]), low * 1.2)
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _unfold(piece: Piece, need: float) -> tuple[list[Track], list[tuple[float, str]]]:
    """Tracks and bars, repeated until they last twice the need where the piece loops."""
    if not piece.loops:
        return piece.tracks, piece.bars
    times = max(2, int(np.ceil(2 * need / piece.length)))
    bars = [(s + i * piece.length, m) for i in range(times) for s, m in piece.bars]
    tracks = [
        Track(t.role, [(n[0] + i * piece.length, *n[1:]) for i in range(times) for n in t.notes])
        for t in piece.tracks
    ]
    return tracks, bars


def _windows(
    tracks: list[Track], bars: list[tuple[float, str]], need: float, rng: np.random.Generator
) -> list[tuple[float, str]]:
    """Up to four drawn bar starts from which one metre lasts `need` quarters."""
    end = bars[-1][0] + bar_quarters(bars[-1][1])
    found: list[tuple[float, str]] = []
    for index in rng.permutation(len(bars))[:40]:
        start, metre = bars[index]
        inside = [m for s, m in bars if start <= s < start + need]
        if start + need > end + 1e-6 or any(m != metre for m in inside):
            continue
        if _busy(tracks, start, start + need):
            found.append((start, metre))
            if len(found) == 4:
                break
    if not found:
        raise PieceError("no window of one metre that is long and busy enough")
    return found


def _busy(tracks: list[Track], start: float, stop: float) -> bool:
    """True if some pitched note starts in every eighth of the window."""
    onsets = np.array([n[0] for t in tracks if t.role != "drums" for n in t.notes])
    counts, _ = np.histogram(onsets, bins=8, range=(start, stop))
    return bool((counts > 0).all())


def _density(tracks: list[Track], metre: str) -> float:
    """Distinct pitched onsets a beat, over the piece."""
    onsets = {round(n[0], 3) for t in tracks if t.role != "drums" for n in t.notes}
    span = max(onsets) - min(onsets)
    return len(onsets) * beat_quarters(metre) / max(span, 1e-6)


def choose_voice(
    family: Family, genre: str, parts: int, rng: np.random.Generator
) -> tuple[Voice, str]:
    voices = [v for v in family.voices if not v.genres or genre in v.genres]
    voice = voices[int(rng.integers(len(voices)))]
    return voice, voice.name


def _fold(pitch: int, voice: Voice) -> int:
    while pitch < voice.low:
        pitch += 12
    while pitch > voice.high:
        pitch -= 12
    return pitch


def _accent(onset: float, start: float, metre: str) -> int:
    """Velocity added by the place in the bar: the down-beat, the beats, the rest."""
    at = (onset - start) % bar_quarters(metre)
    if min(at, bar_quarters(metre) - at) < 0.05:
        return 12
    beat = beat_quarters(metre)
    return 4 if min(at % beat, beat - at % beat) < 0.05 else -8


def _cut(notes: list[Note], start: float, stop: float) -> list[Note]:
    """Notes that start in the window, with times from its start."""
    return [
        (n[0] - start, min(n[1], stop - n[0]), n[2], n[3])
        for n in notes
        if start - 1e-6 <= n[0] < stop - 1e-3
    ]


def _programs(tracks: list[Track], voice: Voice) -> list[int]:
    """Deal the voice's programs to the tracks, the highest first."""
    means = [float(np.mean([n[2] for n in t.notes])) if t.notes else 0.0 for t in tracks]
    order = np.argsort([-m for m in means], kind="stable")
    programs = [0] * len(tracks)
    for rank, index in enumerate(order):
        share = rank * len(voice.programs) // max(len(tracks), 1)
        if len(tracks) <= len(voice.programs):
            share = rank if rank < len(tracks) - 1 else len(voice.programs) - 1
        programs[int(index)] = voice.programs[min(share, len(voice.programs) - 1)]
    if len(tracks) == 1:
        programs = [voice.programs[0]]
    return programs


def arrange(
    piece: Piece, seconds: float, rng: np.random.Generator, family_name: str | None = None
) -> Arrangement:
    """Draw one clip of a piece. PieceError where the piece offers no usable window.

    seconds: length of the clip; family_name: fixed instead of drawn.
    """
    names = sorted(FAMILIES)
    family = FAMILIES[family_name or names[int(rng.integers(len(names)))]]
    voice, instrument = choose_voice(family, piece.genre, len(piece.tracks), rng)
    tonic = int(rng.integers(12))
    dynamics = sorted(DYNAMICS)[int(rng.integers(3))]
    shift = int(rng.choice([-7, 0, 7]))
    drums = piece.source == "mma" and rng.random() < 0.88
    melody = piece.source == "scores" or rng.random() < 0.65
    accompanied = rng.random() < 0.6

    tracks = [t for t in piece.tracks if t.notes]
    if not melody:
        tracks = [t for t in tracks if t.role != "melody"]
    if piece.genre == "folk" and not accompanied:
        tracks = [t for t in tracks if t.role == "melody"]
    if not drums:
        tracks = [t for t in tracks if t.role != "drums"]
    if not any(t.role != "drums" and t.role != "bass" for t in tracks):
        raise PieceError("the groove has no chords to re-voice")

    usual = piece.bars[len(piece.bars) // 2][1]
    density = max(_density(tracks, usual), 0.2)
    bpm = draw_tempo(60 * _MIN_ONSETS_A_SECOND / density, 60 * _MAX_ONSETS_A_SECOND / density, rng)
    need = seconds * bpm / 60 * beat_quarters(usual)
    shaped = dataclasses.replace(piece, tracks=tracks)
    unfolded, bars = _unfold(shaped, need)
    windows = _windows(unfolded, bars, need, rng)
    beat = beat_quarters(usual)
    windows = [w for w in windows if beat_quarters(w[1]) == beat]
    if not windows:
        raise PieceError("the drawn windows have another beat than the piece")
    options = []
    for start, metre in windows:
        cut = [Track(t.role, _cut(t.notes, start, start + need)) for t in unfolded]
        cut = [t for t in cut if t.notes]
        options.append((_key(piece, cut), cut, metre))
    # Of the drawn windows the one whose key is the clearest: modulating passages have none.
    (found, mode, _), cut, metre = min(options, key=lambda option: option[0][2])
    transpose = (tonic - found + 6) % 12 - 6
    sounds, register = _orchestrate(
        cut,
        voice,
        family,
        transpose,
        shift,
        metre,
        dynamics,
        60 / (bpm * beat_quarters(metre)),
        piece.source,
    )
    instruments = [instrument]
    if piece.source == "mma":
        instruments += ["bass"] if any(t.role == "bass" for t in cut) else []
        instruments += ["drums"] if any(t.role == "drums" for t in cut) else []
    attributes = {
        "source": piece.source,
        "genre": piece.genre,
        "family": family.name,
        "instruments": instruments,
        "drums": "drums" in instruments,
        "tempo_bpm": bpm,
        "key": key_name(tonic, mode),
        "tonic": tonic,
        "mode": mode,
        "metre": metre,
        "register": register,
        "dynamics": dynamics,
    }
    return Arrangement(sounds, attributes)


def _key(piece: Piece, tracks: list[Track]) -> tuple[int, str, float]:
    """(tonic, mode, distance). Known for grooves and tunes; for scores found in the window."""
    if piece.loops and piece.tonic is not None and piece.mode in MODES:
        return piece.tonic, str(piece.mode), 0.0
    notes = [n for t in tracks if t.role != "drums" for n in t.notes]
    prior = None if piece.tonic is None else (piece.tonic, str(piece.mode))
    return find_key([n[2] for n in notes], [n[1] for n in notes], prior)


def _orchestrate(
    tracks: list[Track],
    voice: Voice,
    family: Family,
    transpose: int,
    shift: int,
    metre: str,
    dynamics: str,
    quarter: float,
    source: str,
) -> tuple[list[Sound], str]:
    """Programs, octaves, velocities and seconds; `quarter` is the seconds of a quarter note."""
    pitched = [
        t for t in tracks if t.role != "drums" and not (source == "mma" and t.role == "bass")
    ]
    weights = [n[1] for t in pitched for n in t.notes]
    if not sum(weights):
        raise PieceError("the drawn window has no pitched notes")
    mean = float(np.average([n[2] for t in pitched for n in t.notes], weights=weights)) + transpose
    octave = 12 * round((family.centre + shift - mean) / 12)
    programs = dict(zip(map(id, pitched), _programs(pitched, voice), strict=True))
    synth = family.name == "synth"
    base = _VELOCITY[dynamics]
    sounds: list[Sound] = []
    heard: list[tuple[int, float]] = []
    for track in tracks:
        gain = {"melody": 14, "chord": 0, "bass": 0, "drums": -8, "voice": 4}[track.role]
        for onset, duration, pitch, velocity in track.notes:
            if track.role == "drums":
                program, sounding, length = _DRUMS, pitch, max(duration, 0.1)
            elif id(track) in programs:
                program = programs[id(track)]
                sounding = _fold(pitch + transpose + octave, voice)
                length = duration * family.overlap
                heard.append((sounding, duration))
            else:
                program = 38 if synth else 33
                sounding, length = pitch + transpose, duration * 0.95
            accent = _accent(onset, 0.0, metre) if track.role != "drums" else 0
            loud = base + gain + accent + (velocity - 80) // (2 if track.role == "drums" else 4)
            sounds.append(
                Sound(
                    onset * quarter,
                    (onset + length) * quarter,
                    program,
                    int(np.clip(sounding, 0, 127)),
                    int(np.clip(loud, 18, 127)),
                )
            )
    average = np.average([p for p, _ in heard], weights=[w for _, w in heard])
    register = "low" if average < 56 else "high" if average > 68 else "middle"
    return sorted(sounds, key=lambda s: (s.start, s.program, s.pitch)), register
