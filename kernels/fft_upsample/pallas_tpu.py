"""fft_upsample on a TPU: Fourier transforms as matrix products, in four steps, on the MXU.

With T = N1 N2, n = N2 n1 + n2 and k = k1 + N1 k2, and W_N = e^{-2 pi i / N},

    X[k] = sum_n2 W_N2^{n2 k2} ( W_T^{n2 k1} sum_n1 W_N1^{n1 k1} x[n] ),

a product with an N1 x N1 matrix from the left, twiddles, and one with an N2 x N2 matrix from the
right; the inverse runs the same way back. As on the processor (README.md) there is no transform of
T' points: phase s of the output is x delayed by s down / up samples, a product of X with H_s, and
two phases are the real and imaginary part of one inverse. Decimation by `down` drops columns of the
right matrix of the inverse. Three kernels: from the left; from the right, H and back; from the left.

The adjoint goes the same way with conj(H) and the sum over pairs of phases in the middle. Matrices
and twiddles are computed in float64; products are those of float32 without loss.
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

from .op import split

_COLUMNS = 128  # of a step of the products from the left
_LEFT_ROWS = 64  # of the matrix in a step of the products from the left
_ROWS = 8  # of a step of those from the right


def phases(up: int, down: int) -> list[tuple[int, int | None]]:
    """The phases that need a transform, in pairs; on the way up the first is a copy of x."""
    some: list[int | None] = list(range(1 if up > down else 0, up))
    some += [None] * (len(some) % 2)
    return list(zip(some[::2], some[1::2], strict=True))  # type: ignore[arg-type]


def _dft(rows: Any, columns: Any, points: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """e^{sign 2 pi i r c / points} as its two float32 parts."""
    turns = np.outer(rows, columns) % points
    values = np.exp(sign * 2j * np.pi * turns / points)
    return values.real.astype(np.float32), values.imag.astype(np.float32)


def _response(length: int, up: int, down: int, s: int | None) -> np.ndarray:
    """H_s[k], k = 0 ... T - 1: a delay of s down / up samples, and the bins that both have."""
    if s is None:
        return np.zeros(length, np.complex128)
    k = np.arange(length)
    signed = np.where(k > length // 2, k - length, k)
    h = np.exp(2j * np.pi * ((signed * s * down) % (length * up)) / (length * up))
    if up < down:
        return h * (2 * np.abs(signed) * down <= length * up)
    if length % 2 == 0:  # the bin stands for both signs
        h[length // 2] = h[length // 2].real
    return h


@functools.lru_cache(maxsize=4)
def _tables(length: int, up: int, down: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every matrix as (real, imaginary): left (N1, N1), right (N2, N2) and its columns and rows
    that decimation keeps, the twiddles (N1, N2) and those of the columns that decimation keeps, and the responses of the
    pairs of phases (pairs, N1, N2)."""
    n1, n2 = split(length, down)
    a, b = np.arange(n1), np.arange(n2)
    some = b[::down]
    pairs = [
        _response(length, up, down, s) + 1j * _response(length, up, down, t)
        for s, t in phases(up, down)
    ]
    # Bin k = k1 + N1 k2 stands in row k1 and column k2. The inverse's 1 / T is part of H.
    h = np.stack(pairs).reshape(-1, n2, n1).swapaxes(1, 2) / length
    return {
        "left": _dft(a, a, n1, -1),
        "right": _dft(b, b, n2, -1),
        "right_some": _dft(b, some, n2, -1),
        "some_right": _dft(some, b, n2, -1),
        "twiddle": _dft(a, b, length, -1),
        "twiddle_some": _dft(a, some, length, -1),
        "response": (h.real.astype(np.float32), h.imag.astype(np.float32)),
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


def _left_kernel(*refs: Any, real_in: bool, real_out: bool, inverse: bool, twiddled: bool) -> None:
    """out = F x, times the twiddles; F (N1, N1), conjugated for the inverse."""
    rest = list(refs)

    def pair(there: bool = True) -> Any:
        return (rest.pop(0)[...], rest.pop(0)[...]) if there else None

    fr, fi = pair()
    if inverse:
        fi = -fi
    twiddle = pair(twiddled)
    xr = rest.pop(0)[0]
    xi = None if real_in else rest.pop(0)[0]
    real = _dot(fr, xr) if xi is None else _dot(fr, xr) - _dot(fi, xi)
    if real_out:
        rest.pop(0)[0] = real
        return
    imaginary = _dot(fi, xr) if xi is None else _dot(fi, xr) + _dot(fr, xi)
    out = (real, imaginary)
    if twiddle is not None:
        out = _times(out, twiddle)
    for ref, value in zip(rest, out, strict=True):
        ref[0] = value


def _right(x: Any, matrix: Any, inverse: bool = False) -> tuple[Any, Any]:
    """x (rows, N) times a complex (N, M) matrix, conjugated for the inverse."""
    (xr, xi), (mr, mi) = x, matrix
    if inverse:
        return _dot(xr, mr) + _dot(xi, mi), _dot(xi, mr) - _dot(xr, mi)
    return _dot(xr, mr) - _dot(xi, mi), _dot(xr, mi) + _dot(xi, mr)


def _middle_kernel(*refs: Any, pairs: int, adjoint: bool) -> None:
    """From the right, times the responses, and back from the right.

    Forward: one spectrum, `pairs` results. Adjoint: `pairs` inputs, one result: the sum.
    """
    (first_r, first_i, second_r, second_i, twiddle_r, twiddle_i, h_r, h_i, x_r, x_i, o_r, o_i) = refs
    first, second = (first_r[...], first_i[...]), (second_r[...], second_i[...])
    twiddle = (twiddle_r[...], twiddle_i[...])
    total: Any = None
    for p in range(pairs):
        if adjoint or p == 0:
            spectrum = _right((x_r[0, p], x_i[0, p]), first)
        filtered = _times(spectrum, (h_r[p], h_i[p]), conjugate=adjoint)
        if adjoint:
            total = filtered if p == 0 else (total[0] + filtered[0], total[1] + filtered[1])
            if p < pairs - 1:
                continue
            filtered = total
        out = _times(_right(filtered, second, inverse=True), twiddle, conjugate=True)
        o_r[0, 0 if adjoint else p], o_i[0, 0 if adjoint else p] = out


def _constant(a: np.ndarray) -> Any:
    """A matrix that stays in VMEM, once."""
    return pl.BlockSpec(a.shape, lambda *_: (0,) * a.ndim, pipeline_mode=pl.Buffered(1))


def _from_left(
    name: str, x: Any, matrix: Any, twiddle: Any, inverse: bool, real_out: bool, interpret: Any
) -> Any:
    """F x for x = (real, imaginary or None), each (B, N1, M)."""
    batch, n1, columns = x[0].shape
    width = _COLUMNS if columns % _COLUMNS == 0 or columns > _COLUMNS else columns
    rows = min(_LEFT_ROWS, n1)
    block = pl.BlockSpec((1, n1, width), lambda b, j, i: (b, 0, j))
    out_block = pl.BlockSpec((1, rows, width), lambda b, j, i: (b, i, j))
    given = [a for a in x if a is not None]
    operands = [*matrix, *(twiddle or ()), *given]
    specs = [pl.BlockSpec((rows, n1), lambda b, j, i: (i, 0))] * 2
    specs += [pl.BlockSpec((rows, width), lambda b, j, i: (i, j))] * (2 if twiddle else 0)
    specs += [block] * len(given)
    outputs = 1 if real_out else 2
    products = len(given) * outputs
    return pl.pallas_call(
        functools.partial(
            _left_kernel,
            real_in=x[1] is None,
            real_out=real_out,
            inverse=inverse,
            twiddled=twiddle is not None,
        ),
        name=name,
        grid=(batch, -(-columns // width), -(-n1 // rows)),
        in_specs=specs,
        out_specs=[out_block] * outputs,
        out_shape=[ShapeDtypeStruct((batch, n1, columns), jnp.float32)] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * batch * n1 * n1 * columns,
            transcendentals=0,
            bytes_accessed=4 * (len(given) + outputs) * batch * n1 * columns + 8 * n1 * n1,
        ),
        interpret=interpret,
    )(*operands)


def _middle(name: str, x: Any, first: Any, second: Any, twiddle: Any, h: Any, adjoint: bool,
            interpret: Any) -> Any:  # fmt: skip
    """x = (real, imaginary), each (B, inputs, N1, M) -> two of (B, outputs, N1, M')."""
    batch, inputs, n1, columns = x[0].shape
    pairs, _, n2 = h[0].shape
    outputs, columns_out = (1 if adjoint else pairs), second[0].shape[1]
    rows = min(_ROWS, n1)

    def tile(many: int, width: int) -> Any:
        return pl.BlockSpec((1, many, rows, width), lambda b, i: (b, 0, i, 0))

    specs = [_constant(a) for a in (*first, *second)]
    specs += [pl.BlockSpec((rows, columns_out), lambda b, i: (i, 0))] * 2
    specs += [pl.BlockSpec((pairs, rows, n2), lambda b, i: (0, i, 0))] * 2
    specs += [tile(inputs, columns)] * 2
    products = 4 * (inputs * columns * n2 + outputs * n2 * columns_out)
    moved = inputs * columns + pairs * n2 + outputs * columns_out
    return pl.pallas_call(
        functools.partial(_middle_kernel, pairs=pairs, adjoint=adjoint),
        name=name,
        grid=(batch, -(-n1 // rows)),
        in_specs=specs,
        out_specs=[tile(outputs, columns_out)] * 2,
        out_shape=[ShapeDtypeStruct((batch, outputs, n1, columns_out), jnp.float32)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=2 * batch * n1 * products, transcendentals=0, bytes_accessed=8 * batch * n1 * moved
        ),
        interpret=interpret,
    )(*first, *second, *twiddle, *h, *x)


def forward(x: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """y (B, T', C)."""
    if up == down:
        return (x,)
    batch, length, channels = x.shape
    n1, _ = split(length, down)
    tables = _tables(length, up, down)
    name = "n2m_fft_upsample_fwd"
    columns = x.astype(jnp.float32).swapaxes(1, 2).reshape(batch * channels, length)
    signal = columns.reshape(batch * channels, n1, -1)
    some = _from_left(
        name, (signal, None), tables["left"], tables["twiddle"], False, False, interpret
    )
    some = _middle(
        name, [a[:, None] for a in some], tables["right"], tables["right_some"],
        tables["twiddle_some"], tables["response"], False, interpret,
    )  # fmt: skip
    some = [a.reshape(-1, *a.shape[2:]) for a in some]
    some = _from_left(name, some, tables["left"], None, True, False, interpret)
    pairs = len(phases(up, down))
    real, imaginary = (a.reshape(batch * channels, pairs, length // down) for a in some)
    found = {s: real[:, i] for i, (s, _) in enumerate(phases(up, down))}
    found |= {t: imaginary[:, i] for i, (_, t) in enumerate(phases(up, down)) if t is not None}
    if up > down:
        found[0] = columns[:, ::down]
    y = jnp.stack([found[s] for s in range(up)], axis=-1)
    return (y.reshape(batch, channels, -1).swapaxes(1, 2).astype(x.dtype),)


def backward(dy: Any, *, up: int, down: int, interpret: Any) -> tuple[Any]:
    """dx (B, T, C), by the adjoint."""
    if up == down:
        return (dy,)
    batch, new_length, channels = dy.shape
    length = new_length * down // up
    n1, _ = split(length, down)
    tables = _tables(length, up, down)
    name = "n2m_fft_upsample_bwd"
    columns = dy.astype(jnp.float32).swapaxes(1, 2).reshape(batch * channels, length // down, up)
    pairs = phases(up, down)
    zero = jnp.zeros_like(columns[..., 0])
    real = jnp.stack([columns[..., s] for s, _ in pairs], axis=1)
    imaginary = jnp.stack([zero if t is None else columns[..., t] for _, t in pairs], axis=1)
    some = [a.reshape(batch * channels * len(pairs), n1, -1) for a in (real, imaginary)]
    some = _from_left(name, some, tables["left"], tables["twiddle_some"], False, False, interpret)
    some = _middle(
        name, [a.reshape(batch * channels, len(pairs), *a.shape[1:]) for a in some],
        tables["some_right"], tables["right"], tables["twiddle"], tables["response"], True,
        interpret,
    )  # fmt: skip
    (dx,) = _from_left(
        name, [a[:, 0] for a in some], tables["left"], None, True, True, interpret
    )
    dx = dx.reshape(batch * channels, length)
    if up > down:
        dx = dx.at[:, ::down].add(columns[..., 0])
    return (dx.reshape(batch, channels, length).swapaxes(1, 2).astype(dy.dtype),)
