"""fft_upsample on a TPU: Fourier transforms as matrix products, in four steps, on the MXU.

With T = N1 N2, n = N2 n1 + n2, k = k1 + N1 k2 and W_N = e^{-2 pi i / N},

    X[k] = sum_n2 W_N2^{n2 k2} ( W_T^{n2 k1} sum_n1 W_N1^{n1 k1} x[n] ):

a product with an N1 x N1 matrix from the left, twiddles, a product with an N2 x N2 matrix from the
right. The way back to T' = N1 N2' points, n' = N2' n1 + n2', has the same form,

    y[n'] = Re sum_k1 W_N1^{-n1 k1} W_T'^{-n2' k1} sum_k2 W_N2'^{-n2' k2} X[k] / T,

with the bins above T / 2 at negative k2: the padded zeros are never multiplied, and the outputs
come in order. (That wants an even N2, or N1 = 1.) The real part makes a cosine of the bin at T / 2.
Three kernels: from the left; from the right and back; from the left. The adjoint is the same chain,
conjugated and transposed. Tables are computed in float64; products lose nothing in float32.
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
from .op import split

_COLUMNS = 128  # of a step of the products from the left
_LEFT_ROWS = 64  # of the matrix in a step of the products from the left
_ROWS = 64  # of a step of those from the right


def _turn(rows: Any, columns: Any, points: int, sign: int) -> list[np.ndarray]:
    """e^{sign 2 pi i r c / points} as its two float32 parts."""
    values = np.exp(sign * 2j * np.pi * (np.outer(rows, columns) % points) / points)
    return [values.real.astype(np.float32), values.imag.astype(np.float32)]


def _wide(matrix: list[np.ndarray], *axes: int) -> list[np.ndarray]:
    """Zeros up to a multiple of 128 on these axes."""
    return [
        np.pad(a, [(0, -n % LANES if i in axes else 0) for i, n in enumerate(a.shape)])
        for a in matrix
    ]


@functools.lru_cache(maxsize=4)
def _tables(length: int, up: int, down: int, adjoint: bool) -> dict[str, list[np.ndarray]]:
    """Matrices as [real, imaginary]: left (N1, N1); before (N1, M), the twiddles after it; first
    (M, N2) from the right; kept (N1, N2), 1 / T for the bins that both spectra have; second
    (N2, M') back from the right; after (N1, M'). M is N2 and M' is N2', the other way round for the
    adjoint. Columns are padded."""
    n1, n2 = split(length, down)
    wide = n2 * up // down
    k1, k2 = np.arange(n1), np.arange(n2)
    signed = np.where(2 * k2 >= n2 + n2 % 2, k2 - n2, k2)
    k = np.abs(k1[:, None] + n1 * signed[None, :])
    # Both bins at T' / 2 are kept on the way down: together they are the one of the shorter.
    kept = (2 * k * down <= length * up) / length
    ours = _turn(np.arange(n2), k2, n2, -1), _turn(k1, np.arange(n2), length, -1)
    theirs = (
        _turn(np.arange(wide), signed, wide, -1),
        _turn(k1, np.arange(wide), length * up // down, -1),
    )
    (first, before), (back, after) = (theirs, ours) if adjoint else (ours, theirs)
    return {
        "left": _turn(k1, k1, n1, -1),
        "before": before,
        "first": _wide(first, 1),
        "kept": _wide([kept.astype(np.float32)], 1),
        "second": _wide([a.T for a in back], 0, 1),
        "after": _wide(after, 1),
    }


def _times(a: Any, b: Any, conjugate: bool = False) -> tuple[Any, Any]:
    """(a_r + i a_i)(b_r + i b_i), or with b conjugated, value by value."""
    (ar, ai), (br, bi) = a, b
    if conjugate:
        return ar * br + ai * bi, ai * br - ar * bi
    return ar * br - ai * bi, ar * bi + ai * br


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=exact)


def _forth_kernel(f_r: Any, f_i: Any, t_r: Any, t_i: Any, x: Any, o_r: Any, o_i: Any) -> None:
    """The left matrix times real x, times the twiddles."""
    found = _dot(f_r[...], x[0]), _dot(f_i[...], x[0])
    o_r[0], o_i[0] = _times(found, (t_r[...], t_i[...]))


def _back_kernel(f_r: Any, f_i: Any, x_r: Any, x_i: Any, out: Any) -> None:
    """The real part of the left matrix, conjugated, times x."""
    out[0] = _dot(f_r[...], x_r[0]) + _dot(f_i[...], x_i[0])


def _middle_kernel(
    a_r: Any, a_i: Any, b_r: Any, b_i: Any, kept: Any, t_r: Any, t_i: Any, x_r: Any, x_i: Any,
    o_r: Any, o_i: Any, s_r: Any, s_i: Any,
) -> None:  # fmt: skip
    """x A into s, the bins that are kept; then s conj(B), times conjugated twiddles. 128 columns at
    a time."""

    def over(width: int, body: Any) -> None:
        def one(j: Any, carry: Any) -> Any:
            body(pl.ds(pl.multiple_of(j * LANES, LANES), LANES))
            return carry

        jax.lax.fori_loop(0, width // LANES, one, 0)

    def forth(c: Any) -> None:
        x, keep = (x_r[0], x_i[0]), kept[:, c]
        s_r[:, c] = keep * (_dot(x[0], a_r[:, c]) - _dot(x[1], a_i[:, c]))
        s_i[:, c] = keep * (_dot(x[0], a_i[:, c]) + _dot(x[1], a_r[:, c]))

    def back(c: Any) -> None:
        s = s_r[...], s_i[...]
        real = _dot(s[0], b_r[:, c]) + _dot(s[1], b_i[:, c])
        imaginary = _dot(s[1], b_r[:, c]) - _dot(s[0], b_i[:, c])
        o_r[0, :, c], o_i[0, :, c] = _times((real, imaginary), (t_r[:, c], t_i[:, c]), True)

    over(s_r.shape[1], forth)
    over(o_r.shape[2], back)


def _constant(a: np.ndarray) -> Any:
    """A matrix that stays in VMEM, once."""
    return pl.BlockSpec(a.shape, lambda *_: (0,) * a.ndim, pipeline_mode=pl.Buffered(1))


def _from_left(name: str, x: Any, matrix: Any, twiddle: Any, interpret: Any) -> Any:
    """With twiddles, [real, imaginary] of the matrix times real x, times these; without, the real
    part of the matrix, conjugated, times x. Arrays are (B, N1, M)."""
    batch, n1, columns = x[0].shape
    width, rows = min(_COLUMNS, columns), min(_LEFT_ROWS, n1)
    block = pl.BlockSpec((1, n1, width), lambda b, j, i: (b, 0, j))
    out_block = pl.BlockSpec((1, rows, width), lambda b, j, i: (b, i, j))
    specs = [pl.BlockSpec((rows, n1), lambda b, j, i: (i, 0))] * 2
    specs += [pl.BlockSpec((rows, width), lambda b, j, i: (i, j))] * len(twiddle)
    outputs = 2 if twiddle else 1
    return pl.pallas_call(
        _forth_kernel if twiddle else _back_kernel,
        name=f"{name}_{'forth' if twiddle else 'back'}",
        grid=(batch, -(-columns // width), -(-n1 // rows)),
        in_specs=specs + [block] * len(x),
        out_specs=[out_block] * outputs,
        out_shape=[ShapeDtypeStruct((batch, n1, columns), jnp.float32)] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(
            flops=4 * batch * n1 * n1 * columns,
            transcendentals=0,
            bytes_accessed=12 * batch * n1 * columns + 8 * n1 * n1,
        ),
        interpret=interpret,
    )(*matrix, *twiddle, *x)


def _middle(name: str, x: Any, tables: Any, interpret: Any) -> Any:
    """[real, imaginary] (B, N1, M) -> (B, N1, M')."""
    batch, n1, columns = x[0].shape
    n2, columns_out = tables["second"][0].shape
    rows = min(_ROWS, n1)

    def tile(width: int) -> Any:
        return pl.BlockSpec((1, rows, width), lambda b, i: (b, i, 0))

    def of_rows(width: int) -> Any:
        return pl.BlockSpec((rows, width), lambda b, i: (i, 0))

    matrices = tables["first"] + tables["second"]
    products = columns * n2 + n2 * columns_out
    return pl.pallas_call(
        _middle_kernel,
        name=f"{name}_middle",
        grid=(batch, -(-n1 // rows)),
        in_specs=[_constant(a) for a in matrices]
        + [of_rows(n2)] + [of_rows(columns_out)] * 2 + [tile(columns)] * 2,
        out_specs=[tile(columns_out)] * 2,
        out_shape=[ShapeDtypeStruct((batch, n1, columns_out), jnp.float32)] * 2,
        scratch_shapes=[pltpu.VMEM((rows, n2), jnp.float32)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=8 * batch * n1 * products,
            transcendentals=0,
            bytes_accessed=8 * (batch * n1 * (columns + columns_out) + products),
        ),
        interpret=interpret,
    )(*matrices, *tables["kept"], *tables["after"], *x)  # fmt: skip


def _resample(name: str, x: Any, new_length: int, tables: Any, interpret: Any) -> Any:
    """(B, length, C) through the chain -> (B, new_length, C)."""
    batch, length, channels = x.shape
    n1 = tables["left"][0].shape[0]
    columns = x.astype(jnp.float32).swapaxes(1, 2).reshape(batch * channels, n1, length // n1)
    some = _from_left(name, [columns], tables["left"], tables["before"], interpret)
    some = [a[..., : new_length // n1] for a in _middle(name, some, tables, interpret)]
    (y,) = _from_left(name, some, tables["left"], [], interpret)
    return y.reshape(batch, channels, new_length).swapaxes(1, 2).astype(x.dtype)


def forward(x: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """y (B, T', C)."""
    length = x.shape[1]
    if up == down:
        return (x,)
    tables = _tables(length, up, down, False)
    return (_resample("n2m_fft_upsample_fwd", x, length * up // down, tables, interpret),)


def backward(dy: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """dx (B, T, C), by the adjoint."""
    length = dy.shape[1] * down // up
    if up == down:
        return (dy,)
    tables = _tables(length, up, down, True)
    return (_resample("n2m_fft_upsample_bwd", dy, length, tables, interpret),)
