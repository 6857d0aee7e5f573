"""The caption grammar: every word true, every prompt complete, nothing outside the vocabulary."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from noise2music.data.corpus import FAMILIES, GENRES, compose_captions, compose_prompt
from noise2music.data.corpus.captions import compose_caption
from noise2music.data.corpus.vocabulary import (
    DYNAMICS,
    MODES,
    REGISTERS,
    TONICS,
    key_name,
    tempo_words,
)

ALL_TEMPO_WORDS = {word for bpm in (60, 90, 120, 170) for word in tempo_words(bpm)}


def example(family: str = "organ", genre: str = "chorale", **changes: Any) -> dict[str, Any]:
    voice = next(v for v in FAMILIES[family].voices if not v.genres or genre in v.genres)
    attributes = {
        "source": GENRES[genre].source,
        "genre": genre,
        "family": family,
        "instruments": [voice.name],
        "drums": False,
        "tempo_bpm": 66,
        "key": "Bb",
        "tonic": 10,
        "mode": "minor",
        "metre": "4/4",
        "register": "low",
        "dynamics": "soft",
    }
    return {**attributes, **changes}


def names_family(text: str, family: str) -> bool:
    words = set(FAMILIES[family].words)
    words |= {w for voice in FAMILIES[family].voices for w in (voice.name, *voice.words)}
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


@pytest.mark.parametrize(("family", "genre"), list(itertools.product(FAMILIES, GENRES)))
def test_prompt_states_instrument_genre_tempo_and_key(family: str, genre: str) -> None:
    rng = np.random.default_rng(1)
    nouns = {*GENRES[genre].nouns, *GENRES[genre].tags, "jig", "reel"}
    for _ in range(6):
        prompt = compose_prompt(example(family, genre), rng).lower()
        assert names_family(prompt, family), prompt
        assert any(noun in prompt for noun in nouns), prompt
        assert re.search(r"\b66 (bpm|beats per minute)", prompt), prompt
        assert "bb minor" in prompt or "b flat minor" in prompt, prompt


def test_same_generator_gives_the_same_words() -> None:
    first = compose_captions(example(), np.random.default_rng(7))
    assert first == compose_captions(example(), np.random.default_rng(7))
    assert first != compose_captions(example(), np.random.default_rng(8))


def test_captions_of_a_clip_differ_and_are_short_lines() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        captions = compose_captions(example(), rng, 5)
        assert len(set(captions)) == 5
        assert all(0 < len(c) < 200 and c == c.strip() and "\n" not in c for c in captions)


def test_no_caption_says_what_is_not_so() -> None:
    rng = np.random.default_rng(3)
    attributes = example(dynamics="loud", register="high", tempo_bpm=170, mode="major", key="F#")
    false_words = {
        *(ALL_TEMPO_WORDS - set(tempo_words(170))),
        *DYNAMICS["soft"],
        *REGISTERS["low"],
        "minor",
        "with drums",
        "piano",
    }
    for _ in range(600):
        caption = compose_caption(attributes, rng)
        for word in false_words:
            assert not re.search(rf"\b{word}\b", caption, re.IGNORECASE), (word, caption)


def test_most_captions_name_the_family_and_some_give_the_number() -> None:
    rng = np.random.default_rng(5)
    captions = [compose_caption(example(), rng) for _ in range(1000)]
    assert sum(names_family(c, "organ") for c in captions) > 900
    numbered = sum(bool(re.search(r"\b66 (bpm|beats)", c, re.IGNORECASE)) for c in captions)
    worded = sum(any(w in c.lower() for w in tempo_words(66)) for c in captions)
    keyed = sum("minor" in c for c in captions)
    assert min(numbered, worded, keyed) > 200
    assert max(numbered, worded, keyed) < 850


def test_articles_agree() -> None:
    rng = np.random.default_rng(11)
    for family, genre in itertools.product(FAMILIES, GENRES):
        for _ in range(12):
            caption = compose_caption(example(family, genre), rng)
            assert not re.search(r"\ba [aeio]", caption), caption
            assert not re.search(r"\ban [^aeiou]", caption), caption
            assert "  " not in caption


def test_the_vocabulary_is_moderate() -> None:
    rng = np.random.default_rng(2)
    words = set()
    for family, genre in itertools.product(FAMILIES, GENRES):
        for _ in range(16):
            words |= set(
                re.findall(r"[a-z]+", compose_caption(example(family, genre), rng).lower())
            )
    assert 80 < len(words) < 250


def test_keys_and_tempo_words_are_total() -> None:
    for mode in MODES:
        assert [key_name(t + 12, mode) for t in range(12)] == list(TONICS[mode])
    assert len({tempo_words(bpm) for bpm in range(60, 181)}) == 4


def test_genre_weights_make_one_and_sources_are_balanced() -> None:
    assert sum(g.weight for g in GENRES.values()) == pytest.approx(1.0)
    scores = sum(g.weight for g in GENRES.values() if g.source == "scores")
    assert 0.4 < scores < 0.6
