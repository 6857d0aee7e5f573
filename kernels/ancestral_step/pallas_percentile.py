"""The percentile of a clip's magnitudes in the VMEM of a TPU.

Magnitudes are compared as integers: they order as the numbers do, with NaN above infinity. What is
no value of the clip is -1. A search counts the values from a candidate on, about ten times. So that
it need not read all of them, groups of 12 or so are formed while the clip is read, and the four
largest of each are kept in lists, a third of the clip. What is left out is at most H, the largest
of the fourths: above H, counts of the lists are exact. Where the percentile lies above H the lists
are searched, else the clip. (At 99.5 %, of values in no order, one clip in fifty of 706,560 values
has a group with four of the largest 0.5 %.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

STEP_ROWS = 64
KEPT = 4  # of a group
GROUP_ROWS = STEP_ROWS // 4  # a step brings four values to each of these groups
GROUP_STEPS = 3  # that bring values to a group
_COUNT_ROWS = 256  # of a step that counts: little but loads and comparisons
_ABOVE = 0x7FFFFFFF
INFINITY = 0x7F800000


def over_rows(rows: int, body: Any, carry: Any, step: int = STEP_ROWS) -> Any:
    """``body(index, start, size, carry) -> carry`` over the rows in steps."""

    def one(i: Any, carry: Any) -> Any:
        return body(i, pl.multiple_of(i * step, step), step, carry)

    if rows >= step:
        carry = jax.lax.fori_loop(0, rows // step, one, carry)
    if rows % step:
        carry = body(rows // step, rows // step * step, rows % step, carry)
    return carry


def fold(values: jax.Array, combine: Any) -> jax.Array:
    """(R, C), R a multiple of 8 -> (8, C)."""
    return combine(values.reshape(-1, 8, values.shape[1]), axis=0)


def of_all(values: jax.Array, combine: Any) -> jax.Array:
    """(8, C) -> (1, 1)."""
    return combine(combine(values, axis=0, keepdims=True), axis=1, keepdims=True)


def is_true(condition: jax.Array) -> jax.Array:
    """(1, 1) -> a scalar."""
    return jnp.max(jnp.where(condition, 1.0, 0.0)) > 0


# The lists: first, second, third, fourth of every group, one after the other.


def slots(tiles: int, rows: int) -> int:
    """Steps that bring values to different groups."""
    return max(1, tiles * -(-rows // STEP_ROWS) // GROUP_STEPS)


def list_rows(tiles: int, rows: int) -> int:
    return slots(tiles, rows) * KEPT * GROUP_ROWS


def _order(values: list[jax.Array], *pairs: tuple[int, int]) -> None:
    for i, j in pairs:
        a, b = values[i], values[j]
        values[i], values[j] = jnp.maximum(a, b), jnp.minimum(a, b)


def into_lists(lists_ref: Any, slot: Any, magnitudes: jax.Array) -> None:
    """The values of a step into the lists of a slot: sorted, then the upper half of both."""
    height = lists_ref.shape[0] // KEPT
    missing = STEP_ROWS - magnitudes.shape[0]
    if missing:
        nothing = jnp.full((missing, magnitudes.shape[1]), -1, magnitudes.dtype)
        magnitudes = jnp.concatenate([magnitudes, nothing])
    new = [magnitudes[i * GROUP_ROWS : (i + 1) * GROUP_ROWS] for i in range(KEPT)]
    _order(new, (0, 1), (2, 3), (0, 2), (1, 3), (1, 2))
    at = [
        pl.ds(pl.multiple_of(i * height + slot * GROUP_ROWS, GROUP_ROWS), GROUP_ROWS)
        for i in range(KEPT)
    ]
    kept = [jnp.maximum(lists_ref[at[i], :], new[KEPT - 1 - i]) for i in range(KEPT)]
    _order(kept, (0, 2), (1, 3), (0, 1), (2, 3))
    for where, values in zip(at, kept, strict=True):
        lists_ref[where, :] = values


def _count_from(bits_ref: Any, value: jax.Array) -> jax.Array:
    """How many are `value` or more, (1, 1) float32: exact for clips under 2^24."""
    rows, lanes = bits_ref.shape

    def body(_: Any, start: Any, size: int, total: jax.Array) -> jax.Array:
        counted = jnp.where(bits_ref[pl.ds(start, size), :] >= value, 1.0, 0.0)
        return total + fold(counted, jnp.sum)

    zeros = jnp.zeros((8, lanes), jnp.float32)
    return of_all(over_rows(rows, body, zeros, _COUNT_ROWS), jnp.sum)


def _next_above(bits_ref: Any, value: jax.Array) -> jax.Array:
    rows, lanes = bits_ref.shape

    def body(_: Any, start: Any, size: int, least: jax.Array) -> jax.Array:
        bits = bits_ref[pl.ds(start, size), :]
        above = jnp.where(bits > value, bits, _ABOVE)
        return jnp.minimum(least, fold(above, jnp.min))

    most = jnp.full((8, lanes), _ABOVE, jnp.int32)
    return of_all(over_rows(rows, body, most, _COUNT_ROWS), jnp.min)


def _largest(bits_ref: Any, first: int, rows: int) -> jax.Array:
    """Of these rows, a multiple of 8; -1 at least."""

    def body(_: Any, start: Any, size: int, largest: jax.Array) -> jax.Array:
        return jnp.maximum(largest, fold(bits_ref[pl.ds(first + start, size), :], jnp.max))

    least = jnp.full((8, bits_ref.shape[1]), -1, jnp.int32)
    return of_all(over_rows(rows, body, least), jnp.max)


def as_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _at_rank(
    bits_ref: Any, rank: jax.Array, low: jax.Array, below_low: jax.Array, high: jax.Array, n: Any
) -> jax.Array:
    """The value of a rank (from 0) among n magnitudes, as its bits.

    The number of values below is at most `rank` at low, and above it at high. A point between them
    is tried: where log(n - below), a smooth curve for the tail of any noise, would be that of
    the rank if it were straight, or half way where that has not halved the rest. When exactly
    `rank` values are below low, the next one is the answer.
    """
    aim = jnp.log(n - rank)

    def go_on(state: Any) -> Any:
        low, below_low, high, *_ = state
        return is_true((high - low > 1) & (below_low < rank))

    def one(state: Any) -> Any:
        low, below_low, high, below_high, halve = state
        at_low, at_high = jnp.log(n - below_low), jnp.log(jnp.maximum(n - below_high, 0.5))
        part = jnp.clip((at_low - aim) / (at_low - at_high), 0.0, 1.0)
        between = as_float(low) + part * (as_float(high) - as_float(low))
        between = jax.lax.bitcast_convert_type(between, jnp.int32)
        candidate = jnp.where(halve > 0, low + jnp.right_shift(high - low, 1), between)
        candidate = jnp.clip(candidate, low + 1, high - 1)
        below = n - _count_from(bits_ref, candidate)
        fits = below <= rank
        rest = jnp.where(fits, high - candidate, candidate - low)
        return (
            jnp.where(fits, candidate, low),
            jnp.where(fits, below, below_low),
            jnp.where(fits, high, candidate),
            jnp.where(fits, below_high, below),
            jnp.where((halve == 0) & (rest > jnp.right_shift(high - low, 1)), 1, 0),
        )

    state = low, below_low, high, jnp.full((1, 1), n), jnp.zeros((1, 1), jnp.int32)
    return _next_above(bits_ref, jax.lax.while_loop(go_on, one, state)[0] - 1)


def percentile(lists_ref: Any, bits_ref: Any, out_ref: Any, count: int, p: Any) -> None:
    """percentile(|x_0|, p), linear between the two nearest ranks, into out_ref; NaN if a value is.

    count: the values of the clip.
    """
    n = jnp.float32(count)
    height = lists_ref.shape[0] // KEPT
    largest = _largest(lists_ref, 0, height)
    high = jnp.minimum(largest, INFINITY) + 1
    position = jnp.full((1, 1), p / 100.0 * (count - 1), jnp.float32)
    rank = jnp.floor(position)
    weight = position - rank

    def between_ranks(ref: Any, low: jax.Array, below_low: jax.Array) -> None:
        lower = _at_rank(ref, rank, low, below_low, high, n)
        up_to = n - _count_from(ref, lower + 1)
        upper = jnp.where(up_to >= rank + 2, lower, _next_above(ref, lower))
        upper = jnp.where(weight > 0, upper, lower)  # there is none above the last
        found = as_float(lower) * (1 - weight) + as_float(upper) * weight
        found = jnp.where(largest > INFINITY, jnp.float32(jnp.nan), found)
        out_ref[...] = jnp.broadcast_to(found, out_ref.shape)

    above = jnp.minimum(_largest(lists_ref, (KEPT - 1) * height, height), INFINITY) + 1
    below = n - _count_from(lists_ref, above)
    in_lists = is_true(below <= rank)

    @pl.when(in_lists)
    def search_lists() -> None:
        between_ranks(lists_ref, above, below)

    @pl.when(jnp.logical_not(in_lists))
    def search_clip() -> None:
        zero = jnp.zeros((1, 1), jnp.int32)
        between_ranks(bits_ref, zero, zero.astype(jnp.float32))


def scratch(tiles: int, rows: int, lanes: int) -> list[Any]:
    """(lists, bits, the percentile)."""
    return [
        pltpu.VMEM((list_rows(tiles, rows), lanes), jnp.int32),
        pltpu.VMEM((tiles * rows, lanes), jnp.int32),
        pltpu.VMEM((8, 128), jnp.float32),
    ]
