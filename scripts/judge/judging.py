"""From what is heard to tables of agreement: one table H[i, j] an attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import hearing, linear
from .corpus import Clip
from .features import Features
from .score import agreement, derangement

Array = np.ndarray
Attributes = Mapping[str, Any]

CLASSIFIED = ("family", "genre", "style")
# Genres that share their sound: what separates the members of a group is rhythm and harmony,
# which a tagger hears poorly.
STYLES = {
    "chorale": "art",
    "classical": "art",
    "folk": "folk",
    "ragtime": "old dance",
    "waltz": "old dance",
    "swing": "old dance",
    "rock": "groove",
    "dance": "groove",
    "latin": "groove",
}
ATTRIBUTES = ("family", "genre", "tempo", "key")  # those the acceptance asks for
EXTRA = ("style", "key_krumhansl", "key_mirex", "mode")  # told beside them


def stated_key(attributes: Attributes) -> tuple[int, str]:
    """The key of a manifest's attributes: "Db" + "major", or "Db major" in one."""
    key = str(attributes["key"])
    return hearing.parse_key(key if " " in key.strip() else f"{key} {attributes['mode']}")


def stated_class(attributes: Attributes, name: str) -> str:
    """The class of a classified attribute; ``style`` is the group of the genre."""
    if name == "style":
        return STYLES.get(str(attributes["genre"]), str(attributes["genre"]))
    return str(attributes[name])


@dataclass(frozen=True)
class Judge:
    """Classifiers of family, genre and style, fitted on real clips of the training split."""

    classifiers: dict[str, linear.LinearClassifier]

    @classmethod
    def fit(cls, features: Features, clips: Sequence[Clip]) -> Judge:
        """Fit on N real clips heard as ``features``."""
        pieces = [c.piece for c in clips]
        return cls(
            {
                name: linear.fit(
                    features.inputs, [stated_class(c.attributes, name) for c in clips], pieces
                )
                for name in CLASSIFIED
            }
        )

    def quality(self, features: Features, clips: Sequence[Clip]) -> dict[str, Any]:
        """Accuracy of each classifier on real clips it has not seen, with the confusions."""
        out: dict[str, Any] = {}
        for name, classifier in self.classifiers.items():
            truth = [stated_class(c.attributes, name) for c in clips]
            guess = classifier.predict(features.inputs)
            pairs = Counter(zip(truth, guess, strict=True))
            out[name] = {
                "classes": list(classifier.classes),
                "shrinkage": classifier.shrinkage,
                "accuracy": float(np.mean([t == g for t, g in zip(truth, guess, strict=True)])),
                "balanced_accuracy": linear.balanced_accuracy(truth, guess),
                "confusion": [
                    [pairs[t, g] for g in classifier.classes] for t in classifier.classes
                ],
            }
        return out

    def tables(self, features: Features, stated: Sequence[Attributes]) -> dict[str, Array]:
        """H[i, j] for every attribute: clip i heard, prompt j stated; (n, n) each.

        family, genre, style: the classifier's class is the stated one. tempo: within 8 % of the
        stated tempo, its half or its double. key: tonic and mode both right (key_krumhansl: the
        same by the other profiles); mode: the mode alone; key_mirex: graded.

        Raises:
          ValueError: the numbers of clips and of prompts differ.
        """
        if len(features) != len(stated):
            raise ValueError(
                f"judge.judging: clips must be as many as prompts, "
                f"got {len(features)} and {len(stated)}"
            )
        out: dict[str, Array] = {}
        for name, classifier in self.classifiers.items():
            guess = np.array(classifier.predict(features.inputs))
            truth = np.array([stated_class(a, name) for a in stated])
            out[name] = (guess[:, None] == truth[None, :]).astype(float)
        tempi = [float(a["tempo_bpm"]) for a in stated]
        out["tempo"] = np.array(
            [[float(hearing.tempo_agrees(h, t)) for t in tempi] for h in features.tempo]
        )
        keys = [stated_key(a) for a in stated]
        heard = [hearing.best_key(chroma) for chroma in features.chroma]
        other = [hearing.best_key(chroma, "krumhansl") for chroma in features.chroma]
        out["key"] = np.array([[float(h == k) for k in keys] for h in heard])
        out["key_krumhansl"] = np.array([[float(h == k) for k in keys] for h in other])
        out["mode"] = np.array([[float(h[1] == k[1]) for k in keys] for h in heard])
        out["key_mirex"] = np.array([[hearing.mirex_key_score(h, k) for k in keys] for h in heard])
        return out

    def verdict(
        self,
        features: Features,
        stated: Sequence[Attributes],
        *,
        permutations: int = 10_000,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Every attribute against its own prompts and, to check the judge, against shuffled ones.

        ``shuffled`` pairs each clip with the prompt of another by one seeded derangement.
        """
        other = derangement(len(stated), seed + 1)
        out: dict[str, Any] = {}
        for name, table in self.tables(features, stated).items():
            true = agreement(table, permutations=permutations, seed=seed)
            mixed = agreement(table[:, other], permutations=permutations, seed=seed)
            out[name] = {**true.as_dict(), "shuffled": mixed.as_dict()}
        return out
