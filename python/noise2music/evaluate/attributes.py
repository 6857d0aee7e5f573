"""Captions that name each value of an attribute of the corpus: zero-shot classes.

A value's captions are its words in the corpus' grammar, in several contexts, the same for every
value of the attribute: an attribute's word beside each family ("organ, d minor", "flute, d minor",
...), a family's beside each genre. A clip's value is the one whose captions' mean embedding is
nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noise2music.data.corpus.vocabulary import (
    DYNAMICS,
    FAMILIES,
    GENRES,
    MODES,
    REGISTERS,
    TEMPO_RANGE,
    TONICS,
    tempo_words,
)

METRES = ("2/4", "3/4", "4/4", "2/2", "6/8")
_BPM_STEP = 1.04  # from one BPM class to the next; right is within 8 %
BPM_TOLERANCE = 0.08
ATTRIBUTES = (
    *("family", "instrument", "genre", "drums", "tempo", "bpm", "key", "mode"),
    *("metre", "register", "dynamics"),
)


def captions_of(attribute: str) -> dict[str, list[str]]:
    """value -> captions that name it, of one of ATTRIBUTES."""
    leads = [family.words[0] for family in FAMILIES.values()]
    if attribute in ("family", "instrument"):
        leads = [genre.tags[0] for genre in GENRES.values()]
    return {
        value: [f"{lead}, {phrase}" for phrase in dict.fromkeys(phrases) for lead in leads]
        for value, phrases in _phrases(attribute).items()
    }


def value_of(attribute: str, clip: Mapping[str, Any]) -> str | None:
    """The value of a clip's attributes, as captions_of names it; None where it has none."""
    try:
        if attribute == "instrument":
            return str(clip["instruments"][0])
        if attribute == "tempo":
            return tempo_words(clip["tempo_bpm"])[0]
        if attribute == "bpm":
            return str(round(clip["tempo_bpm"]))
        if attribute == "key":
            return f"{clip['key']} {clip['mode']}"
        if attribute == "drums":
            return "with" if clip["drums"] else "without"
        return str(clip[attribute])
    except (KeyError, IndexError, TypeError):
        return None


def is_right(attribute: str, guess: str, value: str) -> bool:
    """Equal, or for BPM within 8 %."""
    if attribute == "bpm":
        return abs(float(guess) / float(value) - 1.0) <= BPM_TOLERANCE
    return guess == value


def _phrases(attribute: str) -> dict[str, list[str]]:
    if attribute == "family":
        return {family.name: list(family.words) for family in FAMILIES.values()}
    if attribute == "instrument":
        return {v.name: list(v.words) for family in FAMILIES.values() for v in family.voices}
    if attribute == "genre":
        return {genre.name: [*genre.nouns, *genre.tags] for genre in GENRES.values()}
    if attribute == "drums":
        return {"with": ["with drums", "with a drum beat"], "without": ["without drums"]}
    if attribute == "tempo":
        words = [tempo_words(bpm) for bpm in (60, 90, 120, 160)]
        return {first: [first, *others] for first, *others in words}
    if attribute == "bpm":
        low, high = TEMPO_RANGE
        bpm = {round(low * _BPM_STEP**i) for i in range(100) if low * _BPM_STEP**i <= high}
        return {str(b): [f"{b} bpm", f"{b} beats per minute"] for b in sorted(bpm)}
    keys = {f"{t} {mode}": [f"{t} {mode}"] for mode in MODES for t in TONICS[mode]}
    if attribute == "key":
        return keys
    if attribute == "mode":
        return {m: [k for k in keys if k.endswith(m)] for m in MODES}
    if attribute == "metre":
        return {metre: [metre, f"in {metre}", f"in {metre} time"] for metre in METRES}
    if attribute == "register":
        return {name: [f"{word} register" for word in words] for name, words in REGISTERS.items()}
    return {name: list(words) for name, words in DYNAMICS.items()}
