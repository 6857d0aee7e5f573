"""What a study found: wins (Table 7), and Bradley-Terry scores with their intervals.

    P(i beats j) = 1 / (1 + exp(theta_j - theta_i)),   sum_i theta_i = 0

No difference counts as half a win for each. A normal prior of deviation 3 keeps a source that won
or lost everything finite. Intervals: the middle 95 % over captions drawn anew (ratings of one
caption are alike).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from noise2music.evaluate.listen.study import Rating

Array = np.ndarray

PRIOR_DEVIATION = 3.0


@dataclasses.dataclass(frozen=True)
class Score:
    """One source: comparisons it was in, won and tied; theta and its 95 % interval."""

    source: str
    comparisons: int
    wins: int
    ties: int
    theta: float
    low: float
    high: float


def bradley_terry(wins: Array, iterations: int = 50) -> Array:
    """theta (k,) of wins (k, k), where wins[i, j] is how often i beat j; Newton's method.

    Raises:
      ValueError: not square, or negative.
    """
    wins = np.asarray(wins, np.float64)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or not (wins >= 0).all():
        raise ValueError(f"n2m.evaluate: wins must be (k, k) and >= 0, got {wins.shape}")
    played = wins + wins.T
    precision = PRIOR_DEVIATION**-2
    theta = np.zeros(len(wins))
    for _ in range(iterations):
        p = 1.0 / (1.0 + np.exp(theta[None] - theta[:, None]))
        gradient = (wins - played * p).sum(axis=1) - precision * theta
        weight = played * p * (1.0 - p)
        hessian = np.diag(weight.sum(axis=1) + precision) - weight
        step = np.linalg.solve(hessian, gradient)
        # A bounded step: Newton overshoots where a source has won everything.
        theta = theta + step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-12:
            break
    return theta - theta.mean()


def win_matrix(ratings: Sequence[Rating], sources: Sequence[str]) -> Array:
    """(k, k): how often i beat j, a tie half."""
    where = {source: i for i, source in enumerate(sources)}
    wins = np.zeros((len(sources), len(sources)))
    for r in ratings:
        i, j = where[r.left], where[r.right]
        left = 1.0 if r.score < 3 else 0.5 if r.score == 3 else 0.0
        wins[i, j] += left
        wins[j, i] += 1.0 - left
    return wins


def scores(
    ratings: Sequence[Rating], sources: Sequence[str], *, draws: int = 300, seed: int = 0
) -> list[Score]:
    """Every source, the best first."""
    theta = bradley_terry(win_matrix(ratings, sources))
    items = sorted({r.item for r in ratings})
    matrices = np.stack(
        [win_matrix([r for r in ratings if r.item == i], sources) for i in items]
        or [np.zeros((len(sources),) * 2)]
    )
    rng = np.random.default_rng(seed)
    drawn = [
        bradley_terry(matrices[rng.integers(0, len(matrices), len(matrices))].sum(axis=0))
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    out = []
    for i, source in enumerate(sources):
        mine = [r for r in ratings if source in (r.left, r.right)]
        won = sum((r.score < 3) == (r.left == source) for r in mine if r.score != 3)
        ties = sum(r.score == 3 for r in mine)
        values = map(float, (theta[i], low[i], high[i]))
        out.append(Score(source, len(mine), won, ties, *values))
    return sorted(out, key=lambda s: -s.theta)
