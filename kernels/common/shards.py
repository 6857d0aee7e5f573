"""What a device that holds a piece of every clip sends to and takes from the others.

In a ``shard_map`` whose axis ``axis`` splits time, device i of n holds rows [i T, (i + 1) T) of
(B, n T, C). Nothing here gathers a sequence: rows at the ends go to the neighbours
(collective-permute) and sums over a clip are added (all-reduce of a few numbers).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import check


def size(op: str, argument: str, axis: str | None) -> int:
    """Devices along the axis, 1 without one. Raises ValueError outside of such a shard_map."""
    if axis is None:
        return 1
    try:
        return int(lax.axis_size(axis))
    except NameError:
        raise check.fail(
            op,
            argument,
            "the name of an axis of the shard_map around the call",
            repr(axis),
            "see docs/design/sequence_sharding.md",
        ) from None


def mean(sums: jax.Array, axis: str) -> jax.Array:
    """Sums over a clip as each piece passes them on: their mean over the pieces.

    A kernel divides the sums by the rows that it sees; T of these are to the mean what n T are to
    the sum over the clip.
    """
    return lax.pmean(sums, axis)


def halo(x: jax.Array, before: int, after: int, axis: str) -> tuple[jax.Array, jax.Array]:
    """The `before` rows of the clip in front of this piece and the `after` rows behind it.

    x (B, T, C) -> (B, before, C), (B, after, C); zeros beyond the ends of the clip. Where a piece
    is shorter than its halo, rows come from farther devices too.
    """
    length = x.shape[1]
    n = int(lax.axis_size(axis))

    def shifted(rows: jax.Array, by: int) -> jax.Array:
        """The rows of the device `by` places in front."""
        pairs = [(i, i + by) for i in range(n) if 0 <= i + by < n]
        return lax.ppermute(rows, axis, pairs) if pairs else jnp.zeros_like(rows)

    def taken(rows: int, hop: int) -> int:
        return min(length, rows - (hop - 1) * length)

    front = [
        shifted(x[:, length - taken(before, hop) :], hop)
        for hop in range(math.ceil(before / length), 0, -1)
    ]
    back = [
        shifted(x[:, : taken(after, hop)], -hop) for hop in range(1, math.ceil(after / length) + 1)
    ]
    none = [x[:, :0]]
    return jnp.concatenate(front or none, axis=1), jnp.concatenate(back or none, axis=1)


def inside(before: int, length: int, after: int, axis: str) -> tuple[Any, Any]:
    """Which rows of `halo` lie in the clip: bool (before,) and (after,)."""
    first = lax.axis_index(axis) * length
    end = lax.axis_size(axis) * length
    return first - before + jnp.arange(before) >= 0, first + length + jnp.arange(after) < end
