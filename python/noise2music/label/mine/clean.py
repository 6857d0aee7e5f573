"""From answers to captions: sentences, and filters that tell what each of them dropped.

In this order: refusals, names of the song or its artist, length, language, facts about a recording
that nobody hears, sentences that describe no music, near duplicates. A filter sees what those
before it left, so the counts add up to the number of sentences.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable
from importlib import resources

import numpy as np

from noise2music.label.mine.ask import is_refusal
from noise2music.label.mine.prompt import Song
from noise2music.label.raters import split_sentences

FILTERS = ("refusal", "name", "length", "language", "fact", "not music", "near duplicate")
_EXAMPLES = 5
_WORDS = (4, 40)
_CHARACTERS = 300
_ALIKE = 0.8  # Jaccard similarity of two sentences' words

_FUNCTION = frozenset(
    "a an the and or of in on at to with for by from is are it its this that as but over under "
    "into while which has have be".split()
)
_MUSIC = frozenset(
    (resources.files(__package__) / "music_words.txt").read_text(encoding="utf-8").split()
)
_FACT = re.compile(
    r"\b(released?|album|chart(s|ed)?|billboard|grammys?|number one|lyrics?|written by|co-?written|"
    r"produced by|producer|recorded (in|at|by)|soundtrack|film|movie|music video|single|band's|"
    r"record label|copyright|million copies|platinum|(19|20)\d\d)\b",
    re.I,
)


@dataclasses.dataclass
class Cleaned:
    """captions in order; sentences: how many there were; dropped and examples by filter."""

    captions: list[str]
    sentences: int
    dropped: dict[str, int]
    examples: dict[str, list[str]]


def clean(answers: Iterable[tuple[Song, str]]) -> Cleaned:
    """Captions of (song, answer)."""
    out = Cleaned([], 0, dict.fromkeys(FILTERS, 0), {name: [] for name in FILTERS})
    seen = _Seen()
    for song, answer in answers:
        for sentence in split_sentences(_plain(answer)):
            out.sentences += 1
            why = _fault(sentence, song) or ("near duplicate" if seen.is_alike(sentence) else None)
            if why is None:
                out.captions.append(sentence)
                continue
            out.dropped[why] += 1
            if len(out.examples[why]) < _EXAMPLES:
                out.examples[why].append(sentence[:200])
    return out


def _plain(text: str) -> str:
    """Without the marks of lists and of Markdown."""
    text = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", text, flags=re.M)
    return re.sub(r"\*\*|__|`|^#+\s*", "", text, flags=re.M)


def _fault(sentence: str, song: Song) -> str | None:
    """The first filter that drops the sentence."""
    words = _words(sentence)
    if is_refusal(sentence):
        return "refusal"
    if _names(sentence, song):
        return "name"
    if not _WORDS[0] <= len(words) <= _WORDS[1] or len(sentence) > _CHARACTERS:
        return "length"
    letters = [c for c in sentence if c.isalpha()]
    english = sum(c.isascii() for c in letters) >= 0.9 * len(letters)
    if not english or not _FUNCTION.intersection(words):
        return "language"
    if _FACT.search(sentence):
        return "fact"
    if not _MUSIC.intersection(words):
        return "not music"
    return None


def _names(sentence: str, song: Song) -> bool:
    """Whether the title, the artist or a part of the artist's name stands in the sentence.

    A title of common words ("Piano", "Blue") is a name only in quotes or after "by".
    """
    spaced = f" {' '.join(_words(sentence))} "
    for name in (song.title, song.artist):
        words = _words(name)
        if len(words) > 1 and f" {' '.join(words)} " in spaced:
            return True
        if len(words) == 1 and re.search(
            rf"(?:[\"'“]|\bby ){re.escape(words[0])}\b", sentence, re.I
        ):
            return True
        if len(words) == 1 and words[0] not in _MUSIC and len(words[0]) > 3:
            if re.search(rf"\b{re.escape(words[0])}\b", sentence, re.I):
                capital = re.search(rf"(?<!^)\b{re.escape(words[0].capitalize())}\b", sentence)
                if capital or name is song.artist:
                    return True
    parts = [w for w in _words(song.artist) if len(w) > 3 and w not in _FUNCTION | _MUSIC]
    return any(re.search(rf"\b{re.escape(w.capitalize())}\b", sentence[1:]) for w in parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:[-'&][^\W_]+)*", text.casefold().replace("’", "'"))


class _Seen:
    """Sentences so far by their words: minima of hashes find those that may be alike (MinHash)."""

    _BANDS, _ROWS = 12, 3

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n = self._BANDS * self._ROWS
        self._a = rng.integers(1, 2**31, n, dtype=np.uint64) | np.uint64(1)
        self._b = rng.integers(0, 2**31, n, dtype=np.uint64)
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(self._BANDS)]
        self._known: list[frozenset[int]] = []

    def is_alike(self, sentence: str) -> bool:
        """Whether a sentence before it has nearly the same words; if not, it is remembered."""
        words = frozenset(zlib.crc32(w.encode()) for w in _words(sentence) if w not in _FUNCTION)
        hashes = np.fromiter(words, np.uint64, len(words))
        minima = ((hashes[:, None] * self._a + self._b) & np.uint64(0xFFFFFFFF)).min(axis=0)
        rows = minima.reshape(self._BANDS, self._ROWS)
        keys = [row.tobytes() for row in rows]
        for bucket, key in zip(self._buckets, keys, strict=True):
            for i in bucket.get(key, ()):
                other = self._known[i]
                if len(words & other) >= _ALIKE * len(words | other):
                    return True
        for bucket, key in zip(self._buckets, keys, strict=True):
            bucket.setdefault(key, []).append(len(self._known))
        self._known.append(words)
        return False
