"""The convolution of conv1d_block on a TPU, forward and back to its input.

A tile of rows is loaded into windows (`pallas_load.py`), of which every tap is a run of whole
registers: a product on the MXU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES, divide
from .pallas_load import Job, load, row_of, sigmoid
from .pallas_plan import Plan

_DEPTH = 2  # columns of 128 channels in one product


def tap(
    plan: Plan, windows: Any, item: Any, k: int, chunks: Iterable[Any], start: Any
) -> jax.Array:
    """Rows start ... start + step of tap k, (step, 128 len(chunks)), for the MXU."""
    window, shift = plan.taps[k]
    parts = []
    for c in chunks:
        if plan.packed:
            half = pl.multiple_of(divide(start, 2)[0], 8)
            at = pl.ds(half + shift // 2, plan.step // 2)
            parts.append(pltpu.bitcast(windows[item, window, c, at, :], jnp.bfloat16))
        else:
            parts.append(windows[item, window, c, pl.ds(start + shift, plan.step), :])
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b added in float32; float32 operands lose nothing."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=exact)


def _below(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def multiply(
    plan: Plan, windows: Any, group: Any, weight_ref: Any, start: Any, n: Any
) -> jax.Array:
    """The sum over taps and channels for a step of rows of the joined items, one below the other,
    and 128 outputs: (joined step, 128) float32.

    More outputs at once would not fit the 32 registers.
    """
    items = [group * plan.joined + i for i in range(plan.joined)]

    def part(k: int, first: Any, depth: int) -> jax.Array:
        """Of a tap and `depth` columns of channels."""
        chunks = [first + c for c in range(depth)]
        rows = pl.ds(first * LANES, depth * LANES)
        taps = [tap(plan, windows, item, k, chunks, start) for item in items]
        return product(_below(taps), weight_ref[k, n, rows, :])

    depth = min(_DEPTH, plan.chunks)
    whole, left = divmod(plan.chunks, depth)
    columns = [(i * depth, depth) for i in range(whole)] + [(whole * depth, left)] * (left > 0)
    if plan.packed:
        parts = (part(k, *some) for k in range(plan.kernel) for some in columns)
        return functools.reduce(jnp.add, parts)  # each is added as soon as it is there

    # A float32 product is six passes over parts of its operands: without a loop the parts of all
    # weights, which do not depend on the rows, would be kept.
    def of_columns(i: Any, total: jax.Array) -> jax.Array:
        for k in range(plan.kernel):
            total = total + part(k, i * depth, depth)
        return total

    total = jnp.zeros((plan.joined * plan.step, LANES), jnp.float32)
    total = jax.lax.fori_loop(0, whole, of_columns, total)
    for k in range(plan.kernel if left else 0):
        total = total + part(k, *columns[-1])
    return total


def kernel(job: Job, plan: Plan, *refs: Any) -> None:
    """One step of the grid: a tile of rows by a chunk of the outputs."""
    rest = list(refs)

    def take(there: bool = True) -> Any:
        return rest.pop(0) if there else None

    core, outer, chunk, group = (pl.program_id(i) for i in range(4))
    _, tile, _ = plan.place(core, outer, chunk, group)
    parts = 1 if plan.tiles == 1 else 3
    xs = [take() for _ in range(parts)]
    ys = [take(job.load == "sums") for _ in range(parts)]
    affine = take(job.load != "plain")
    weight = take()
    bias = take(job.bias)
    residual, fc = take(job.residual > 0), take(job.residual > 0)
    x_out, affine_out = take(job.finish == "swish"), take(job.finish == "swish")
    out, sums = take(), take(job.sums)
    loaded, windows = take(), take()

    @pl.when(chunk == 0)
    def load_tile() -> None:
        pieces = list(zip(xs, ys, strict=True))

        def one(i: Any, carry: Any) -> Any:
            at = windows.at[group * plan.joined + i]
            load(job, plan, i, pieces, affine, tile, loaded, at)
            return carry

        if plan.joined == 1:
            one(0, 0)
        else:
            jax.lax.fori_loop(0, plan.joined, one, 0)

    rows = plan.rows

    def finish(item: int, start: Any, size: int, columns: Any, y: jax.Array) -> None:
        """Writes `size` rows of 128 outputs of an item and adds to their sums."""
        at = (item, pl.ds(start, size), columns)
        if bias is not None:
            y = y + bias[:, columns]
        if residual is not None:
            added = residual[item, pl.ds(start, size), :].astype(fc.dtype)
            y = y + product(added, fc[:, columns])
        first, second = y, y
        if x_out is not None:
            mean, gain, offset = (row_of(affine_out, item, i, columns) for i in range(3))
            centred = x_out[at].astype(jnp.float32) - mean
            u = centred * gain + offset
            s = sigmoid(u, plan.packed)
            first = y * s * (1 + u * (1 - s))  # du
            y, second = first * gain, first * centred
        stored = y.astype(out.dtype)
        out[at] = stored
        if sums is None:
            return
        if x_out is None:
            first = stored.astype(jnp.float32)
            second = first * first
        if job.out_length % rows:
            row = tile * rows + start + jax.lax.broadcasted_iota(jnp.int32, first.shape, 0)
            first, second = (jnp.where(row < job.out_length, v, 0) for v in (first, second))
        added = [v.sum(axis=0, keepdims=True) for v in (first, second)]
        sums[item, 0, :, columns] += jnp.concatenate(added)

    whole = rows // plan.step

    def of_columns(n: Any, carry: Any) -> Any:
        columns = pl.ds(pl.multiple_of(n * LANES, LANES), LANES)

        def step(start: Any, size: int) -> None:
            total = multiply(plan, windows, group, weight, start, n)
            for item in range(plan.joined):
                of_item = total[item * plan.step : item * plan.step + size]
                finish(item, start, size, columns, of_item)

        def one(i: Any, carry: Any) -> Any:
            step(pl.multiple_of(i * plan.step, plan.step), plan.step)
            return carry

        if sums is not None:
            sums[:, 0, :, columns] = jnp.zeros((plan.joined, 2, LANES), jnp.float32)
        if whole:
            jax.lax.fori_loop(0, whole, one, 0)
        if rows % plan.step:
            step(whole * plan.step, rows % plan.step)
        return carry

    jax.lax.fori_loop(0, plan.width // LANES, of_columns, 0)
