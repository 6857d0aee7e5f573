"""combine_film on a TPU: one pass over memory, both ways.

A step of the grid takes a tile of rows and channels of one item. Tiles are independent,
so a chip splits them over its cores; each leaves the sums of its rows by channel, which XLA adds
and folds into groups. [scale, shift] = emb @ kernel + bias is a product with one row: XLA's too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import CORES, LANES, row_tiles
from . import reference

# A block of x. In and out, twice each since the next is fetched meanwhile: 4 MiB of float32.
_BLOCK_VALUES = 2**18
# Of a tile; of wider arrays a tile takes some, so that one is fetched while another is worked on.
_MOST_CHANNELS = 512
# Values of a step of the inner loop: 16 registers of float32 an array.
_STEP_VALUES = 2**14


def tiles(x: Any) -> tuple[int, int, int]:
    """(channels of a tile, rows of a tile, tiles along time)."""
    batch, length, channels = x.shape
    width = channels
    if channels > _MOST_CHANNELS and channels % LANES == 0:
        columns = channels // LANES
        width = LANES * max(n for n in range(1, 5) if columns % n == 0)
    fewest = 1 if batch * (channels // width) % CORES == 0 else CORES
    return width, *row_tiles(length, max(_BLOCK_VALUES // max(width, LANES), 16), fewest)


def _fold(values: jax.Array) -> jax.Array:
    """(R, C) -> (8, C): rows added, sublane by sublane."""
    rows, channels = values.shape
    if rows % 8:
        values = jnp.concatenate([values, jnp.zeros((8 - rows % 8, channels), values.dtype)])
    return values.reshape(-1, 8, channels).sum(axis=0)


def _over_tile(tile_ref: Any, body: Any, sums_ref: Any = None) -> None:
    """``body(start, size, columns)`` over a tile (1, R, C), a column of 128 channels after the
    other, so that what a column needs stays in registers. The sums over rows of the two arrays
    that it gives are written to the rows of ``sums_ref`` (1, 1, 2, C)."""
    _, rows, channels = tile_ref.shape
    width = LANES if channels % LANES == 0 else channels
    step = min(max(16, _STEP_VALUES // max(width, LANES) // 16 * 16), rows)

    def of_columns(n: Any, nothing: Any) -> Any:
        columns = pl.ds(n * width if width % LANES else pl.multiple_of(n * width, LANES), width)

        def add(totals: Any, start: Any, size: int) -> Any:
            values = body(start, size, columns)
            return tuple(t + _fold(v) for t, v in zip(totals, values, strict=True))

        def one(i: Any, totals: Any) -> Any:
            start = pl.multiple_of(i * step, step) if step % 8 == 0 else i * step
            return add(totals, start, step)

        totals = (jnp.zeros((8, width), jnp.float32),) * (0 if sums_ref is None else 2)
        if rows >= step:
            totals = jax.lax.fori_loop(0, rows // step, one, totals)
        if rows % step:
            totals = add(totals, rows // step * step, rows % step)
        if sums_ref is not None:
            sums = [t.sum(axis=0, keepdims=True) for t in totals]
            sums_ref[0, 0, :, columns] = jnp.concatenate(sums)
        return nothing

    jax.lax.fori_loop(0, channels // width, of_columns, 0)


def _inside(values: jax.Array, start: Any, length: int, rows: int) -> jax.Array:
    """Zeros in the rows of a tile that are past the end of the array."""
    if length % rows == 0:
        return values
    row = pl.program_id(2) * rows + start + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
    return jnp.where(row < length, values, 0)


def _forward_kernel(
    x_ref: Any, film_ref: Any, y_ref: Any, sums_ref: Any = None, *, length: int
) -> None:
    rows = x_ref.shape[1]

    def body(start: Any, size: int, columns: Any) -> Any:
        at = (0, pl.ds(start, size), columns)
        gain, shift = 1 + film_ref[0, 0:1, columns], film_ref[0, 1:2, columns]
        y = (x_ref[at].astype(jnp.float32) * gain + shift).astype(y_ref.dtype)
        y_ref[at] = y
        if sums_ref is None:
            return ()
        y = _inside(y.astype(jnp.float32), start, length, rows)
        return y, y * y

    _over_tile(x_ref, body, sums_ref)


def _backward_kernel(
    x_ref: Any,
    dy_ref: Any,
    film_ref: Any,
    dsums_ref: Any,
    dx_ref: Any,
    dfilm_ref: Any,
    *,
    length: int,
) -> None:
    rows = x_ref.shape[1]

    def body(start: Any, size: int, columns: Any) -> Any:
        at = (0, pl.ds(start, size), columns)
        gain, shift = 1 + film_ref[0, 0:1, columns], film_ref[0, 1:2, columns]
        x = x_ref[at].astype(jnp.float32)
        g = dy_ref[at].astype(jnp.float32)
        if dsums_ref is not None:
            g = g + dsums_ref[0, 0:1, columns] + 2 * (x * gain + shift) * dsums_ref[0, 1:2, columns]
        dx_ref[at] = (g * gain).astype(dx_ref.dtype)
        # The product is masked, not g: what lies past the end may be NaN.
        return _inside(g * x, start, length, rows), _inside(g, start, length, rows)

    _over_tile(x_ref, body, dfilm_ref)


def _backward_kernel_without_sums(
    x_ref: Any, dy_ref: Any, film_ref: Any, *outputs: Any, length: int
) -> None:
    _backward_kernel(x_ref, dy_ref, film_ref, None, *outputs, length=length)


def _call(
    kernel: Any, name: str, tiled: Any, of_item: Any, summed: bool, flops: int, interpret: Any
) -> Any:
    """One output like x by the tile, and with ``summed`` the sums (B, 2, C) of its tiles.

    ``tiled`` operands are (B, T, C), ``of_item`` ones (B, 2, C).
    """
    x = tiled[0]
    batch, length, channels = x.shape
    width, rows, count = tiles(x)
    tile = pl.BlockSpec((1, rows, width), lambda b, c, t: (b, t, c))
    item = pl.BlockSpec((1, 2, width), lambda b, c, t: (b, 0, c))
    outputs = [(jax.ShapeDtypeStruct(x.shape, x.dtype), tile)]
    if summed:
        sums = jax.ShapeDtypeStruct((batch, count, 2, channels), jnp.float32)
        outputs.append((sums, pl.BlockSpec((1, 1, 2, width), lambda b, c, t: (b, t, 0, c))))
    moved = (len(tiled) + 1) * x.size * x.dtype.itemsize
    result = pl.pallas_call(
        functools.partial(kernel, length=length),
        name=name,
        grid=(batch, channels // width, count),
        in_specs=[tile] * len(tiled) + [item] * len(of_item),
        out_specs=[spec for _, spec in outputs],
        out_shape=[shape for shape, _ in outputs],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(
            flops=flops * x.size, transcendentals=0, bytes_accessed=moved
        ),
        interpret=interpret,
    )(*tiled, *of_item)
    return result[0], result[1].sum(axis=1) if summed else None


def _film(x: Any, emb: Any, kernel: Any, bias: Any) -> Any:
    """(B, 2, C): scale, shift."""
    return reference.film(emb, kernel, bias).reshape(x.shape[0], 2, x.shape[2])


def forward(
    x: Any, emb: Any, kernel: Any, bias: Any, *, groups: int, interpret: Any
) -> tuple[Any, Any]:
    """y and, with groups, its sums (B, G, 2)."""
    batch, _, channels = x.shape
    film = _film(x, emb, kernel, bias)
    y, sums = _call(
        _forward_kernel,
        "n2m_combine_film_fwd",
        (x,),
        (film,),
        bool(groups),
        5 if groups else 2,
        interpret,
    )
    if not groups:
        return y, None
    return y, sums.reshape(batch, 2, groups, channels // groups).sum(axis=3).swapaxes(1, 2)


def backward(
    x: Any, emb: Any, kernel: Any, bias: Any, dy: Any, dsums: Any, *, groups: int, interpret: Any
) -> tuple[Any, Any]:
    """dx, and dfilm (B, 2 C)."""
    batch, _, channels = x.shape
    of_item: tuple[Any, ...] = (_film(x, emb, kernel, bias),)
    if groups:
        of_item += (jnp.repeat(dsums.swapaxes(1, 2), channels // groups, axis=2),)
    dx, dfilm = _call(
        _backward_kernel if groups else _backward_kernel_without_sums,
        "n2m_combine_film_bwd",
        (x, dy),
        of_item,
        True,
        10 if groups else 4,
        interpret,
    )
    return dx, dfilm.reshape(batch, 2 * channels)
