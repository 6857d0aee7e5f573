"""What a tile of a convolution becomes before it is multiplied, on a TPU.

Rows are loaded once: normalised and swished (or, of a gradient, with the share of the sums added),
in float32 in VMEM (with an even stride, as words of two bfloat16 rows), a column of 128 channels
after the other so that any row can be read aligned.
From there they are rounded into *windows*, one for each phase of the stride and each pairing of
bfloat16 rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES, ROWS, divide, round_up
from .pallas_plan import Plan

_LOAD_ROWS = 128  # of a step of the loops over rows
_HALF = np.uint32(16)
_LOW, _HIGH = np.uint32(0xFFFF), np.uint32(0xFFFF0000)  # the first and the second row of a word


@dataclasses.dataclass(frozen=True)
class Job:
    """What a convolution reads and what becomes of its results.

    load: "plain"; "norm": u = (x - mean) gain + offset, h = u sigmoid(u), with the rows mean, gain,
      offset of `affine`; "sums": h = x + q0 + 2 y q1, with q0, q1 of `affine` and a second array y.
    finish: "bias": y + bias, + residual @ fc; "swish": with the input x of a normalised convolution
      and its mean, gain, offset: du = y s (1 + u (1 - s)), giving du gain and its sums.
    sums: of the outputs by channel, (B, tiles, 2, D): of y and y^2, or of du and du (x - mean).
    """

    load: str
    finish: str
    bias: bool
    residual: int
    sums: bool
    out_length: int


def sigmoid(u: jax.Array, packed: bool) -> jax.Array:
    """1 / (1 + e^-u); by one instruction where the result is rounded to bfloat16."""
    return 0.5 * jnp.tanh(0.5 * u) + 0.5 if packed else 1 / (1 + jnp.exp(-u))


def _columns(c: int) -> slice:
    return slice(c * LANES, (c + 1) * LANES)


def row_of(ref: Any, item: Any, row: int, columns: Any) -> jax.Array:
    return ref[item, row : row + 1, columns]  # type: ignore[no-any-return]


def swish(x: jax.Array, mean: jax.Array, gain: jax.Array, offset: jax.Array, packed: bool) -> Any:
    """u sigmoid(u) of u = (x - mean) gain + offset; packed, as v tanh(v) + v of v = u / 2, which
    is two operations a value less."""
    if packed:
        v = (x - mean) * (0.5 * gain) + 0.5 * offset
        return v * jnp.tanh(v) + v
    u = (x - mean) * gain + offset
    return u * sigmoid(u, packed)


def _pack(h: jax.Array) -> jax.Array:
    """Rows rounded to bfloat16, two in a word."""
    return pltpu.bitcast(h.astype(jnp.bfloat16), jnp.uint32)


def _load_piece(
    job: Job, plan: Plan, item: Any, x_ref: Any, y_ref: Any, affine_ref: Any, to: Any, aligned: Any,
    at: int, first: Any,
) -> None:  # fmt: skip
    """Rows of an item of x_ref through the load, into rows `at` ... of `to` (chunks, rows, 128),
    and of the window whose rows are those (or None), where they are whole registers of it.

    `first` is the index of the piece's first row in the array: rows outside of that become zero;
    with None all are inside.
    """
    rows = x_ref.shape[1]

    def one(start: Any, size: int) -> None:
        for c in range(plan.chunks):
            columns = _columns(c)
            source = (item, pl.ds(start, size), columns)
            if plan.in_words and job.load == "plain" and first is None and size % ROWS == 0:
                words = pltpu.bitcast(x_ref[source], jnp.uint32)
                to[c, pl.ds(divide(at + start, 2)[0], size // 2), :] = words
                continue
            h = x_ref[source].astype(jnp.float32)
            if job.load == "norm":
                mean, gain, offset = (row_of(affine_ref, item, i, columns) for i in range(3))
                h = swish(h, mean, gain, offset, plan.packed)
            elif job.load == "sums":
                y = y_ref[source].astype(jnp.float32)
                q0, q1 = (row_of(affine_ref, item, i, columns) for i in range(2))
                h = h + q0 + 2 * y * q1
            if first is not None:
                row = first + start + jax.lax.broadcasted_iota(jnp.int32, h.shape, 0)
                h = jnp.where((row >= 0) & (row < plan.length), h, 0)
            if plan.in_words:
                if size % ROWS:  # the end of an item
                    h = jnp.concatenate([h, jnp.zeros((-size % ROWS, LANES), h.dtype)])
                to[c, pl.ds(divide(at + start, 2)[0], h.shape[0] // 2), :] = _pack(h)
                continue
            to[c, pl.ds(at + start, size), :] = h
            if aligned is not None and size % ROWS == 0:
                aligned[c, pl.ds(divide(at + start, 2)[0], size // 2), :] = _pack(h)

    def step(i: Any, carry: Any) -> Any:
        one(pl.multiple_of(i * _LOAD_ROWS, _LOAD_ROWS), _LOAD_ROWS)
        return carry

    if rows >= _LOAD_ROWS:
        jax.lax.fori_loop(0, rows // _LOAD_ROWS, step, 0)
    if rows % _LOAD_ROWS:
        one(rows // _LOAD_ROWS * _LOAD_ROWS, rows % _LOAD_ROWS)


def _fill_window(plan: Plan, loaded: Any, windows: Any, w: int, rows: range) -> None:
    """These rows of a window, from the loaded tile."""
    phase, odd = plan.windows[w]
    for c in range(plan.chunks):
        for start in rows[::_LOAD_ROWS]:
            size = min(_LOAD_ROWS, rows.stop - start)
            row = (start + odd) * plan.stride + phase
            if plan.stride == 1:
                h = loaded[c, row : row + size, :]
            else:
                h = loaded[pl.ds(c, 1), pl.ds(row, size, stride=plan.stride), :][0]
            if plan.packed:
                windows[w, c, start // 2 : (start + size) // 2, :] = _pack(h)
            else:
                windows[w, c, start : start + size, :] = h


def _fill_windows_from_words(plan: Plan, loaded: Any, windows: Any) -> None:
    """All windows, of a tile that was loaded as words. Rows 2 j and 2 j + 1 of a window are put
    together from the same half, low or high, of two words."""
    for pair in sorted({phase // 2 for phase, _ in plan.windows}):
        filled = [(w, *of) for w, of in enumerate(plan.windows) if of[0] // 2 == pair]
        for c in range(plan.chunks):
            for start in range(0, plan.window_rows, _LOAD_ROWS):
                size = min(_LOAD_ROWS, plan.window_rows - start) // 2
                rows = {
                    row: loaded[
                        pl.ds(c, 1),
                        pl.ds((start + row) * plan.stride // 2 + pair, size, stride=plan.stride),
                        :,
                    ][0]
                    for row in sorted({odd + i for _, _, odd in filled for i in (0, 1)})
                }
                for w, phase, odd in filled:
                    even, next_one = rows[odd], rows[odd + 1]
                    if phase % 2:
                        words = (even >> _HALF) | (next_one & _HIGH)
                    else:
                        words = (even & _LOW) | (next_one << _HALF)
                    windows[w, c, start // 2 : start // 2 + size, :] = words


def load(
    job: Job, plan: Plan, item: Any, pieces: Any, affine_ref: Any, tile: Any, loaded: Any,
    windows: Any,
) -> None:  # fmt: skip
    """A tile of rows into `loaded`, and from there into `windows` (windows, chunks, rows, 128).

    `item` counts within a step of the grid. `pieces` are the refs (x, y or None) of the rows of the
    tile, or of those before, of it and after. The window whose rows lie as the tile's is written
    with it.
    """
    inside = plan.rows * plan.stride
    first = tile * inside
    edge = plan.edge
    w = plan.aligned_window
    aligned = None if w is None else windows.at[w]

    def clear(start: int, stop: int) -> None:
        """Zeros into rows of the loaded tile."""
        if plan.in_words:
            if start % 2:
                at = slice(start // 2, start // 2 + 1)
                loaded[:, at, :] = loaded[:, at, :] & _LOW
            start, stop = -(-start // 2), stop // 2
        loaded[:, start:stop, :] = jnp.zeros((plan.chunks, stop - start, LANES), loaded.dtype)

    # Rows that no output needs are zero too: the gradient of the weight multiplies them by zero.
    end = edge + (plan.length if plan.tiles == 1 else inside + edge)
    clear(round_up(end, ROWS) if plan.in_words else end, plan.loaded_rows)
    left = [range(end // ROWS * ROWS, plan.window_rows)]  # of the aligned window
    if plan.tiles == 1:
        clear(0, edge)
        left.append(range(edge))
        if plan.length % _LOAD_ROWS % ROWS:
            left[0] = range(edge + plan.length // _LOAD_ROWS * _LOAD_ROWS, plan.window_rows)
        x_ref, y_ref = pieces[0]
        _load_piece(job, plan, item, x_ref, y_ref, affine_ref, loaded, aligned, edge, None)
    else:
        for (x_ref, y_ref), at, start in zip(
            pieces, (0, edge, edge + inside), (first - edge, None, first + inside), strict=True
        ):
            _load_piece(job, plan, item, x_ref, y_ref, affine_ref, loaded, aligned, at, start)
        outside = plan.tiles * inside - plan.length
        if outside:

            @pl.when(tile == plan.tiles - 1)
            def past_the_end() -> None:
                rows = range(edge + inside - outside, edge + inside)
                clear(rows.start, rows.stop)
                if w is not None:
                    rows = range(rows.start // ROWS * ROWS, rows.stop)
                    _fill_window(plan, loaded, windows, w, rows)

    if plan.in_words:
        _fill_windows_from_words(plan, loaded, windows)
        return
    for i in range(len(plan.windows)):
        for rows in left if i == w else [range(plan.window_rows)]:
            _fill_window(plan, loaded, windows, i, rows)
