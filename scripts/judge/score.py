"""Hits against chance, and whether the difference could be luck.

    H[i, j] in [0, 1]: does what is heard in clip i agree with what prompt j states?
    hits = sum_i H[i, i]     chance = mean over i != j of H[i, j]     ratio = (hits / n) / chance

The chance level is exact: it is the expectation of the hit rate over all pairings of a clip with
somebody else's prompt. The permutation test shuffles the prompts over the clips and counts how
often the hits lie at least as far from the permutations' mean, sum(H) / n, as they do in truth
(two-sided).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

Array = np.ndarray

SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Agreement:
    """One attribute judged on n prompts that state it.

    hits: sum of H[i, i]; rate = hits / n; chance: see the module; ratio = rate / chance;
    p_permutation, p_binomial: two-sided, the second None where H is graded.
    """

    n: int
    hits: float
    rate: float
    chance: float
    ratio: float
    p_permutation: float
    p_binomial: float | None

    @property
    def beats_chance(self) -> bool:
        """Above chance, and so at p < 0.01 in the permutation test."""
        return self.rate > self.chance and self.p_permutation < SIGNIFICANCE

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """The fields and the verdict, ready for JSON."""
        return {**asdict(self), "beats_chance": self.beats_chance}


def derangement(n: int, seed: int) -> Array:
    """Return a permutation of n >= 2 items that leaves none in its place, by rejection."""
    if n < 2:
        raise ValueError(f"judge.score: a derangement needs two items or more, got {n}")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        if not np.any(order == np.arange(n)):
            return order


def chance_level(table: Array) -> float:
    """Mean of H[i, j] over i != j."""
    n = len(table)
    return float((table.sum() - np.trace(table)) / (n * (n - 1)))


def agreement(table: Array, *, permutations: int = 10_000, seed: int = 0) -> Agreement:
    """Judge a table H (n, n).

    Raises:
      ValueError: H is not square, has fewer than two rows, or leaves [0, 1].
    """
    from scipy.stats import binomtest

    table = np.asarray(table, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ValueError(f"judge.score: table must be (n, n) with n >= 2, got {table.shape}")
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError("judge.score: table must lie in [0, 1]")
    n = len(table)
    hits = float(np.trace(table))
    chance = chance_level(table)
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    drawn = np.array([table[rows, rng.permutation(n)].sum() for _ in range(permutations)])
    mean = table.sum() / n
    extreme = np.abs(drawn - mean) >= abs(hits - mean) - 1e-9
    p_permutation = (int(extreme.sum()) + 1) / (permutations + 1)
    binary = bool(np.isin(table, (0.0, 1.0)).all())
    p_binomial = float(binomtest(round(hits), n, min(1.0, chance)).pvalue) if binary else None
    rate = hits / n
    ratio = rate / chance if chance > 0 else float("inf") if hits else 0.0
    return Agreement(n, hits, rate, chance, ratio, p_permutation, p_binomial)
