"""Vocabularies of the corpus' own grammar: what its captions can say, without any network.

Sentences are drawn: attributes at random, then `compose_caption`. Short phrases are all there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from noise2music.data.corpus.captions import compose_caption
from noise2music.data.corpus.vocabulary import (
    DYNAMICS,
    FAMILIES,
    GENRES,
    REGISTERS,
    TEMPO_RANGE,
    TONICS,
    tempo_words,
)
from noise2music.errors import UserError

_METRES = ("2/4", "3/4", "4/4", "6/8", "9/8", "12/8")


def sentences(count: int, seed: int = 0) -> list[str]:
    """`count` different captions of the grammar. UserError where it does not know so many."""
    rng = np.random.default_rng((seed, 0x1AB))
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            return list(found)
        found.setdefault(compose_caption(_attributes(rng), rng))
    if len(found) < count:
        raise UserError(f"the grammar gave only {len(found)} captions in {20 * count} draws")
    return list(found)


def phrases() -> list[str]:
    """Every short phrase: instruments, styles, tempi, keys, metres, registers, dynamics, drums."""
    return list(dict.fromkeys(_phrases()))


def _phrases() -> Iterator[str]:
    for family in FAMILIES.values():
        yield from family.words
        for voice in family.voices:
            yield from voice.words
    for genre in GENRES.values():
        yield from genre.tags
        yield from genre.nouns
    for bpm in range(TEMPO_RANGE[0], TEMPO_RANGE[1] + 1):
        yield f"{bpm} BPM"
        for word in tempo_words(bpm):
            yield word
            yield f"{word} tempo"
    for mode, tonics in TONICS.items():
        yield from (f"{tonic} {mode}" for tonic in tonics)
    yield from _METRES
    for words in REGISTERS.values():
        yield from (f"{word} register" for word in words)
    for words in DYNAMICS.values():
        yield from words
    yield from ("with drums", "with a drum beat", "without drums")


def _attributes(rng: np.random.Generator) -> dict[str, Any]:
    def pick(options: Any) -> Any:
        options = list(options)
        return options[int(rng.integers(len(options)))]

    genre = GENRES[pick(GENRES)]
    family = FAMILIES[pick(FAMILIES)]
    voices = [v for v in family.voices if not v.genres or genre.name in v.genres]
    mode = pick(TONICS)
    low, high = TEMPO_RANGE
    return {
        "family": family.name,
        "instruments": [pick(voices).name],
        "genre": genre.name,
        "source": genre.source,
        "tempo_bpm": float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        "key": pick(TONICS[mode]),
        "mode": mode,
        "metre": "3/4" if genre.name == "waltz" else pick(_METRES),
        "register": pick(REGISTERS),
        "dynamics": pick(DYNAMICS),
        "drums": bool(rng.integers(2)),
    }
