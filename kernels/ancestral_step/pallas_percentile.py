"""The percentile of a clip's magnitudes in the VMEM of a TPU.

A search counts the values from a candidate on, about five times. So that it need not read all of
them, the eight largest of each group of a hundred or so are kept in lists while the clip is read,
when the vector units wait for memory anyway. What is left out is at most H, the largest of the
eighths: above H, counts of the lists are exact. Where the percentile lies above H the lists are
searched, else the clip. (At 99.5 %, of values in no order, one clip in thousands has a group with
eight of the largest 0.5 %.) A group is of one place in a register, so its values lie all over the
clip.

What is no value of the clip is -1 in the lists and NaN in the clip. Of NaN and another number the
greater and the smaller are NaN, so a NaN of the clip fills its group's lists.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES

KEPT = 8  # of a group
_GROUP_STEPS = 8  # times eight values come to a group at least, where a clip has so many
_COUNTED = 256 * LANES  # values of a step that counts: little but loads and comparisons
_INFINITY = 0x7F800000


def over_rows(rows: int, body: Any, carry: Any, step: int) -> Any:
    """``body(index, start, size, carry) -> carry`` over the rows in steps."""

    def one(i: Any, carry: Any) -> Any:
        return body(i, pl.multiple_of(i * step, step), step, carry)

    if rows >= 2 * step:
        carry = jax.lax.fori_loop(0, rows // step, one, carry)
    elif rows >= step:
        carry = body(0, 0, step, carry)
    if rows % step:
        carry = body(rows // step, rows // step * step, rows % step, carry)
    return carry


def pieces(start: Any, rows: int, lanes: int) -> list[tuple[Any, Any]]:
    """Where the registers of some rows lie: eight rows by 128 lanes, the last ones narrower."""
    return [
        (pl.ds(pl.multiple_of(start + row, 8), 8), pl.ds(lane, min(LANES, lanes - lane)))
        for row in range(0, rows, 8)
        for lane in range(0, lanes, LANES)
    ]


def whole(values: jax.Array) -> jax.Array:
    """A register: what a narrow one lacks is no value of the clip."""
    rows, lanes = values.shape
    if lanes == LANES:
        return values
    return jnp.concatenate([values, jnp.full((rows, LANES - lanes), -1.0, jnp.float32)], axis=1)


def of_all(values: jax.Array, combine: Any) -> jax.Array:
    """(8, C) -> (1, 1)."""
    return combine(combine(values, axis=0, keepdims=True), axis=1, keepdims=True)


def is_true(condition: jax.Array) -> jax.Array:
    """(1, 1) -> a scalar."""
    return jnp.max(jnp.where(condition, 1.0, 0.0)) > 0


# The lists: first to eighth of every group, one after the other.


def slots(rows: int, lanes: int) -> int:
    """How many groups there are for each place in a register: a power of two."""
    registers = -(-rows // 8) * -(-lanes // LANES)
    return 1 << max(0, (registers // KEPT // _GROUP_STEPS).bit_length() - 1)


# Comparisons that sort eight numbers, and that sort eight of which the first rise and then fall.
SORT = (
    (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7), (0, 1), (2, 3), (4, 5), (6, 7),
    (2, 4), (3, 5), (1, 4), (3, 6), (1, 2), (3, 4), (5, 6),
)  # fmt: skip
MERGE = (
    (0, 4), (1, 5), (2, 6), (3, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 1), (2, 3), (4, 5), (6, 7),
)  # fmt: skip


def order(values: list[jax.Array], pairs: tuple[tuple[int, int], ...]) -> None:
    """Of each pair the greater comes first."""
    for i, j in pairs:
        a, b = values[i], values[j]
        values[i], values[j] = jnp.maximum(a, b), jnp.minimum(a, b)


def into_lists(lists_ref: Any, slot: Any, magnitudes: list[jax.Array]) -> None:
    """Up to eight registers into the lists of a slot: sorted, then the upper half of both."""
    height = lists_ref.shape[0] // KEPT
    nothing = jnp.full((8, LANES), -1.0, jnp.float32)
    new = magnitudes + [nothing] * (KEPT - len(magnitudes))
    order(new, SORT)
    at = [pl.ds(pl.multiple_of(i * height + slot * 8, 8), 8) for i in range(KEPT)]
    kept = [jnp.maximum(lists_ref[at[i], :], new[KEPT - 1 - i]) for i in range(KEPT)]
    order(kept, MERGE)
    for where, values in zip(at, kept, strict=True):
        lists_ref[where, :] = values


@dataclasses.dataclass(frozen=True)
class _Values:
    """What is searched: the lists, of magnitudes, or the clip, of numbers with signs."""

    ref: Any
    signed: bool

    def over(self, body: Any, carry: Any) -> Any:
        """``body(magnitudes (8, 128), carry) -> carry``."""
        rows, lanes = self.ref.shape

        def some(_: Any, start: Any, size: int, carry: Any) -> Any:
            for at in pieces(start, size, lanes):
                values = self.ref[at]
                if self.signed:
                    values = jnp.where(values == values, jnp.abs(values), -1.0)
                carry = body(whole(values), carry)
            return carry

        return over_rows(rows, some, carry, max(8, _COUNTED // lanes // 8 * 8))

    def full(self, value: float) -> jax.Array:
        return jnp.full((8, LANES), value, jnp.float32)

    def count_from(self, bits: jax.Array) -> jax.Array:
        """How many are of this value or more, (1, 1) float32: exact for clips under 2^24."""
        least = as_float(bits)

        def body(values: jax.Array, total: jax.Array) -> jax.Array:
            return total + jnp.where(values >= least, 1.0, 0.0)

        return of_all(self.over(body, self.full(0.0)), jnp.sum)

    def beside(self, bits: jax.Array) -> tuple[jax.Array, ...]:
        """The two largest below this value, the larger one last, the two smallest from it on."""
        cut = as_float(bits)

        def body(values: jax.Array, four: tuple[jax.Array, ...]) -> Any:
            below_2, below, above, above_2 = four
            inside = values >= cut
            up, down = jnp.where(inside, values, jnp.inf), jnp.where(inside, -1.0, values)
            return (
                jnp.maximum(below_2, jnp.minimum(below, down)),
                jnp.maximum(below, down),
                jnp.minimum(above, up),
                jnp.minimum(above_2, jnp.maximum(above, up)),
            )

        none = (self.full(-1.0),) * 2 + (self.full(jnp.inf),) * 2
        below_2, below, above, above_2 = self.over(body, none)
        return *_two(below, below_2, jnp.max)[::-1], *_two(above, above_2, jnp.min)


def _two(firsts: jax.Array, seconds: jax.Array, combine: Any) -> tuple[jax.Array, jax.Array]:
    """The first two of all, twice the same if it is there twice, of the first two of each place."""
    first = of_all(firsts, combine)
    times = of_all(jnp.where(firsts == first, 1.0, 0.0), jnp.sum)
    others = of_all(jnp.where(firsts == first, seconds, firsts), combine)
    return first, jnp.where(times > 1, first, others)


def as_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def as_bits(number: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(number, jnp.int32)


def _two_at_rank(
    values: _Values, wanted: jax.Array, low: jax.Array, from_low: jax.Array, high: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The wanted-th value from the largest on, and the one above it.

    Candidates are the bits of a number: they order as magnitudes do. From low on there are
    `wanted` values or more (from_low), from high on fewer. A point between is tried: where the log
    of the count, a smooth curve for the tail of any noise, would be right if it were straight. An
    end that stays twice counts less (Anderson and Bjoerck, 1973); every eighth time it is the point
    half way. When the count is `wanted` or one or two less, both values are next to the candidate.
    """
    part_of_aim = 1 / jnp.maximum(wanted - 1, 0.5)

    def miss(count: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.abs(jnp.log(jnp.maximum(count, 0.5) * part_of_aim)), 1e-6)

    def go_on(state: Any) -> Any:
        _, low, from_low, high, from_high, *_ = state
        return is_true((high - low > 1) & (from_low > wanted) & (from_high < wanted - 2))

    def one(state: Any) -> Any:
        i, low, from_low, high, from_high, over, under, last = state
        part = over * pl.reciprocal(over + under, approx=True)
        between = as_bits(as_float(low) + part * (as_float(high) - as_float(low)))
        candidate = jnp.where(i % 8 == 7, low + jnp.right_shift(high - low, 1), between)
        candidate = jnp.clip(candidate, low + 1, high - 1)
        count = values.count_from(candidate)
        off = miss(count)
        enough = count >= wanted
        side = jnp.where(enough, 1.0, -1.0)
        less = 1 - off * pl.reciprocal(jnp.where(enough, over, under), approx=True)
        less = jnp.where(side == last, jnp.maximum(less, 0.1), 1.0)
        return (
            i + 1,
            jnp.where(enough, candidate, low),
            jnp.where(enough, count, from_low),
            jnp.where(enough, high, candidate),
            jnp.where(enough, from_high, count),
            jnp.where(enough, off, over * less),
            jnp.where(enough, under * less, off),
            side,
        )

    none = jnp.zeros((1, 1))
    state = jnp.int32(0), low, from_low, high, none, miss(from_low), miss(none), none
    _, low, from_low, high, from_high, *_ = jax.lax.while_loop(go_on, one, state)
    exact = from_low == wanted
    below_2, below, above, above_2 = values.beside(jnp.where(exact, low, high))
    short = jnp.where(exact, 0, wanted - from_high)
    lower = jnp.where(short == 0, above, jnp.where(short == 1, below, below_2))
    upper = jnp.where(short == 0, above_2, jnp.where(short == 1, above, below))
    # Else low and high are neighbours: low is there more than twice.
    tied = short > 2
    return jnp.where(tied, as_float(low), lower), jnp.where(tied, as_float(low), upper)


