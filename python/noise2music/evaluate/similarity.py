"""Similarity of pairs (section 4.3.2): the average cosine of embeddings, with its reference rows.

    s = mean_i <a_i, b_i> / (|a_i| |b_i|)

a_i is the mean over the windows of clip i (section 3.5), b_i that of its partner, or its text's
embedding. Beside the generated clips stand the rows of Table 6: the ground truth with itself and
its text, and the shuffled ground truth, which is the mean over all wrong partners: what a random
shuffle gives on average, without its chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate.embedding import Embedded
from noise2music.evaluate.encoders.protocol import Array, AudioEncoder, JointEncoder, unit_rows
from noise2music.evaluate.sounds import Failure, Item


@dataclasses.dataclass(frozen=True)
class Average:
    """A mean cosine over pairs and its 95 % bootstrap interval over the pairs."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class SimilarityResult:
    """Rows of Table 6 for one encoder: name -> audio<->text and audio<->audio (None: not known)."""

    encoder: str
    pairs: int
    rows: dict[str, dict[str, Average | None]]

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return dataclasses.asdict(self)


def pair(
    generated: Sequence[Item], reference: Sequence[Item]
) -> tuple[list[Item], list[Item], list[Failure]]:
    """Partners: by equal id, or by their order where no id is shared and both are as many.

    A clip without a partner is a Failure. UserError where neither way works.
    """
    theirs = {item.id: item for item in reference}
    shared = [item for item in generated if item.id in theirs]
    if not shared:
        if len(generated) != len(reference):
            raise UserError(
                f"no clip has the id of another, and {len(generated)} clips cannot be paired in "
                f"order with {len(reference)}: give both sets a manifest with `id`"
            )
        return list(generated), list(reference), []
    known = {item.id for item in shared}
    alone = [i for i in (*generated, *reference) if i.id not in known]
    failures = [Failure(i.id, str(i.path), "unpaired", "no clip of this id") for i in alone]
    return shared, [theirs[item.id] for item in shared], failures


def average(cosines: Array, *, draws: int = 1000, seed: int = 0) -> Average:
    """The mean of (n,) cosines, and the middle 95 % of the means of resampled pairs."""
    index = np.random.default_rng(seed).integers(0, len(cosines), (draws, len(cosines)))
    low, high = np.quantile(cosines[index].mean(axis=1), (0.025, 0.975))
    return Average(float(cosines.mean()), float(low), float(high))


def matched_and_shuffled(a: Array, b: Array) -> tuple[Average, Average]:
    """Averages of the cosines of a (n, d) and b (n, d), n >= 2: with the partner, and with others.

    The second is the mean over the n - 1 others of each row.
    """
    a, b = unit_rows(a), unit_rows(b)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"n2m.evaluate: pairs must be two (n >= 2, d), got {a.shape}, {b.shape}")
    cosines = a @ b.T
    own = np.diagonal(cosines)
    return average(own), average((cosines.sum(axis=1) - own) / (len(a) - 1))


def similarity(generated: Embedded, reference: Embedded, encoder: AudioEncoder) -> SimilarityResult:
    """Table 6 for one encoder; both sets hold the same pairs in the same order.

    audio<->text is told where the encoder reads text and every pair has one (that of the reference,
    else of the generated clip).
    """
    rows: dict[str, dict[str, Average | None]]
    matched, _ = matched_and_shuffled(generated.means, reference.means)
    itself, shuffled = matched_and_shuffled(reference.means, reference.means)
    rows = {
        "ground truth": {"text": None, "audio": itself},
        "shuffled ground truth": {"text": None, "audio": shuffled},
        "generated": {"text": None, "audio": matched},
    }
    texts = [r.text or g.text for g, r in zip(generated.items, reference.items, strict=True)]
    if isinstance(encoder, JointEncoder) and all(texts):
        read = encoder.embed_text(texts)
        truth, shuffled = matched_and_shuffled(read, reference.means)
        rows["ground truth"]["text"] = truth
        rows["shuffled ground truth"]["text"] = shuffled
        rows["generated"]["text"] = matched_and_shuffled(generated.means, read)[0]
    return SimilarityResult(encoder.name, len(texts), rows)
