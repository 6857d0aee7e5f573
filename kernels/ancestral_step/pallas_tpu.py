"""ancestral_step on a TPU: one pass over memory, the clip in VMEM in between.

A clip goes through the grid twice. The first time x_t and eps are read, x_0 is formed and kept in
VMEM with x_t. Then the percentile is found there: passes count the magnitudes below a value; as
integers they order as the numbers do, with NaN above infinity. The second time z is read, and x_s
and x_0 are written. XLA draws z (docs/design/noise.md).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES, row_tiles
from .reference import (
    C_0,
    C_NOISE,
    C_X,
    CLIP_FLOOR,
    CLIP_PERCENTILE,
    INV_ALPHA_T,
    SIGMA_OVER_ALPHA_T,
    W,
)

_TILE_ROWS = 512
_STEP_ROWS = 64
_COUNT_ROWS = 256  # of a step that counts: little but loads and comparisons
_ABOVE = 0x7FFFFFFF  # what is no value of the clip orders last
_INFINITY = 0x7F800000


def _over_rows(rows: int, body: Any, carry: Any, step: int = _STEP_ROWS) -> Any:
    """``body(start, size, carry) -> carry`` over the rows in steps."""

    def one(i: Any, carry: Any) -> Any:
        return body(pl.multiple_of(i * step, step), step, carry)

    if rows >= step:
        carry = jax.lax.fori_loop(0, rows // step, one, carry)
    if rows % step:
        carry = body(rows // step * step, rows % step, carry)
    return carry


def _fold(values: jax.Array, combine: Any) -> jax.Array:
    """(R, C), R a multiple of 8 -> (8, C)."""
    return combine(values.reshape(-1, 8, values.shape[1]), axis=0)


def _all(values: jax.Array, combine: Any) -> jax.Array:
    """(8, C) -> (1, 1)."""
    return combine(combine(values, axis=0, keepdims=True), axis=1, keepdims=True)


def _count(bits_ref: Any, is_counted: Any) -> jax.Array:
    """How many values satisfy ``is_counted``, (1, 1) float32: exact for clips under 2^24."""
    rows, lanes = bits_ref.shape

    def body(start: Any, size: int, total: jax.Array) -> jax.Array:
        counted = jnp.where(is_counted(bits_ref[pl.ds(start, size), :]), 1.0, 0.0)
        return total + _fold(counted, jnp.sum)

    zeros = jnp.zeros((8, lanes), jnp.float32)
    return _all(_over_rows(rows, body, zeros, _COUNT_ROWS), jnp.sum)


def _at_rank(bits_ref: Any, rank: jax.Array, largest: jax.Array, count: int) -> jax.Array:
    """The value of a rank (from 0) among the magnitudes, as its bits.

    count(v), the number of values below v, is at most `rank` at low and above it at high. A point
    between them is tried: where log(n - count), a smooth curve for the tail of any noise, would be
    that of the rank if it were straight, or half way where that has not halved the rest. When
    exactly `rank` values are below low, the next one is the answer.
    """
    n = jnp.float32(count)
    aim = jnp.log(n - rank)

    def go_on(state: Any) -> Any:
        low, below_low, high, *_ = state
        more = (high - low > 1) & (below_low < rank)
        return jnp.max(jnp.where(more, 1.0, 0.0)) > 0

    def one(state: Any) -> Any:
        low, below_low, high, below_high, halve = state
        at_low, at_high = jnp.log(n - below_low), jnp.log(jnp.maximum(n - below_high, 0.5))
        part = jnp.clip((at_low - aim) / (at_low - at_high), 0.0, 1.0)
        between = _as_float(low) + part * (_as_float(high) - _as_float(low))
        between = jax.lax.bitcast_convert_type(between, jnp.int32)
        candidate = jnp.where(halve > 0, low + jnp.right_shift(high - low, 1), between)
        candidate = jnp.clip(candidate, low + 1, high - 1)
        below = _count(bits_ref, lambda bits: bits < candidate)
        fits = below <= rank
        rest = jnp.where(fits, high - candidate, candidate - low)
        return (
            jnp.where(fits, candidate, low),
            jnp.where(fits, below, below_low),
            jnp.where(fits, high, candidate),
            jnp.where(fits, below_high, below),
            jnp.where((halve == 0) & (rest > jnp.right_shift(high - low, 1)), 1, 0),
        )

    zero = jnp.zeros((1, 1), jnp.int32)
    below = jnp.zeros((1, 1), jnp.float32)
    high = jnp.minimum(largest, _INFINITY) + 1
    state = zero, below, high, jnp.full((1, 1), n), zero
    low = jax.lax.while_loop(go_on, one, state)[0]
    return _next_above(bits_ref, low - 1)


def _next_above(bits_ref: Any, value: jax.Array) -> jax.Array:
    rows, lanes = bits_ref.shape

    def body(start: Any, size: int, least: jax.Array) -> jax.Array:
        bits = bits_ref[pl.ds(start, size), :]
        above = jnp.where(bits > value, bits, _ABOVE)
        return jnp.minimum(least, _fold(above, jnp.min))

    most = jnp.full((8, lanes), _ABOVE, jnp.int32)
    return _all(_over_rows(rows, body, most, _COUNT_ROWS), jnp.min)


def _as_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _clip_range(bits_ref: Any, largest: jax.Array, count: int, p: Any, floor: Any) -> jax.Array:
    """s = max(percentile(|x_0|, p), floor), (1, 1); NaN if a value is."""
    position = jnp.full((1, 1), p / 100.0 * (count - 1), jnp.float32)
    rank = jnp.floor(position)
    low = _at_rank(bits_ref, rank, largest, count)
    up_to_low = _count(bits_ref, lambda bits: bits <= low)
    high = jnp.where(up_to_low >= rank + 2, low, _next_above(bits_ref, low))
    weight = position - rank
    high = jnp.where(weight > 0, high, low)  # there is none above the last
    percentile = _as_float(low) * (1 - weight) + _as_float(high) * weight
    s = jnp.maximum(percentile, floor)
    return jnp.where(largest > _INFINITY, jnp.float32(jnp.nan), s)


def _kernel(
    coefficients: Any, x_ref: Any, cond_ref: Any, *refs: Any, count: int, total_rows: int
) -> None:
    *given, z_ref, x_s_ref, x_0_ref, x_kept, x_0_kept, bits, range_ref, largest_ref = refs
    uncond_ref = given[0] if given else None
    _, rows, lanes = x_ref.shape
    second, tile = pl.program_id(1), pl.program_id(2)
    clips = coefficients[CLIP_PERCENTILE] > 0
    at_tile = pl.multiple_of(tile * rows, 8)

    @pl.when(second == 0)
    def read() -> None:
        w = coefficients[W]

        def body(start: Any, size: int, largest: jax.Array) -> jax.Array:
            at = (0, pl.ds(start, size), slice(None))
            eps = cond_ref[at].astype(jnp.float32)
            if uncond_ref is not None:
                eps = w * eps + (1 - w) * uncond_ref[at].astype(jnp.float32)
            x = x_ref[at]
            x_0 = coefficients[INV_ALPHA_T] * x - coefficients[SIGMA_OVER_ALPHA_T] * eps
            kept = pl.ds(at_tile + start, size)
            x_kept[kept, :] = x
            x_0_kept[kept, :] = x_0
            magnitude = jax.lax.bitcast_convert_type(jnp.abs(x_0), jnp.int32)
            row = at_tile + start + jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
            value = row < total_rows
            if count % lanes:
                column = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
                value &= row * lanes + column < count
            bits[kept, :] = jnp.where(value, magnitude, _ABOVE)
            return jnp.maximum(largest, _fold(jnp.where(value, magnitude, 0), jnp.max))

        before = jnp.where(tile == 0, 0, largest_ref[...])
        largest_ref[...] = _over_rows(rows, body, before)

    @pl.when((second == 1) & (tile == 0) & clips)
    def search() -> None:
        largest = _all(largest_ref[...], jnp.max)
        p, floor = coefficients[CLIP_PERCENTILE], coefficients[CLIP_FLOOR]
        s = _clip_range(bits, largest, count, p, floor)
        range_ref[...] = jnp.broadcast_to(s, range_ref.shape)

    @pl.when(second == 1)
    def write() -> None:
        s = range_ref[0:1, 0:1]
        gain = coefficients[CLIP_FLOOR] / s

        def body(start: Any, size: int, carry: Any) -> Any:
            kept = pl.ds(at_tile + start, size)
            at = (0, pl.ds(start, size), slice(None))
            x_0 = x_0_kept[kept, :]
            x_0 = jnp.where(clips, jnp.minimum(jnp.maximum(x_0, -s), s) * gain, x_0)
            x_0_ref[at] = x_0
            x_s = coefficients[C_X] * x_kept[kept, :] + coefficients[C_0] * x_0
            x_s_ref[at] = x_s + coefficients[C_NOISE] * z_ref[at]
            return carry

        _over_rows(rows, body, 0)


def _as_rows(a: Any, count: int) -> tuple[Any, int]:
    """((B, rows, lanes), rows with values): as it is if half of a register is used, else flattened;
    rows are padded to a multiple of 8."""
    batch, rows, lanes = a.shape
    if lanes < LANES // 2:
        a = jnp.pad(a.reshape(batch, count), ((0, 0), (0, -count % LANES)))
        a = a.reshape(batch, -1, LANES)
        rows = a.shape[1]
    return (jnp.pad(a, ((0, 0), (0, -rows % 8), (0, 0))) if rows % 8 else a), rows


def step(
    x_t: Any, eps_cond: Any, eps_uncond: Any, z: Any, coefficients: Any, *, interpret: Any
) -> tuple[Any, Any]:
    """(x_s, x_0), as `reference.step`."""
    batch, length, channels = x_t.shape
    count = length * channels
    given = [a for a in (x_t, eps_cond, eps_uncond, z) if a is not None]
    arrays = [_as_rows(a, count)[0] for a in given]
    total_rows = _as_rows(x_t, count)[1]
    _, padded_rows, lanes = arrays[0].shape
    rows, tiles = row_tiles(padded_rows, _TILE_ROWS, multiple=8)
    shape = (1, rows, lanes)
    first = pl.BlockSpec(shape, lambda b, s, t: (b, jnp.where(s == 0, t, tiles - 1), 0))
    second = pl.BlockSpec(shape, lambda b, s, t: (b, jnp.where(s == 0, 0, t), 0))
    kept_rows = rows * tiles
    kept = pltpu.VMEM((kept_rows, lanes), jnp.float32)
    outputs = [ShapeDtypeStruct(arrays[0].shape, jnp.float32)] * 2
    x_s, x_0 = pl.pallas_call(
        functools.partial(_kernel, count=count, total_rows=total_rows),
        name="n2m_ancestral_step_fwd",
        grid=(batch, 2, tiles),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] + [first] * (len(arrays) - 1) + [second],
        out_specs=[second, second],
        out_shape=outputs,
        scratch_shapes=[
            kept,
            kept,
            pltpu.VMEM((kept_rows, lanes), jnp.int32),
            pltpu.VMEM((8, LANES), jnp.float32),
            pltpu.VMEM((8, lanes), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=(14 + 3 * 10) * batch * count,
            transcendentals=0,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays) + 8 * batch * count,
        ),
        interpret=interpret,
    )(coefficients, *arrays)
    if x_s.shape != x_t.shape:
        x_s, x_0 = (a.reshape(batch, -1)[:, :count].reshape(x_t.shape) for a in (x_s, x_0))
    return x_s, x_0
