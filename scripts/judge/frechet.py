"""Frechet distance of two sets of embeddings, in float64.

    d(X, Y) = |mu_X - mu_Y|^2 + tr S_X + tr S_Y - 2 tr (S_X S_Y)^(1/2)

With centred rows X_c = Q_X R_X (QR) and R_X scaled by 1 / sqrt(n - 1), S_X = R_X^T R_X, and the
last trace is the nuclear norm of R_X R_Y^T: no matrix square root, no complex numbers, and exact
when there are fewer rows than dimensions. Covariances use n - 1, as the published tools do.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def _mean_and_root(x: Array, name: str) -> tuple[Array, Array]:
    """Return the mean (D,) and a root R with R^T R = cov(x, ddof=1)."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"judge.frechet: {name} must be (N >= 2, D), got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"judge.frechet: {name} must be finite, got NaN or Inf")
    mean = x.mean(axis=0)
    root: Array = np.linalg.qr((x - mean) / np.sqrt(x.shape[0] - 1), mode="r")  # type: ignore[assignment]
    return mean, root


def frechet_distance(x: Array, y: Array) -> float:
    """Return the squared 2-Wasserstein distance of Gaussians fitted to x (N, D) and y (M, D).

    Raises:
      ValueError: fewer than two rows, different D, or values that are not finite.
    """
    mean_x, root_x = _mean_and_root(x, "x")
    mean_y, root_y = _mean_and_root(y, "y")
    if mean_x.shape != mean_y.shape:
        raise ValueError(
            f"judge.frechet: x and y must have one D, got {mean_x.size} and {mean_y.size}"
        )
    cross = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    spread = np.square(root_x).sum() + np.square(root_y).sum()
    return float(np.square(mean_x - mean_y).sum() + spread - 2.0 * cross)
