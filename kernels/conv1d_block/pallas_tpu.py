"""conv1d_block on a TPU: what XLA prepares, and the calls of the kernels.

Channels are padded to multiples of 128, the width of a register; the presets have them so inside
their U-Nets. With x in bfloat16 the normalised values and the weights are rounded to bfloat16 and
products added in float32; with x in float32 nothing is rounded.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import ShapeDtypeStruct, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES, round_up
from . import pallas_conv, reference
from .pallas_load import Job
from .pallas_plan import Plan, plan
from .pallas_weight import kernel as weight_kernel
from .pallas_weight import parts, weight_plan


def _padded(a: Any, *axes: int) -> Any:
    """Zeros up to a multiple of 128 on these axes."""
    if a is None:
        return None
    widths = [(0, round_up(n, LANES) - n if i in axes else 0) for i, n in enumerate(a.shape)]
    return jnp.pad(a, widths) if any(high for _, high in widths) else a


def _by_lanes(weight: Any, dtype: Any) -> Any:
    """(K, C, D) -> (K, D / 128, C, 128): columns of registers, each one run of memory."""
    weight = _padded(weight.astype(dtype), 1, 2)
    kernel, channels, outs = weight.shape
    columns = weight.reshape(kernel, channels, outs // LANES, LANES).swapaxes(1, 2)
    # Else XLA takes the transposition for a matter of layout, and copies in every step of a loop.
    return lax.optimization_barrier(columns)


def _mean_and_variance(x: Any, sums: Any) -> tuple[Any, Any, Any]:
    """mean, variance (not below 0), and where it is clipped to 0; (B, G)."""
    count = x.shape[1] * (x.shape[2] // sums.shape[1])
    mean = sums[..., 0] / count
    variance = sums[..., 1] / count - mean * mean
    return mean, jnp.maximum(variance, 0), variance <= 0


def _affine(x: Any, scale: Any, offset: Any, sums: Any, eps: float) -> Any:
    """(B, 3, C): mean, gain = scale / sqrt(var + eps), offset."""
    batch, _, channels = x.shape
    mean, variance, _ = _mean_and_variance(x, sums)
    width = channels // sums.shape[1]
    mean, rstd = (jnp.repeat(a, width, axis=1) for a in (mean, lax.rsqrt(variance + eps)))
    return jnp.stack([mean, rstd * scale, jnp.broadcast_to(offset, (batch, channels))], axis=1)


def _shares(d_out_sums: Any, channels: int) -> Any:
    """(B, 2, D): the cotangents of the sums, by channel."""
    return jnp.repeat(d_out_sums.swapaxes(1, 2), channels // d_out_sums.shape[1], axis=2)


# The first axis of a grid is that of the cores; what is loaded for one step serves the next.
_IN_ORDER = pltpu.CompilerParams(
    dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary")
)


def _scratch(p: Plan) -> list[Any]:
    """A tile, and the windows of a group of items."""
    rows = p.window_rows // 2 if p.packed else p.window_rows
    windows = (p.items, len(p.windows), p.chunks, rows, LANES)
    loaded = (p.chunks, p.loaded_rows // 2 if p.in_words else p.loaded_rows, LANES)
    return [
        pltpu.VMEM(loaded, jnp.uint32 if p.in_words else jnp.float32),
        pltpu.VMEM(windows, jnp.uint32 if p.packed else jnp.float32),
    ]


def _input_specs(p: Plan, load: str, at: Any) -> list[Any]:
    """The pieces of a tile, and what its load needs."""
    inside = p.rows * p.stride
    if p.tiles == 1:
        pieces = [pl.BlockSpec((p.joined, p.length, p.channels), at(lambda b, t, d: (b, 0, 0)))]
    else:
        per_tile = inside // p.edge
        last = -(-p.length // p.edge) - 1
        edge = (1, p.edge, p.channels)
        pieces = [
            pl.BlockSpec(edge, at(lambda b, t, d: (b, lax.max(t * per_tile - 1, 0), 0))),
            pl.BlockSpec((1, inside, p.channels), at(lambda b, t, d: (b, t, 0))),
            pl.BlockSpec(edge, at(lambda b, t, d: (b, lax.min((t + 1) * per_tile, last), 0))),
        ]
    specs = pieces * (2 if load == "sums" else 1)
    if load != "plain":
        rows = 3 if load == "norm" else 2
        specs.append(pl.BlockSpec((p.joined, rows, p.channels), at(lambda b, t, d: (b, 0, 0))))
    return specs


def _specs(p: Plan, job: Job) -> tuple[list[Any], Any, Any]:
    """(in_specs, spec of the output, spec of its sums), in the order that the kernel takes them."""

    def at(index: Any) -> Any:
        return lambda *step: index(*p.place(*step))

    specs = _input_specs(p, job.load, at)
    weight = (p.kernel, p.width // LANES, p.channels, LANES)
    specs.append(pl.BlockSpec(weight, at(lambda b, t, d: (0, d, 0, 0))))
    if job.bias:
        specs.append(pl.BlockSpec((1, p.width), at(lambda b, t, d: (0, d))))
    tile = pl.BlockSpec((p.joined, p.rows, p.width), at(lambda b, t, d: (b, t, d)))
    if job.residual:
        residual = (p.joined, p.rows, job.residual)
        specs.append(pl.BlockSpec(residual, at(lambda b, t, d: (b, t, 0))))
        specs.append(pl.BlockSpec((job.residual, p.width), at(lambda b, t, d: (0, d))))
    if job.finish == "swish":
        specs += [tile, pl.BlockSpec((p.joined, 3, p.width), at(lambda b, t, d: (b, 0, d)))]
    sums = pl.BlockSpec((p.joined, 1, 2, p.width), at(lambda b, t, d: (b, t, 0, d)))
    return specs, tile, sums


def _convolve(name: str, job: Job, p: Plan, operands: Any, interpret: Any) -> tuple[Any, Any]:
    """(y (B, U, D), its sums by channel (B, 2, D) or None)."""
    specs, tile, sums_spec = _specs(p, job)
    dtype = operands[0].dtype
    shapes = [ShapeDtypeStruct((p.batch, job.out_length, p.outs), dtype)]
    out_specs = [tile]
    if job.sums:
        shapes.append(ShapeDtypeStruct((p.batch, p.tiles, 2, p.outs), jnp.float32))
        out_specs.append(sums_spec)
    values = p.batch * job.out_length * p.outs
    given = {id(a): a.size * a.dtype.itemsize for a in operands}
    results = pl.pallas_call(
        functools.partial(pallas_conv.kernel, job, p),
        name=name,
        grid=p.grid,
        in_specs=specs,
        out_specs=out_specs,
        out_shape=shapes,
        scratch_shapes=_scratch(p),
        compiler_params=_IN_ORDER,
        cost_estimate=pl.CostEstimate(
            flops=2 * values * (p.kernel * p.channels + job.residual),
            transcendentals=0 if job.load == "plain" else p.batch * p.length * p.channels,
            bytes_accessed=sum(given.values()) + values * dtype.itemsize,
        ),
        interpret=interpret,
    )(*operands)
    return results[0], results[1].sum(axis=1) if job.sums else None


def _pieces(p: Plan, *arrays: Any) -> list[Any]:
    """Each array as often as a tile has pieces: itself, or before, inside and after."""
    return [a for array in arrays for a in [array] * (1 if p.tiles == 1 else 3)]


def forward(
    x: Any,
    weight: Any,
    bias: Any,
    scale: Any,
    offset: Any,
    sums: Any,
    residual: Any,
    fc: Any,
    *,
    stride: int,
    eps: float,
    out_groups: int,
    algorithm: str,
    interpret: Any,
) -> tuple[Any, Any]:
    """y and, with out_groups, its sums (B, H, 2)."""
    batch, length, _ = x.shape
    kernel, _, outs = weight.shape
    first = reference.same_padding(length, kernel, stride)[0]
    operands: list[Any] = []
    if scale is not None:
        operands.append(_padded(_affine(x, scale, offset, sums, eps), 2))
    x, residual = _padded(x, 2), _padded(residual, 2)
    operands.append(_by_lanes(weight, x.dtype))
    if bias is not None:
        operands.append(_padded(bias[None], 1))
    if residual is not None:
        operands += [residual, _padded(fc.astype(x.dtype), 0, 1)]
    p = plan(
        batch, length, x.shape[2], round_up(outs, LANES), kernel, stride, first, x.dtype.itemsize
    )
    job = Job(
        load="plain" if scale is None else "norm",
        finish="bias",
        bias=bias is not None,
        residual=0 if residual is None else residual.shape[2],
        sums=bool(out_groups),
        out_length=p.outs_length,
    )
    operands = [*_pieces(p, x), *operands]
    y, by_channel = _convolve("n2m_conv1d_block_fwd", job, p, operands, interpret)
    if not out_groups:
        return y[..., :outs], None
    grouped = by_channel[..., :outs].reshape(batch, 2, out_groups, outs // out_groups)
    return y[..., :outs], grouped.sum(axis=3).swapaxes(1, 2)


def backward(
    x: Any,
    weight: Any,
    scale: Any,
    offset: Any,
    sums: Any,
    fc: Any,
    dy: Any,
    y: Any,
    d_out_sums: Any,
    *,
    stride: int,
    eps: float,
    algorithm: str,
    interpret: Any,
) -> tuple[Any, ...]:
    """(dx, dscale, doffset, dsums, dresidual), as `reference.backward`.

    The convolution of dy with the weights backwards and transposed; that of a down-sampling
    (stride > 1) is XLA's.
    """
    if stride > 1:
        static: dict[str, Any] = {"stride": stride, "eps": eps}
        return reference.backward(x, weight, scale, offset, sums, fc, dy, y, d_out_sums, **static)
    batch, length, channels = x.shape
    kernel = weight.shape[0]
    first = kernel - 1 - reference.same_padding(length, kernel, 1)[0]
    share = None
    loads = [_padded(dy, 2)]
    if d_out_sums is not None:
        share = _padded(_shares(d_out_sums, dy.shape[2]), 2)
        loads.append(_padded(y, 2))
    wide = [round_up(n, LANES) for n in (dy.shape[2], channels)]
    p = plan(batch, length, *wide, kernel, 1, first, x.dtype.itemsize)
    operands = _pieces(p, *loads) + ([] if share is None else [share])
    operands.append(_by_lanes(weight[::-1].swapaxes(1, 2), x.dtype))
    if scale is not None:
        operands += [_padded(x, 2), _padded(_affine(x, scale, offset, sums, eps), 2)]
    job = Job(
        load="plain" if share is None else "sums",
        finish="bias" if scale is None else "swish",
        bias=False,
        residual=0,
        sums=scale is not None,
        out_length=length,
    )
    dx, by_channel = _convolve("n2m_conv1d_block_bwd", job, p, operands, interpret)
    dx = dx[..., :channels]
    dresidual = None
    if fc is not None:
        whole = reference.with_sums(dy, y, d_out_sums).astype(x.dtype)
        dresidual = pallas_conv.product(whole, fc.astype(x.dtype).T).astype(x.dtype)
    if scale is None:
        return dx, None, None, None, dresidual
    shares = _norm_cotangents(x, scale, sums, by_channel[..., :channels], eps)
    return dx, *shares, dresidual


def _norm_cotangents(x: Any, scale: Any, sums: Any, by_channel: Any, eps: float) -> Any:
    """(dscale (B, C), doffset (B, C), dsums (B, G, 2)) of P = sum du and Q = sum du (x - mean)."""
    batch, length, channels = x.shape
    groups = sums.shape[1]
    width = channels // groups
    count = length * width
    mean, variance, clipped = _mean_and_variance(x, sums)
    rstd = lax.rsqrt(variance + eps)
    p, q = by_channel[:, 0], by_channel[:, 1]
    dscale = q * jnp.repeat(rstd, width, axis=1)
    scaled_p, scaled_q = ((a * scale).reshape(batch, groups, width).sum(axis=2) for a in (p, q))
    dmean = -rstd * scaled_p
    dvariance = jnp.where(clipped, 0, -0.5 * rstd**3 * scaled_q)
    dsums = jnp.stack([dmean - 2 * mean * dvariance, dvariance], axis=-1) / count
    return dscale, p, dsums


def backward_weight(
    x: Any,
    scale: Any,
    offset: Any,
    sums: Any,
    residual: Any,
    dy: Any,
    y: Any,
    d_out_sums: Any,
    *,
    stride: int,
    eps: float,
    taps: int,
    has_bias: bool,
    algorithm: str,
    interpret: Any,
) -> tuple[Any, Any, Any]:
    """(dweight, dbias, dfc), float32, as `reference.backward_weight`; dbias and dfc are XLA's."""
    batch, length, channels = x.shape
    outs = dy.shape[2]
    first = reference.same_padding(length, taps, stride)[0]
    wide = [round_up(n, LANES) for n in (channels, outs)]
    p = weight_plan(batch, length, *wide, taps, stride, first, x.dtype.itemsize)
    summed = d_out_sums is not None
    job = Job("plain" if scale is None else "norm", "bias", False, 0, summed, p.outs_length)
    operands = _pieces(p, _padded(x, 2))
    if scale is not None:
        operands.append(_padded(_affine(x, scale, offset, sums, eps), 2))
    operands.append(_padded(dy, 2))
    if summed:
        operands += [_padded(y, 2), _padded(_shares(d_out_sums, outs), 2)]
    by_part = _weight_call(p, job, operands, interpret)
    dweight = by_part.sum(axis=0).swapaxes(1, 2)[:, :channels, :outs]
    whole = reference.with_sums(dy, y, d_out_sums)
    dfc = None
    if residual is not None:
        flat = [a.astype(x.dtype).reshape(-1, a.shape[2]) for a in (residual, whole)]
        dfc = pallas_conv.product(flat[0].T, flat[1])
    return dweight, whole.sum(axis=(0, 1)) if has_bias else None, dfc


