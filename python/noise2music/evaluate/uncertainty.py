"""How far a Frechet distance would move with other clips: a bootstrap interval.

Clips, not windows, are drawn with replacement from both sets, since the windows of one clip are
alike. A drawn set holds copies, so its distance is too large by about twice the bias of the sample:
percentiles of these distances miss the truth nearly always (a third of 60 trials at d = 16,
n = 200). Only their deviations from their own mean are used, around FAD-infinity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from noise2music.evaluate.frechet import fad_infinity, frechet_distance, quick_distance, stack
from noise2music.evaluate.moments import Array, Moments

LEVEL = 0.95
_Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A Frechet distance with what must be known to trust it.

    fad: of the rows as they are. infinity: FAD-infinity. low, high: the 95 % interval around it;
    its lower end is never below zero. error: the bootstrap's standard error.
    """

    fad: float
    infinity: float
    low: float
    high: float
    error: float


def estimate(
    x: Sequence[Array], y: Sequence[Array], *, draws: int = 100, seed: int = 0
) -> Estimate:
    """The Frechet distance of clips x to clips y, each (n_i, d), with its interval.

    Raises:
      ValueError: fewer than four clips in a set, fewer than ten draws, or bad rows.
    """
    if draws < 10:
        raise ValueError(f"n2m.evaluate: draws must be at least 10, got {draws}")
    fad = frechet_distance(stack(x), stack(y))
    infinity, _ = fad_infinity(x, y, seed=seed)
    rng = np.random.default_rng((seed, 1))
    drawn = [
        quick_distance(*(Moments.of(stack(c, rng.integers(0, len(c), len(c)))) for c in (x, y)))
        for _ in range(draws)
    ]
    error = float(np.std(drawn, ddof=1))
    low, high = infinity - _Z * error, infinity + _Z * error
    return Estimate(fad, infinity, max(0.0, low), max(0.0, high), error)
