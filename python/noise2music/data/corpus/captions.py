"""A small grammar from attributes to English: captions to train on, prompts to judge by.

`attributes` is the manifest's dict: family, instruments, genre, tempo_bpm, key, mode, metre,
register, dynamics, drums. The same phrase makers serve both, so a prompt never uses a word that
training did not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noise2music.data.corpus.vocabulary import DYNAMICS, FAMILIES, GENRES, REGISTERS, tempo_words

Attributes = Mapping[str, Any]
# How often each is drawn. Tempo and key are what a model finds hardest to learn from text, and what
# a prompt most often states in numbers, so three captions in four tell each of them.
_OPTIONAL = {"bpm": 8, "key": 8, "tempo": 1, "metre": 1, "register": 1, "dynamics": 1, "drums": 1}
_COUNTS = (0.06, 0.08, 0.36, 0.3, 0.2)  # of 0 to 4 such attributes in a caption


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def instrument_words(attributes: Attributes, rng: np.random.Generator) -> str:
    """The family's name in about a third of the draws, else a name of the instrument itself."""
    family = FAMILIES[attributes["family"]]
    if rng.random() < 0.35:
        return _pick(rng, family.words)
    lead = attributes["instruments"][0]
    for voice in family.voices:
        if voice.name == lead:
            return _pick(rng, voice.words)
    return str(lead)


def genre_noun(attributes: Attributes, rng: np.random.Generator) -> str:
    """A countable noun for the style; folk dances are named by their metre at times."""
    if attributes["genre"] == "folk" and rng.random() < 0.35:
        if attributes["metre"] in ("6/8", "9/8", "12/8"):
            return "jig"
        if attributes["metre"] in ("2/4", "4/4"):
            return "reel"
    return _pick(rng, GENRES[attributes["genre"]].nouns)


def _key(attributes: Attributes, rng: np.random.Generator) -> str:
    tonic = attributes["key"]
    if len(tonic) == 2 and rng.random() < 0.5:
        tonic = tonic[0] + (" flat" if tonic[1] == "b" else " sharp")
    return f"{tonic} {attributes['mode']}"


def _bpm(attributes: Attributes, rng: np.random.Generator) -> str:
    bpm = round(attributes["tempo_bpm"])
    return _pick(rng, (f"{bpm} BPM", f"{bpm} bpm", f"{bpm} beats per minute"))


def _tails(
    attributes: Attributes, chosen: Sequence[str], rng: np.random.Generator, tags: bool
) -> list[str]:
    """One short phrase for each chosen attribute, as tags or as prepositional phrases."""
    out = []
    for name in chosen:
        if name == "bpm":
            out.append(_bpm(attributes, rng) if tags else f"at {_bpm(attributes, rng)}")
        elif name == "key":
            out.append(_key(attributes, rng) if tags else f"in {_key(attributes, rng)}")
        elif name == "metre":
            metre = attributes["metre"]
            out.append(metre if tags else _pick(rng, (f"in {metre}", f"in {metre} time")))
        elif name == "register":
            word = _pick(rng, REGISTERS[attributes["register"]])
            out.append(f"{word} register" if tags else f"in a {word} register")
        elif name == "drums":
            has = attributes["drums"]
            out.append(_pick(rng, ("with drums", "with a drum beat")) if has else "without drums")
        elif name == "dynamics" and tags:
            out.append(_pick(rng, DYNAMICS[attributes["dynamics"]]))
        elif name == "tempo" and tags:
            word = _pick(rng, tempo_words(attributes["tempo_bpm"]))
            out.append(_pick(rng, (word, f"{word} tempo")))
    return out