def _weight_call(p: Plan, job: Job, operands: Any, interpret: Any) -> Any:
    """(parts, K, D, C) float32."""

    def at(index: Any) -> Any:
        # The grid of the weight has its chunks of D second.
        return lambda core, chunk, outer, item: index(*p.place(core, outer, chunk, item))

    specs = _input_specs(p, job.load, at)
    tile = pl.BlockSpec((1, p.rows, p.width), at(lambda b, t, d: (b, t, d)))
    specs.append(tile)
    if job.sums:
        specs += [tile, pl.BlockSpec((1, 2, p.width), at(lambda b, t, d: (b, 0, d)))]
    cores, outer, chunks, items = p.grid
    shape = (parts(p), p.kernel, p.outs, p.channels)

    def place(core: Any, chunk: Any, outer: Any, item: Any) -> Any:
        return (core if shape[0] > 1 else 0, 0, p.place(core, outer, chunk, item)[2], 0)

    return pl.pallas_call(
        functools.partial(weight_kernel, job, p),
        name="n2m_conv1d_block_bwd_weight",
        grid=(cores, chunks, outer, items),
        in_specs=specs,
        out_specs=pl.BlockSpec((1, p.kernel, p.width, p.channels), place),
        out_shape=ShapeDtypeStruct(shape, jnp.float32),
        scratch_shapes=_scratch(p),
        compiler_params=_IN_ORDER,
        cost_estimate=pl.CostEstimate(
            flops=2 * p.batch * p.outs_length * p.kernel * p.channels * p.outs,
            transcendentals=0 if job.load == "plain" else p.batch * p.length * p.channels,
            bytes_accessed=sum({id(a): a.size * a.dtype.itemsize for a in operands}.values())
            + 4 * shape[0] * p.kernel * p.outs * p.channels,
        ),
        interpret=interpret,
    )(*operands)
