"""Mean and covariance of embeddings, kept as a root that shards can be merged into, in float64.

    mu = 1/n sum x_i,   S = 1/(n-1) sum (x_i - mu)(x_i - mu)^T = R^T R

R is the triangular factor of the QR decomposition of the centred rows over sqrt(n - 1), or these
rows themselves while n <= d. S itself is never formed: its square root would lose half the digits.
Two sets merge through

    (n-1) S = (n_a-1) S_a + (n_b-1) S_b + n_a n_b / n (mu_a - mu_b)(mu_a - mu_b)^T

by stacking the three roots and factoring again, so shards may come in any order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """n rows of d numbers: mean (d,), root (k, d) with root^T root = covariance (ddof 1), k <= d.

    With n = 1 the covariance is not defined and the root is empty, (0, d).
    """

    n: int
    mean: Array
    root: Array

    @property
    def d(self) -> int:
        """Dimensions."""
        return self.mean.size

    @classmethod
    def of(cls, rows: Array, name: str = "rows") -> Moments:
        """The moments of rows (n >= 1, d), any real dtype.

        Raises:
          ValueError: not two-dimensional, empty, or not finite.
        """
        rows = check_rows(rows, name)
        n = rows.shape[0]
        mean = rows.mean(axis=0)
        return cls(n, mean, _shrink((rows - mean) / np.sqrt(max(n - 1, 1)), n))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows together.

        Raises:
          ValueError: the dimensions differ.
        """
        if self.d != other.d:
            raise ValueError(
                f"n2m.evaluate: sets that are merged must have one d, got {self.d} and {other.d}"
            )
        n = self.n + other.n
        mean = self.mean + (other.mean - self.mean) * (other.n / n)
        between = np.sqrt(self.n * other.n / n) * (other.mean - self.mean)
        parts = [self.root * np.sqrt(self.n - 1), other.root * np.sqrt(other.n - 1), between[None]]
        return Moments(n, mean, _shrink(np.concatenate(parts) / np.sqrt(n - 1), n))

    @classmethod
    def merge_all(cls, shards: Iterable[Moments]) -> Moments:
        """The moments of all shards together; ValueError when there is none."""
        given = list(shards)
        if not given:
            raise ValueError("n2m.evaluate: shards must be at least one, got none")
        return functools.reduce(cls.merge, given)


def check_rows(rows: Array, name: str, at_least: int = 1) -> Array:
    """Rows as float64 (n >= at_least, d >= 1), finite; ValueError otherwise."""
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[0] < at_least or rows.shape[1] < 1:
        raise ValueError(
            f"n2m.evaluate: {name} must be (n >= {at_least}, d >= 1), got {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"n2m.evaluate: {name} must be finite, got NaN or Inf")
    return rows


def _shrink(root: Array, n: int) -> Array:
    """A root of the same R^T R with at most d rows."""
    if n == 1:
        return root[:0]
    if root.shape[0] <= root.shape[1]:
        return root
    triangle: Array = np.linalg.qr(root, mode="r")  # type: ignore[assignment]
    return triangle
