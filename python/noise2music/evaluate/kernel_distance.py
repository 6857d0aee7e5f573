"""KAD: the unbiased maximum mean discrepancy of two sets of embeddings, in float64.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(a, b) = exp(-|a - b|^2 / (2 h^2)),   KAD = 100 MMD^2

Gretton et al. 2012; Chung et al. 2025 for audio. h is the median distance between two rows of the
reference. No Gaussian is fitted, so it needs no more rows than dimensions, and its mean does not
depend on how many there are; it may be a little below zero where the truth is zero.
"""

from __future__ import annotations

import numpy as np

from noise2music.evaluate.moments import Array, check_rows

SCALE = 100.0
_BLOCK = 1024  # rows of the kernel matrix at once: 8 MB for every thousand rows of the other set


def _squared_distances(x: Array, y: Array) -> Array:
    apart = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2.0 * (x @ y.T)
    return np.maximum(apart, 0.0)


def median_distance(rows: Array, limit: int = 2000) -> float:
    """The median distance of two different rows (n >= 2, d).

    Of more than `limit` rows as many are used, evenly spaced.

    Raises:
      ValueError: fewer than two rows, not finite, or more than half of the pairs are equal.
    """
    rows = check_rows(rows, "reference", 2)
    if len(rows) > limit:
        rows = rows[np.linspace(0, len(rows) - 1, limit).astype(int)]
    pairs = np.triu_indices(len(rows), 1)
    median = float(np.sqrt(np.median(_squared_distances(rows, rows)[pairs])))
    if median == 0.0:
        raise ValueError("n2m.evaluate: reference must differ from row to row, got equal rows")
    return median


def kernel_distance(x: Array, reference: Array, bandwidth: float | None = None) -> float:
    """KAD of x (n >= 2, d) to the reference (m >= 2, d); bandwidth h > 0, default as above.

    Raises:
      ValueError: fewer than two rows, different d, values that are not finite, or h <= 0.
    """
    x = check_rows(x, "x", 2)
    y = check_rows(reference, "reference", 2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"n2m.evaluate: x and reference must have one d, got {x.shape[1]} and {y.shape[1]}"
        )
    h = median_distance(y) if bandwidth is None else float(bandwidth)
    if not h > 0.0:
        raise ValueError(f"n2m.evaluate: bandwidth must be above 0, got {h}")

    def total(a: Array, b: Array) -> float:
        blocks = range(0, len(a), _BLOCK)
        kernels = (
            np.exp(_squared_distances(a[i : i + _BLOCK], b) / (-2.0 * h * h)) for i in blocks
        )
        return float(sum(kernel.sum() for kernel in kernels))

    def within(a: Array) -> float:
        n = len(a)
        return (total(a, a) - n) / (n * (n - 1))

    return SCALE * (within(x) + within(y) - 2.0 * total(x, y) / (len(x) * len(y)))
