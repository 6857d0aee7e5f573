"""Frechet distance of two sets of embeddings, in float64.

    d(X, Y) = |mu_X - mu_Y|^2 + tr S_X + tr S_Y - 2 tr (S_X S_Y)^(1/2)

With S_X = A^T A and S_Y = B^T B (`moments`), the last trace is the nuclear norm of A B^T. With the
singular value decomposition A B^T = U C V^T the distance is therefore

    d(X, Y) = |mu_X - mu_Y|^2 + |U^T A - V^T B|_F^2,

a sum of squares: no matrix square root, no complex number, never negative, exact with fewer rows
than dimensions, and zero to the square of the rounding error for a set and itself.

The distance of finite samples is too large by about c / n. FAD-infinity (Chong and Forsyth 2020)
measures it at several n and reads the line at 1 / n = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from noise2music.evaluate.moments import Array, Moments, check_rows

_FRACTIONS = (0.5, 0.6, 0.75, 1.0)  # of the clips, for the line of FAD-infinity


def frechet_distance(x: Array | Moments, y: Array | Moments) -> float:
    """The squared 2-Wasserstein distance of Gaussians fitted to x (n, d) and y (m, d).

    Units: the embedding's, squared. Covariances use n - 1, as the published tools do; a single row
    has the covariance 0.

    Raises:
      ValueError: no row, different d, or values that are not finite.
    """
    a = x if isinstance(x, Moments) else Moments.of(x, "x")
    b = y if isinstance(y, Moments) else Moments.of(y, "y")
    if a.d != b.d:
        raise ValueError(f"n2m.evaluate: x and y must have one d, got {a.d} and {b.d}")
    left, right = _square(a.root), _square(b.root)
    u, _, v = np.linalg.svd(left @ right.T)
    return float(np.square(a.mean - b.mean).sum() + np.square(u.T @ left - v @ right).sum())


def quick_distance(x: Moments, y: Moments) -> float:
    """The same by the difference of traces: no singular vectors, and 1e-12 of the traces off.

    For distances of resampled sets, whose noise is far above that.
    """
    cross = np.linalg.svd(x.root @ y.root.T, compute_uv=False).sum()
    spread = np.square(x.root).sum() + np.square(y.root).sum()
    return max(0.0, float(np.square(x.mean - y.mean).sum() + spread - 2.0 * cross))


def _square(root: Array) -> Array:
    """Zero rows up to (d, d), so that the rotations of both roots are of one size."""
    k, d = root.shape
    return root if k == d else np.concatenate([root, np.zeros((d - k, d))])


def per_clip(clips: Sequence[Array], reference: Array | Moments) -> Array:
    """Frechet distance of every clip's own rows (n_i, d) to the reference (Gui et al. 2024), (N,).

    For ranking clips of one set against each other: with few rows a clip its level says little.
    """
    b = reference if isinstance(reference, Moments) else Moments.of(reference, "reference")
    found = []
    for rows in clips:
        a = Moments.of(rows, "a clip's rows")
        if a.d != b.d:
            raise ValueError(f"n2m.evaluate: clips and reference need one d, got {a.d} and {b.d}")
        found.append(quick_distance(a, b))
    return np.array(found)


def stack(clips: Sequence[Array], chosen: Array | None = None) -> Array:
    """The rows of the chosen clips (default: all), one below the other."""
    return np.concatenate(clips if chosen is None else [clips[i] for i in chosen])


def fad_infinity(
    x: Sequence[Array], y: Sequence[Array], *, repeats: int = 16, seed: int = 0
) -> tuple[float, Array]:
    """FAD at infinitely many clips: the intercept of the least-squares line over 1 / fraction.

    x, y: clips, each (n_i, d). Both sets are cut to the same fraction of their clips (drawn without
    replacement, `repeats` times for each of 0.5, 0.6 and 0.75), since both are samples.

    Returns:
      the intercept (it may be a little below zero where the truth is zero), and the points
      (4, 2): 1 / fraction and the mean distance there.

    Raises:
      ValueError: fewer than four clips in a set.
    """
    if min(len(x), len(y)) < 4:
        raise ValueError(
            "n2m.evaluate: FAD-infinity must have at least 4 clips in each set, "
            f"got {len(x)} and {len(y)}"
        )
    rng = np.random.default_rng(seed)
    points = []
    for fraction in _FRACTIONS:
        found = []
        for _ in range(repeats if fraction < 1.0 else 1):
            parts = [
                stack(clips, rng.permutation(len(clips))[: max(2, round(fraction * len(clips)))])
                for clips in (x, y)
            ]
            found.append(quick_distance(*map(Moments.of, parts)))
        points.append((1.0 / fraction, float(np.mean(found))))
    line = np.array(points)
    slope, intercept = np.polyfit(line[:, 0], line[:, 1], 1)
    return float(intercept), line


def principal_axes(reference: Array, components: int) -> tuple[Array, Array]:
    """The mean (d,) and the first principal axes (d, components) of the reference rows.

    Embeddings projected on them, (x - mean) @ axes, need n >= 2 components only.

    Raises:
      ValueError: components is not in 1..min(n - 1, d).
    """
    rows = check_rows(reference, "reference", 2)
    most = min(rows.shape[0] - 1, rows.shape[1])
    if not 1 <= components <= most:
        raise ValueError(f"n2m.evaluate: components must be in 1..{most}, got {components}")
    moments = Moments.of(rows)
    _, _, axes = np.linalg.svd(moments.root, full_matrices=False)
    # The sign of an axis is arbitrary; it is fixed so that the same set gives the same numbers.
    axes = axes[:components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return moments.mean, (axes * np.sign(largest)).T
