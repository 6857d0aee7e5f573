"""The closed vocabulary of the corpus: families, instruments, genres, keys, tempo words.

Every label that a caption can mention is defined here once, with the words that may stand for it.
Programs are General MIDI numbers counted from 0.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Voice:
    """One way to play a family: `programs` are dealt to the parts from the highest to the lowest.

    `low` and `high` bound the MIDI pitches; notes outside are folded in by octaves.
    """

    name: str
    programs: tuple[int, ...]
    low: int
    high: int
    words: tuple[str, ...]
    genres: tuple[str, ...] = ()
    """Genres that this voice is kept to; empty: any."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A class of instruments that sound alike; `centre` is the mean MIDI pitch it likes."""

    name: str
    words: tuple[str, ...]
    centre: int
    voices: tuple[Voice, ...]
    overlap: float = 1.0
    """Factor on the notes' written length: blown and bowed sounds need a gap to be re-attacked."""


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "piano",
            ("piano",),
            62,
            (
                Voice("grand piano", (0,), 26, 102, ("piano", "grand piano", "acoustic piano")),
                Voice("bright piano", (1,), 26, 102, ("piano", "bright piano")),
                Voice("honky-tonk piano", (3,), 26, 102, ("honky-tonk piano",), ("ragtime",)),
            ),
        ),
        Family(
            "organ",
            ("organ",),
            60,
            (
                Voice("church organ", (19,), 31, 96, ("church organ", "pipe organ", "organ")),
                Voice("reed organ", (20,), 31, 96, ("reed organ", "harmonium")),
                Voice("drawbar organ", (16,), 31, 96, ("drawbar organ", "electric organ")),
            ),
            0.93,
        ),
        Family(
            "harpsichord",
            ("harpsichord",),
            62,
            (Voice("harpsichord", (6,), 29, 91, ("harpsichord", "cembalo")),),
        ),
        Family(
            "guitar",
            ("guitar",),
            57,
            (
                Voice("classical guitar", (24,), 38, 84, ("classical guitar", "nylon guitar")),
                Voice("acoustic guitar", (25,), 38, 84, ("acoustic guitar", "steel guitar")),
                Voice("electric guitar", (27,), 38, 86, ("electric guitar", "clean guitar")),
                Voice(
                    "distorted guitar",
                    (29,),
                    38,
                    84,
                    ("distorted guitar", "overdriven guitar"),
                    ("rock",),
                ),
            ),
        ),
        Family(
            "strings",
            ("strings",),
            63,
            (
                Voice(
                    "string quartet",
                    (40, 40, 41, 42),
                    36,
                    96,
                    ("string quartet", "violins and cello"),
                ),
                Voice("string ensemble", (48,), 31, 96, ("string ensemble", "string orchestra")),
                Voice("violin", (40,), 50, 100, ("violin", "fiddle"), ("folk",)),
                Voice("cello", (42,), 36, 76, ("cello",), ("folk",)),
            ),
            0.9,
        ),
        Family(
            "flute",
            ("flute", "woodwind"),
            76,
            (
                Voice("flute", (73,), 57, 98, ("flute",)),
                Voice("recorder", (74,), 60, 98, ("recorder",)),
                Voice("pan flute", (75,), 57, 98, ("pan flute",)),
            ),
            0.88,
        ),
        Family(
            "choir",
            ("choir", "voices"),
            62,
            (
                Voice("choir", (52,), 38, 84, ("choir", "mixed choir", "choir singing ah")),
                Voice("humming voices", (53,), 38, 84, ("humming choir", "choir singing ooh")),
            ),
            0.9,
        ),
        Family(
            "brass",
            ("brass",),
            61,
            (
                Voice("trumpet", (56,), 48, 88, ("trumpet", "trumpets")),
                Voice("brass ensemble", (56, 56, 60, 57), 34, 86, ("brass ensemble", "horns")),
                Voice("brass section", (61,), 36, 86, ("brass section",)),
                Voice("trombone", (57,), 36, 76, ("trombone", "trombones")),
            ),
            0.88,
        ),
        Family(
            "synth",
            ("synth", "synthesizer"),
            64,
            (
                Voice("saw synth", (81,), 31, 96, ("saw synth", "saw lead synthesizer")),
                Voice("square synth", (80,), 31, 96, ("square synth", "square-wave synthesizer")),
                Voice("poly synth", (90,), 31, 96, ("polysynth", "synthesizer pad")),
            ),
            0.9,
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Genre:
    """A style; `weight` is its share of the corpus, `source` the renderer's input."""

    name: str
    source: str
    weight: float
    nouns: tuple[str, ...]
    tags: tuple[str, ...]


GENRES: dict[str, Genre] = {
    genre.name: genre
    for genre in (
        Genre(
            "chorale",
            "scores",
            0.15,
            ("chorale", "hymn-like chorale", "four-part chorale"),
            ("chorale", "hymn"),
        ),
        Genre(
            "classical",
            "scores",
            0.13,
            ("classical piece", "classical chamber piece"),
            ("classical", "chamber music"),
        ),
        Genre("folk", "scores", 0.15, ("folk dance", "folk tune", "traditional dance"), ("folk",)),
        Genre("ragtime", "mma", 0.09, ("rag", "ragtime piece", "ragtime tune"), ("ragtime",)),
        Genre("rock", "mma", 0.1, ("rock groove", "rock song", "rock track"), ("rock",)),
        Genre("swing", "mma", 0.1, ("swing tune", "swing jazz piece"), ("swing", "jazz")),
        Genre("latin", "mma", 0.09, ("latin groove", "latin dance", "latin tune"), ("latin",)),
        Genre("waltz", "mma", 0.09, ("waltz", "waltz tune"), ("waltz",)),
        Genre(
            "dance",
            "mma",
            0.1,
            ("techno track", "electronic dance track", "dance beat"),
            ("techno", "dance", "electronic"),
        ),
    )
}

MODES = ("major", "minor")
TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
DYNAMICS = {
    "soft": ("soft", "quiet", "gentle"),
    "medium": ("medium-loud", "moderately loud"),
    "loud": ("loud", "powerful", "forceful"),
}
REGISTERS = {
    "low": ("low", "deep"),
    "middle": ("middle",),
    "high": ("high", "bright high"),
}
TEMPO_RANGE = (60, 180)
"""Beats a minute, inclusive; drawn log-uniformly."""


def tempo_words(bpm: float) -> tuple[str, ...]:
    """Adjectives for a tempo in beats a minute: four bands split at 76, 108 and 138."""
    if bpm < 76:
        return ("slow", "very slow", "adagio")
    if bpm < 108:
        return ("moderate", "mid-tempo", "andante")
    if bpm < 138:
        return ("lively", "upbeat", "allegro")
    return ("fast", "very fast", "presto")


def key_name(tonic: int, mode: str) -> str:
    """Tonic's usual spelling, e.g. (1, "major") -> "Db". tonic: pitch class 0..11, C = 0."""
    return TONICS[mode][tonic % 12]
