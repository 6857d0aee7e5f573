r"""Does a joint encoder find the clip of a text, the text of a clip, and what a clip is?

Of N pairs (a_i, b_i) of sound and text, with cosines s_ij = <a_i, b_j>, text i finds its clip at
rank

    r_i = 1 + |{j != i : s_ji >= s_ii}|,      R@k = |{i : r_i <= k}| / N,

and clip i its text with s_ij for s_ji. Equal cosines count against it, so an encoder that maps all
to one point is at the last rank, not at the first. Zero-shot accuracy: attributes.py. Beside each
figure stands the same with every clip given another's text or value: chance, as this encoder has
it.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate import attributes
from noise2music.evaluate.embedding import Embedded
from noise2music.evaluate.encoders.protocol import Array, JointEncoder, unit_rows
from noise2music.evaluate.similarity import Average, average
from noise2music.evaluate.sounds import Item

SHUFFLES = 20
_TOP = (1, 10)


@dataclasses.dataclass(frozen=True)
class Direction:
    """One way of asking: recall[k] = R@k, median rank, and R@k of the shuffled pairs."""

    recall: dict[int, Average]
    median_rank: float
    shuffled: dict[int, float]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Zero-shot accuracy of one attribute; commonest: share of the most frequent value."""

    clips: int
    classes: int
    accuracy: Average
    shuffled: float
    commonest: float


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """What one encoder found among `clips` pairs; attributes where the manifest has them."""

    encoder: str
    weights: str
    clips: int
    text_to_audio: Direction
    audio_to_text: Direction
    attributes: dict[str, Accuracy]

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return dataclasses.asdict(self)


def read_rows(manifest: Path) -> dict[str, dict[str, Any]]:
    """id -> line of a manifest that read_set has read (captions, attributes)."""
    path = manifest / "manifest.jsonl" if manifest.is_dir() else manifest
    if not path.is_file():
        raise UserError(f"retrieval needs captions: {str(path)!r} must be a manifest")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return {str(row.get("id", Path(str(row["audio"])).stem)): row for row in rows}


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """All texts of a manifest's line."""
    one = [row[name] for name in ("prompt", "caption") if row.get(name)]
    return [str(text) for text in (*one, *(row.get("captions") or ()))]


def unseen_texts(
    items: Sequence[Item], rows: Mapping[str, Mapping[str, Any]], seen: Iterable[str] = ()
) -> tuple[list[Item], int]:
    """(the clips with their first caption that is not in `seen`, how many have none)."""
    known = set(seen)
    found = []
    for item in items:
        text = next((c for c in captions_of(rows[item.id]) if c not in known), None)
        if text is not None:
            found.append(dataclasses.replace(item, text=text))
    return found, len(items) - len(found)


def ranks(similarity: Array) -> Array:
    """(N, N), a row a question and its answer on the diagonal -> (N,) ranks from 1."""
    own = np.diagonal(similarity)[:, None]
    return (similarity >= own).sum(axis=1)


def others(count: int, seed: int) -> Array:
    """For each of `count` >= 2 clips another one, each once: one cycle through all."""
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return partner


def find(similarity: Array) -> Direction:
    """Recall of (N, N) cosines, a row a question and its answer on the diagonal."""
    place = ranks(similarity)
    wrong = [ranks(similarity[:, others(len(place), s)]) for s in range(SHUFFLES)]
    return Direction(
        recall={k: average((place <= k).astype(float)) for k in _TOP},
        median_rank=float(np.median(place)),
        shuffled={k: float(np.mean([w <= k for w in wrong])) for k in _TOP},
    )


def classify(
    audio: Array, clips: Sequence[Mapping[str, Any]], attribute: str, encoder: JointEncoder
) -> Accuracy | None:
    """Zero-shot accuracy of one attribute for unit rows (N, d); None where fewer than two clips or
    two values are told."""
    named = attributes.captions_of(attribute)
    told = [attributes.value_of(attribute, clip) for clip in clips]
    known = [v is not None and (v in named or attribute == "bpm") for v in told]
    here = np.flatnonzero(known)
    values = [str(told[i]) for i in here]
    if attribute != "bpm":  # classes that no clip has would only be ways to be wrong
        named = {value: texts for value, texts in named.items() if value in set(values)}
    if len(set(values)) < 2 or len(named) < 2:
        return None
    flat = [text for texts in named.values() for text in texts]
    read = unit_rows(encoder.embed_text(flat))
    owner = np.repeat(np.arange(len(named)), [len(texts) for texts in named.values()])
    means = np.stack([read[owner == i].mean(axis=0) for i in range(len(named))])
    nearest = (audio[here] @ unit_rows(means).T).argmax(axis=1)
    guess = [list(named)[i] for i in nearest]

    def right(order: Array) -> Array:
        pairs = zip(guess, order, strict=True)
        return np.array([attributes.is_right(attribute, g, values[j]) for g, j in pairs], float)

    shuffled = [right(others(len(values), s)).mean() for s in range(SHUFFLES)]
    return Accuracy(
        clips=len(values),
        classes=len(named),
        accuracy=average(right(np.arange(len(values)))),
        shuffled=float(np.mean(shuffled)),
        commonest=max(Counter(values).values()) / len(values),
    )


def retrieval(
    heard: Embedded, rows: Mapping[str, Mapping[str, Any]], encoder: JointEncoder
) -> RetrievalResult:
    """Recall both ways for the clips of a set with their texts, and accuracy by attribute."""
    if len(heard.items) < 2:
        raise UserError(f"retrieval needs at least 2 clips with a caption, got {len(heard.items)}")
    audio = unit_rows(heard.means)
    cosines = audio @ unit_rows(encoder.embed_text([item.text for item in heard.items])).T
    known = [rows[item.id].get("attributes") or {} for item in heard.items]
    found = {name: classify(audio, known, name, encoder) for name in attributes.ATTRIBUTES}
    return RetrievalResult(
        encoder=encoder.name,
        weights=encoder.weights_hash,
        clips=len(heard.items),
        text_to_audio=find(cosines.T),
        audio_to_text=find(cosines),
        attributes={name: one for name, one in found.items() if one is not None},
    )


def tables(found: RetrievalResult) -> list[list[list[str]]]:
    """The recall and the attributes as tables of text, headings first."""
    recall = [["direction", *(f"R@{k}" for k in _TOP), "95 %", "median rank", "shuffled", "chance"]]
    for name in ("text_to_audio", "audio_to_text"):
        way: Direction = getattr(found, name)
        top = way.recall[_TOP[-1]]
        recall.append(
            [
                name.replace("_", " "),
                *(_percent(way.recall[k].mean) for k in _TOP),
                f"{_percent(top.low)} to {_percent(top.high)}",
                f"{way.median_rank:g} of {found.clips}",
                ", ".join(_percent(way.shuffled[k]) for k in _TOP),
                ", ".join(_percent(min(1.0, k / found.clips)) for k in _TOP),
            ]
        )
    heads = ["attribute", "clips", "classes", "accuracy", "95 %", "shuffled", "commonest value"]
    rows = [
        [
            name,
            str(a.clips),
            str(a.classes),
            _percent(a.accuracy.mean),
            f"{_percent(a.accuracy.low)} to {_percent(a.accuracy.high)}",
            _percent(a.shuffled),
            _percent(a.commonest),
        ]
        for name, a in found.attributes.items()
    ]
    return [recall, [heads, *rows]] if rows else [recall]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
