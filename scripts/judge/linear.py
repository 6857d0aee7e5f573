"""A linear discriminant classifier: the simplest thing that turns tags into our classes.

    score_k(x) = mu_k . W x - mu_k . W mu_k / 2,  W = ((1 - s) S + s tr(S)/D I)^-1

x is standardised by the training clips; S is the covariance within classes; every class has the
same prior, so that a rare family is not drowned by a common one; the shrinkage s is chosen on the
training clips alone, by folds that never split a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

SHRINKAGES = (0.03, 0.1, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier over D features and K classes.

    Attributes:
      classes: names, K.
      mean, deviation: standardisation, (D,).
      weights: (D, K); offsets: (K,).
      shrinkage: s.
    """

    classes: tuple[str, ...]
    mean: Array
    deviation: Array
    weights: Array
    offsets: Array
    shrinkage: float

    def scores(self, x: Array) -> Array:
        """(N, D) -> (N, K), larger is likelier."""
        z = (np.asarray(x, np.float64) - self.mean) / self.deviation
        out: Array = z @ self.weights + self.offsets
        return out

    def predict(self, x: Array) -> list[str]:
        """(N, D) -> N class names."""
        return [self.classes[k] for k in self.scores(x).argmax(axis=1)]


def _fit(x: Array, labels: Array, classes: tuple[str, ...], shrinkage: float) -> LinearClassifier:
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-8
    z = (x - mean) / deviation
    centres = np.stack([z[labels == c].mean(axis=0) for c in classes])
    residual = z - centres[np.searchsorted(np.asarray(classes), labels)]
    within = residual.T @ residual / max(1, len(z) - len(classes))
    size = within.shape[0]
    ridge = shrinkage * np.trace(within) / size
    weights = np.linalg.solve((1 - shrinkage) * within + ridge * np.eye(size), centres.T)
    offsets = -0.5 * np.einsum("kd,dk->k", centres, weights)
    return LinearClassifier(classes, mean, deviation, weights, offsets, shrinkage)


def balanced_accuracy(truth: Sequence[str], guess: Sequence[str]) -> float:
    """Mean over the classes present in ``truth`` of the share of their clips recognised."""
    t, g = np.asarray(truth), np.asarray(guess)
    return float(np.mean([(g[t == c] == c).mean() for c in np.unique(t)]))


def fit(
    x: Array, labels: Sequence[str], groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> LinearClassifier:
    """Fit on (N, D) features; choose the shrinkage by the balanced accuracy of grouped folds.

    Args:
      labels: N class names.
      groups: N names; clips of one group (a piece) never lie on both sides of a fold.

    Raises:
      ValueError: lengths differ, or there are fewer than two classes.
    """
    x = np.asarray(x, np.float64)
    names, pieces = np.asarray(labels), np.asarray(groups)
    if not len(x) == len(names) == len(pieces):
        raise ValueError(
            f"judge.linear: x, labels and groups must be of one length, "
            f"got {len(x)}, {len(names)}, {len(pieces)}"
        )
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise ValueError(f"judge.linear: labels must hold two classes or more, got {classes}")
    unique = np.unique(pieces)
    assignment = np.random.default_rng(seed).permutation(len(unique)) % folds
    fold = assignment[np.searchsorted(unique, pieces)]
    best, best_accuracy = SHRINKAGES[0], -1.0
    for shrinkage in SHRINKAGES:
        truth: list[str] = []
        guess: list[str] = []
        for k in range(folds):
            train, held = fold != k, fold == k
            seen = tuple(sorted(set(names[train])))
            if not held.any() or len(seen) < 2:
                continue
            truth += list(names[held])
            guess += _fit(x[train], names[train], seen, shrinkage).predict(x[held])
        accuracy = balanced_accuracy(truth, guess) if truth else 0.0
        if accuracy > best_accuracy:
            best, best_accuracy = shrinkage, accuracy
    return _fit(x, names, classes, best)
