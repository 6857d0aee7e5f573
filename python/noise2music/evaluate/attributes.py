"""Captions that name each value of an attribute of the corpus: zero-shot classes.

A value's captions are its words in the corpus' grammar, in several contexts, the same for every
value of the attribute: an attribute's word beside each family ("organ, d minor", "flute, d minor",
...), a family's beside each genre. A clip's value is the one whose captions' mean embedding is
nearest. The other way round, `stated` reads back what a caption of that grammar says of a clip.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
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


def stated(caption: str) -> dict[str, set[str]]:
    """attribute -> the values it may have where a caption of the grammar is true.

    "trumpet, D minor" -> instrument {trumpet}, family {brass}, key {D minor}, mode {minor}. What
    the caption says nothing of is not there. An instrument's word that is its family's too
    ("flute") states the family only, and of jig and reel only folk is read, not the metre.
    """
    found: dict[str, set[str]] = defaultdict(set)
    pattern, meanings = _meanings()
    for word in pattern.findall(caption.lower()):
        for attribute, values in meanings[word].items():
            found[attribute] |= values
    for tonic, sign, mode in _KEY.findall(caption):
        found["key"].add(tonic + _SIGNS[sign] + " " + mode)
        found["mode"].add(mode)
    for attribute, number in (("bpm", _BPM), ("metre", _METRE)):
        if values := set(number.findall(caption)):
            found[attribute] = values
    return dict(found)


def is_true(attribute: str, values: Iterable[str], value: str) -> bool:
    """Whether a caption that states these values is true of a clip that has `value`."""
    return any(is_right(attribute, one, value) for one in values)


_SIGNS = {"": "", "b": "b", "#": "#", " flat": "b", " sharp": "#"}
_KEY = re.compile(r"\b([A-G])(b|#| flat| sharp|) (major|minor)\b")
_BPM = re.compile(r"\b(\d+) (?:bpm|BPM|beats per minute)\b")
_METRE = re.compile(r"\b\d+/\d+\b")


@functools.cache
def _meanings() -> tuple[re.Pattern[str], dict[str, dict[str, set[str]]]]:
    """(finds the grammar's words, the longest first; word -> attribute -> values)."""
    meanings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for attribute in ("family", "genre", "drums", "tempo", "register", "dynamics"):
        for value, words in _phrases(attribute).items():
            for word in words:
                meanings[word][attribute].add(value)
    for family in FAMILIES.values():
        for voice in family.voices:
            for word in set(voice.words) - set(family.words):
                meanings[word]["family"].add(family.name)
                meanings[word]["instrument"].add(voice.name)
    for dance in ("jig", "reel"):
        meanings[dance]["genre"].add("folk")
    longest_first = sorted(meanings, key=len, reverse=True)
    return re.compile(
        rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"
    ), meanings


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
