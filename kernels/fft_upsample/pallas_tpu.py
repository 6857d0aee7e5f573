"""fft_upsample on a TPU: three matrix products on the MXU, of the chain in `pallas_plan.py`.

*forth* takes the signal to the rows of the spectrum, *middle* interpolates these, *back* takes them
to the new signal. A product loses nothing in float32: with a = a0 + a1 + a2 in bfloat16 parts,

    a b = a0 b0 + (a0 b1 + a1 b0) + (a0 b2 + a1 b1 + a2 b0),

six passes. Matrices are split on the host; what a kernel makes is split where it is made, once, and
lies in memory as parts. On the left these lie as 32-bit words of two rows: whole registers, where
bfloat16 arrays would be read in halves and packed again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES
from .pallas_plan import ROWS, Plan, half_bin, plan, tables

_PARTS = 3


def _parts_of_matrix(a: np.ndarray) -> list[np.ndarray]:
    """Of a float64 matrix."""
    parts = []
    for _ in range(_PARTS):
        parts.append(a.astype(jnp.bfloat16))
        a = a - parts[-1].astype(np.float64)
    return parts


def _words(parts: list[np.ndarray]) -> np.ndarray:
    """(M, K) each -> (3, M / 2, K): an even row in the low half of a word, the next in the high."""
    bits = np.stack(parts).view(np.uint16).astype(np.uint32)
    return bits[:, 0::2] | bits[:, 1::2] << 16  # type: ignore[no-any-return]


def _parts(x: jax.Array) -> list[jax.Array]:
    """Of a float32 array. Rounded by their bits: XLA takes a conversion there and back for none.
    The last is converted: a NaN of any bits stays one."""
    parts = []
    for _ in range(_PARTS - 1):
        bits = (jax.lax.bitcast_convert_type(x, jnp.int32) + 0x8000) & -0x10000
        rounded = jax.lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(rounded.astype(jnp.bfloat16))
        x = x - rounded
    return [*parts, x.astype(jnp.bfloat16)]


def _product(left: Any, right: Any, rows: Any) -> jax.Array:
    """Rows (of words) of the left times 128 columns of the right, in float32."""
    found: Any = 0.0
    for k in range(0, right.shape[2], LANES):
        for b in range(_PARTS):
            for a in range(_PARTS - b):
                found += jnp.dot(
                    pltpu.bitcast(left[0, a, rows, k : k + LANES], jnp.bfloat16),
                    right[0, b, k : k + LANES],
                    preferred_element_type=jnp.float32,
                )
    return found  # type: ignore[no-any-return]


def _turn(found: jax.Array, by: jax.Array) -> jax.Array:
    """Times a complex table of the same form: half of the rows real, half imaginary."""
    half = ROWS // 2
    (r, i), (tr, ti) = (found[:half], found[half:]), (by[:half], by[half:])
    return jnp.concatenate([r * tr - i * ti, r * ti + i * tr])


def _tile(index: Any, rows: int) -> Any:
    return pl.ds(pl.multiple_of(index * rows, rows), rows)


def _parts_kernel(left: Any, right: Any, table: Any, out: Any) -> None:
    """A column of 128: the product, turned by the table, in parts: in words if it will stand on the
    left."""

    def one(index: Any, carry: Any) -> Any:
        found = _product(left, right, _tile(index, ROWS // 2))
        for a, part in enumerate(_parts(_turn(found, table[_tile(index, ROWS)]))):
            if out.dtype == jnp.uint32:
                out[0, a, _tile(index, ROWS // 2)] = pltpu.bitcast(part, jnp.uint32)
            else:
                out[0, a, _tile(index, ROWS)] = part
        return carry

    jax.lax.fori_loop(0, table.shape[0] // ROWS, one, 0)


def _whole_kernel(left: Any, right: Any, out: Any) -> None:
    """A column of 128: the product."""

    def one(index: Any, carry: Any) -> Any:
        out[0, _tile(index, ROWS)] = _product(left, right, _tile(index, ROWS // 2))
        return carry

    jax.lax.fori_loop(0, out.shape[1] // ROWS, one, 0)


def _multiply(name: str, left: Any, right: Any, table: Any, to: str, interpret: Any) -> Any:
    """left (B or 1, 3, M / 2, K) in words, times right (B or 1, 3, K, N). To "left" or "right":
    turned by the table (M, N), in parts, (B, 3, M / 2, N) or (B, 3, M, N); else whole, (B, M, N).
    """
    batch = max(left.shape[0], right.shape[0])
    rows, depth, columns = 2 * left.shape[2], left.shape[3], right.shape[3]

    def item(a: Any, b: Any) -> Any:
        return b if a.shape[0] == batch else 0

    specs = [
        pl.BlockSpec(
            (1, *left.shape[1:]), lambda b, j: (item(left, b), 0, 0, 0),
            pipeline_mode=pl.Buffered(1),
        ),
        pl.BlockSpec((1, _PARTS, depth, LANES), lambda b, j: (item(right, b), 0, 0, j)),
    ]  # fmt: skip
    if to:
        specs.append(pl.BlockSpec((rows, LANES), lambda b, j: (0, j)))
        lying, dtype = (rows // 2, jnp.uint32) if to == "left" else (rows, jnp.bfloat16)
        out = ShapeDtypeStruct((batch, _PARTS, lying, columns), dtype)
        out_spec = pl.BlockSpec((1, _PARTS, lying, LANES), lambda b, j: (b, 0, 0, j))
    else:
        out = ShapeDtypeStruct((batch, rows, columns), jnp.float32)
        out_spec = pl.BlockSpec((1, rows, LANES), lambda b, j: (b, 0, j))
    return pl.pallas_call(
        _parts_kernel if to else _whole_kernel,
        name=name,
        grid=(batch, columns // LANES),
        in_specs=specs,
        out_specs=out_spec,
        out_shape=out,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=12 * batch * rows * depth * columns,
            transcendentals=0,
            bytes_accessed=4 * left.size + 2 * right.size + 6 * batch * rows * columns,
        ),
        interpret=interpret,
    )(left, right, *([table] if to else []))


@functools.lru_cache(maxsize=4)
def _constants(p: Plan, adjoint: bool) -> tuple[np.ndarray, ...]:
    """Of the three products: left, before; middle, after; left transposed."""
    t = tables(p, adjoint)
    left, back = (_words(_parts_of_matrix(a))[None] for a in (t.left, t.left.T))
    middle = np.stack(_parts_of_matrix(t.middle))[None]
    return left, t.before.astype(np.float32), middle, t.after.astype(np.float32), back


def _chain(name: str, x: Any, p: Plan, adjoint: bool, interpret: Any) -> Any:
    """(B, N1, M) -> (B, N1, M')."""
    left, before, middle, after, back = _constants(p, adjoint)
    m, m_new = (p.n2_new, p.n2) if adjoint else (p.n2, p.n2_new)
    x = jnp.pad(x, ((0, 0), (0, p.signal_rows - p.n1), (0, -m % LANES)))
    z = _multiply(f"{name}_forth", left, jnp.stack(_parts(x), 1), before, "left", interpret)
    u = _multiply(f"{name}_middle", z, middle, after, "right", interpret)
    y = _multiply(f"{name}_back", back, u, None, "", interpret)
    return y[:, : p.n1, :m_new]


def _resample(name: str, x: Any, up: int, down: int, adjoint: bool, interpret: Any) -> Any:
    """(B, T, C) -> (B, T', C); of the adjoint, back."""
    batch, length, channels = x.shape
    ends = length, length * up // down
    if adjoint:
        ends = length * down // up, length
    new_length = ends[0 if adjoint else 1]
    p = plan(ends[0], up, down)
    columns = x.astype(jnp.float32).swapaxes(1, 2).reshape(batch * channels, length)
    y = _chain(name, columns.reshape(batch * channels, p.n1, -1), p, adjoint, interpret)
    y = y.reshape(batch * channels, new_length)
    other_sign = half_bin(*ends)
    if other_sign is not None:
        a, b = (v.astype(np.float32) for v in (other_sign[::-1] if adjoint else other_sign))
        y += b * jnp.sum(columns * a, axis=1, keepdims=True)
    return y.reshape(batch, channels, new_length).swapaxes(1, 2).astype(x.dtype)


def forward(x: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """y (B, T', C)."""
    if up == down:
        return (x,)
    return (_resample("n2m_fft_upsample_fwd", x, up, down, False, interpret),)


def backward(dy: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """dx (B, T, C), by the adjoint."""
    if up == down:
        return (dy,)
    return (_resample("n2m_fft_upsample_bwd", dy, up, down, True, interpret),)