def _largest(lists_ref: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of the firsts and of the eighths, and whether there is NaN."""
    height = lists_ref.shape[0] // KEPT
    ends = []
    for start in (0, (KEPT - 1) * height):
        parts = [lists_ref[start + row : start + row + 8, :] for row in range(0, height, 8)]
        ends.append(functools.reduce(jnp.maximum, parts))
    missing = of_all(jnp.where(ends[0] != ends[0], 1.0, 0.0), jnp.max)
    first, last = (of_all(end, jnp.max) for end in ends)
    return first, last, missing


def percentile(lists_ref: Any, clip_ref: Any, out_ref: Any, count: int, p: Any) -> None:
    """percentile(|x_0|, p), linear between the two nearest ranks, into out_ref; NaN if a value is.

    count: the values of the clip.
    """
    lists, clip = _Values(lists_ref, signed=False), _Values(clip_ref, signed=True)
    largest, left_out, missing = _largest(lists_ref)
    high = jnp.clip(as_bits(largest), 0, _INFINITY) + 1
    position = jnp.full((1, 1), p / 100.0 * (count - 1), jnp.float32)
    rank = jnp.floor(position)
    weight = position - rank
    wanted = jnp.float32(count) - rank

    def between_ranks(values: _Values, low: jax.Array, from_low: jax.Array) -> None:
        lower, upper = _two_at_rank(values, wanted, low, from_low, high)
        upper = jnp.where(weight > 0, upper, lower)  # there is none above the last
        found = lower * (1 - weight) + upper * weight
        found = jnp.where(missing > 0, jnp.float32(jnp.nan), found)
        out_ref[...] = jnp.broadcast_to(found, out_ref.shape)

    above = jnp.clip(as_bits(left_out), -1, _INFINITY) + 1
    from_above = lists.count_from(above)
    in_lists = is_true(from_above >= wanted)

    @pl.when(in_lists)
    def search_lists() -> None:
        between_ranks(lists, above, from_above)

    @pl.when(jnp.logical_not(in_lists))
    def search_clip() -> None:
        zero = jnp.zeros((1, 1), jnp.int32)
        between_ranks(clip, zero, jnp.full((1, 1), count, jnp.float32))


def scratch(rows: int, lanes: int) -> list[Any]:
    """(lists, the percentile)."""
    return [
        pltpu.VMEM((slots(rows, lanes) * KEPT * 8, LANES), jnp.float32),
        pltpu.VMEM((8, 128), jnp.float32),
    ]