def _head(attributes: Attributes, chosen: Sequence[str], rng: np.random.Generator) -> str:
    """The noun phrase: instrument and genre in one of several orders, adjectives in front."""
    instrument = instrument_words(attributes, rng)
    noun = genre_noun(attributes, rng)
    adjectives = []
    if "tempo" in chosen:
        adjectives.append(_pick(rng, tempo_words(attributes["tempo_bpm"])))
    if "dynamics" in chosen:
        adjectives.append(_pick(rng, DYNAMICS[attributes["dynamics"]]))
    if len(adjectives) == 2 and rng.random() < 0.5:
        adjectives.reverse()
    front = ", ".join(adjectives) + (" " if adjectives else "")
    form = int(rng.integers(4))
    if form == 0:
        return f"{front}{instrument} {noun}"
    if form == 1:
        return f"{front}{noun} for {instrument}"
    if form == 2:
        return (
            f"{front}{noun} played on {instrument}"
            if "choir" not in instrument
            else (f"{front}{noun} sung by {instrument}")
        )
    return (
        f"{instrument} playing {_article(front + noun)}"
        if "choir" not in instrument
        else (f"{instrument} singing {_article(front + noun)}")
    )


def _sentence(attributes: Attributes, chosen: Sequence[str], rng: np.random.Generator) -> str:
    head = _head(attributes, chosen, rng)
    tails = _tails(attributes, chosen, rng, tags=False)
    order = rng.permutation(len(tails))
    joined = " ".join([head, *(tails[i] for i in order[:3])])
    rest = [tails[i] for i in order[3:]]
    if rest:
        joined += ", " + ", ".join(rest)
    form = int(rng.integers(4))
    bare = " playing a" in head or " singing a" in head
    if form == 0:
        return joined
    if form == 1:
        return joined[0].upper() + joined[1:] + "."
    opener = _pick(rng, ("This is ", "We hear ", "A recording of ", "Music: "))
    return f"{opener}{joined if bare or opener == 'Music: ' else _article(joined)}."


def _tag_list(attributes: Attributes, chosen: Sequence[str], rng: np.random.Generator) -> str:
    words = [
        instrument_words(attributes, rng),
        _pick(rng, GENRES[attributes["genre"]].tags),
        *_tails(attributes, chosen, rng, tags=True),
    ]
    order = rng.permutation(len(words)) if rng.random() < 0.7 else range(len(words))
    return ", ".join(words[i] for i in order)


def compose_caption(attributes: Attributes, rng: np.random.Generator) -> str:
    """One caption naming 2 to 6 attributes; instrument and genre are among them in most.

    About a tenth of the captions name one of the two only, with one to four other attributes.
    """
    available = [name for name in _OPTIONAL if name != "drums" or attributes["source"] == "mma"]
    weights = np.array([_OPTIONAL[name] for name in available], float)
    count = int(rng.choice(5, p=_COUNTS))
    drawn = rng.choice(len(available), size=count, replace=False, p=weights / weights.sum())
    chosen = [available[i] for i in drawn]
    draw = rng.random()
    if draw < 0.1:
        chosen = chosen or ["bpm" if rng.random() < 0.5 else "key"]
        lead = (
            instrument_words(attributes, rng)
            if rng.random() < 0.6
            else _pick(rng, GENRES[attributes["genre"]].tags)
        )
        return ", ".join([lead, *_tails(attributes, chosen, rng, tags=True)])
    if draw < 0.35:
        return _tag_list(attributes, chosen, rng)
    return _sentence(attributes, chosen, rng)


def compose_captions(attributes: Attributes, rng: np.random.Generator, count: int = 6) -> list[str]:
    """`count` different captions of one clip."""
    captions: list[str] = []
    while len(captions) < count:
        caption = compose_caption(attributes, rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def compose_prompt(attributes: Attributes, rng: np.random.Generator) -> str:
    """A prompt in the captions' grammar that always states instrument, genre, BPM and key.

    attributes: a manifest line's dict; rng: numpy Generator, the only source of variation.
    """
    chosen = ["bpm", "key"]
    if rng.random() < 0.5:
        chosen.append("tempo")
    if rng.random() < 0.35:
        return _tag_list(attributes, chosen, rng)
    return _sentence(attributes, chosen, rng)
