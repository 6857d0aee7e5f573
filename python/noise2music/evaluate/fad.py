"""FAD as it is reported: never a bare number, and refused where it would mislead."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate.frechet import per_clip, principal_axes, stack
from noise2music.evaluate.kernel_distance import kernel_distance
from noise2music.evaluate.moments import Array
from noise2music.evaluate.uncertainty import estimate


@dataclasses.dataclass(frozen=True)
class FadResult:
    """Frechet audio distance of a set to a reference.

    clips, rows and reference_clips, reference_rows: how many; d: dimensions of the embedding that
    was compared (its principal components where `components` is set). fad, infinity, low, high,
    error: see `uncertainty.Estimate`. kad: see `kernel_distance`. forced: n < 2 d, computed all the
    same. per_clip: a clip's name -> its distance.
    """

    encoder: str
    clips: int
    rows: int
    reference_clips: int
    reference_rows: int
    d: int
    components: int | None
    fad: float
    infinity: float
    low: float
    high: float
    error: float
    kad: float
    forced: bool
    per_clip: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return dataclasses.asdict(self)


def compare(
    x: Sequence[Array],
    reference: Sequence[Array],
    *,
    encoder: str = "",
    components: int | None = None,
    draws: int = 100,
    seed: int = 0,
    force: bool = False,
    names: Sequence[str] | None = None,
) -> FadResult:
    """FAD, its interval and KAD of clips x to the reference's, each clip (n_i, d).

    components: compare the first principal components of the reference only, which needs fewer
    rows and hears less. names: of the clips x, for their own distances.

    Raises:
      UserError: fewer than 2 d rows in a set (unless `force`), or fewer than four clips.
      ValueError: rows that are not finite or of another d.
    """
    for name, clips in (("the set", x), ("the reference", reference)):
        if len(clips) < 4:
            raise UserError(f"{name} must have at least 4 clips, got {len(clips)}")
    rows, others = stack(x), stack(reference)
    if components is not None:
        mean, axes = principal_axes(others, components)
        x = [(np.asarray(c, np.float64) - mean) @ axes for c in x]
        reference = [(np.asarray(c, np.float64) - mean) @ axes for c in reference]
        rows, others = stack(x), stack(reference)
    n, d = min(len(rows), len(others)), rows.shape[1]
    if n < 2 * d and not force:
        raise UserError(
            f"FAD of {d} dimensions needs at least {2 * d} rows in each set, got {len(rows)} and "
            f"{len(others)}: the sampling bias would be larger than what is measured. Use more "
            f"clips, --components {max(1, n // 2)} or fewer, or --force"
        )
    found = estimate(x, reference, draws=draws, seed=seed)
    return FadResult(
        encoder=encoder,
        clips=len(x),
        rows=len(rows),
        reference_clips=len(reference),
        reference_rows=len(others),
        d=d,
        components=components,
        **dataclasses.asdict(found),
        kad=kernel_distance(rows, others),
        forced=n < 2 * d,
        per_clip=dict(zip(names, map(float, per_clip(x, others)), strict=True)) if names else None,
    )
