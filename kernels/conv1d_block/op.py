"""The public function: checks, and the op built from its four kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from ..common import check, native, pallas, shards
from ..common.dispatch import Arrays, Kernel, Op
from . import cuda, reference, sharded, xla_tpu


def _float32(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, jnp.float32)


def _sums_outputs(x: Any, *, groups: int) -> tuple[Any]:
    return (_float32(x.shape[0], groups, 2),)


def _forward_outputs(
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
) -> tuple[Any, Any]:
    batch, length = x.shape[:2]
    y = ShapeDtypeStruct((batch, -(-length // stride), weight.shape[2]), x.dtype)
    return y, _float32(batch, out_groups, 2) if out_groups else None


def _backward_outputs(
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
) -> tuple[Any, ...]:
    dx = ShapeDtypeStruct(x.shape, x.dtype)
    dresidual = None if fc is None else ShapeDtypeStruct((*dy.shape[:2], fc.shape[0]), x.dtype)
    if scale is None:
        return dx, None, None, None, dresidual
    a_clip = _float32(x.shape[0], x.shape[2])
    return dx, a_clip, a_clip, _float32(*sums.shape), dresidual


def _backward_weight_outputs(
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
) -> tuple[Any, Any, Any]:
    outs = dy.shape[2]
    dfc = None if residual is None else _float32(residual.shape[2], outs)
    return _float32(taps, x.shape[2], outs), _float32(outs) if has_bias else None, dfc


def _attributes(*, stride: int, eps: float, algorithm: str, **_: Any) -> dict[str, Any]:
    # The handler reads the rest off the shapes.
    return {"stride": stride, "eps": eps, "algorithm": algorithm}


def _fills_no_register(channels: int, outs: int) -> str:
    """Why "auto" leaves a pass to XLA on a TPU, or ""."""
    if channels % pallas.LANES or outs % pallas.LANES:
        return f"{channels} channels in and {outs} out do not fill registers of {pallas.LANES}"
    return ""


def _forward_yields_on_tpu(x: Any, weight: Any, *operands: Any, **static: Any) -> str:
    return _fills_no_register(*weight.shape[1:])


def _backward_yields_on_tpu(x: Any, weight: Any, *operands: Any, stride: int, **static: Any) -> str:
    if stride > 1:
        return "XLA interleaves the phases of a down-sampling"
    return _fills_no_register(*weight.shape[1:])


def _weight_yields_on_tpu(
    x: Any, scale: Any, offset: Any, sums: Any, residual: Any, dy: Any, *operands: Any, **_: Any
) -> str:
    return _fills_no_register(x.shape[2], dy.shape[2])


# Axes: x (b t c), weight (k c d), sums (b g s), residual (b u r), y (b u d), sums of y (b h s).
SUMS = Kernel(
    "n2m_conv1d_block_sums",
    rule="b t c -> b g s",
    outputs=_sums_outputs,
    reference=reference.sums,
    attributes=lambda **_: {},
    cuda_scratch=cuda.sums_scratch,
)
FORWARD = Kernel(
    "n2m_conv1d_block_fwd",
    rule="b t c, k c d, d, c, c, b g s, b u r, r d -> b u d, b h s",
    outputs=_forward_outputs,
    reference=reference.forward,
    attributes=_attributes,
    pallas=pallas.from_room(__package__, "forward"),
    pallas_yields=_forward_yields_on_tpu,
    xla_on_tpu=xla_tpu.forward,
    cuda_scratch=cuda.forward_scratch,
)
BACKWARD = Kernel(
    "n2m_conv1d_block_bwd",
    rule="b t c, k c d, c, c, b g s, r d, b u d, b u d, b h s -> b t c, b c, b c, b g s, b u r",
    outputs=_backward_outputs,
    reference=reference.backward,
    attributes=_attributes,
    pallas=pallas.from_room(__package__, "backward"),
    pallas_yields=_backward_yields_on_tpu,
    cuda_scratch=cuda.backward_scratch,
)
BACKWARD_WEIGHT = Kernel(
    "n2m_conv1d_block_bwd_weight",
    rule="b t c, c, c, b g s, b u r, b u d, b u d, b h s -> k c d, d, r d",
    outputs=_backward_weight_outputs,
    reference=reference.backward_weight,
    attributes=_attributes,
    pallas=pallas.from_room(__package__, "backward_weight"),
    pallas_yields=_weight_yields_on_tpu,
    cuda_scratch=cuda.backward_weight_scratch,
)


def _sums_backward(
    run: Callable[..., Arrays],
    operands: Arrays,
    outputs: Arrays,
    cotangents: Arrays,
    *,
    groups: int,
) -> Arrays:
    """dx = dsums[..., 0] + 2 x dsums[..., 1], by the group of the channel."""
    (x,), (dsums,) = operands, cotangents
    d = jnp.repeat(dsums, x.shape[2] // groups, axis=1)[:, None]
    return ((d[..., 0] + 2 * x.astype(jnp.float32) * d[..., 1]).astype(x.dtype),)


def _backward(
    run: Callable[..., Arrays],
    operands: Arrays,
    outputs: Arrays,
    cotangents: Arrays,
    *,
    stride: int,
    eps: float,
    out_groups: int,
    algorithm: str,
) -> Arrays:
    x, weight, bias, scale, offset, sums, residual, fc = operands
    dy, d_out_sums = cotangents
    y = outputs[0] if out_groups else None
    conv: dict[str, Any] = {"stride": stride, "eps": eps, "algorithm": algorithm}
    dx, dscale, doffset, dsums, dresidual = run(
        BACKWARD, x, weight, scale, offset, sums, fc, dy, y, d_out_sums, **conv
    )
    dweight, dbias, dfc = run(
        BACKWARD_WEIGHT,
        *(x, scale, offset, sums, residual, dy, y, d_out_sums),
        **conv,
        taps=weight.shape[0],
        has_bias=bias is not None,
    )
    if scale is not None:
        dscale, doffset = dscale.sum(axis=0), doffset.sum(axis=0)
    if fc is not None:
        dfc = dfc.astype(fc.dtype)
    return dx, dweight.astype(weight.dtype), dbias, dscale, doffset, dsums, dresidual, dfc


def _plan(
    shape: tuple[int, ...],
    dtype: str,
    platform: str,
    *,
    weight: Sequence[int] = (),
    stride: int = 1,
    algorithm: str = "auto",
) -> str:
    """What the native kernels do with x of this shape and a weight of shape (K, C, D)."""
    if not weight:
        return ""
    kernel, channels, outs = weight
    if platform == "cuda":
        return cuda.plan(shape, dtype, weight, stride)
    return native.conv1d_block_plan(*shape[:2], kernel, channels, outs, stride, dtype, algorithm)


def _explained_on_tpu(
    shape: tuple[int, ...], dtype: str, *, weight: Sequence[int] = (), **details: Any
) -> str:
    _, channels, outs = weight or (0, shape[2], pallas.LANES)
    return _fills_no_register(channels, outs)


ALGORITHMS = ("auto", "direct", "toom_cook", "amx")
GROUP_SUMS = Op("conv1d_block", SUMS, _sums_backward)
OP = Op(
    "conv1d_block",
    FORWARD,
    _backward,
    keep=(0,),
    plan=_plan,
    pallas_yields=_explained_on_tpu,
)


def conv1d_block(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    *,
    scale: jax.Array | None = None,
    offset: jax.Array | None = None,
    groups: int | None = None,
    sums: jax.Array | None = None,
    eps: float = 1e-5,
    residual: jax.Array | None = None,
    fc: jax.Array | None = None,
    stride: int = 1,
    out_groups: int | None = None,
    algorithm: str = "auto",
    time_axis: str | None = None,
    channel_axis: str | None = None,
    implementation: str = "auto",
) -> Any:
    """y = conv1d(h, weight; stride, SAME) + bias + residual @ fc, with h = swish(group_norm(x)).

    h = swish((x - mean) / sqrt(var + eps) * scale + offset) with the mean and variance of each clip
    and group of C / groups contiguous channels over time; h = x without ``scale``.
    T' = ceil(T / stride).

    Args:
      x: (B, T, C), float32 or bfloat16.
      weight: (K, C, D), any K >= 1, padded as ``lax`` pads for "SAME". Like every parameter float32
        or bfloat16, whatever x is; products are added in float32.
      bias: (D,).
      scale, offset: (C,), both or neither: normalise and swish x on load.
      groups: G, a divisor of C; needed with scale.
      sums: float32 (B, G, 2): the sum and the sum of squares of x over time and the channels of a
        group, as ``combine_film`` and this op return them. None: one more pass over x.
      eps: added to the variance, positive.
      residual, fc: (B, T', R) and (R, D), both or neither: a fully connected layer added to y.
      stride: of the convolution, at least 1.
      out_groups: H, a divisor of D: also return the group sums of y that a GroupNorm needs.
      algorithm: how the native kernel forms the products. "direct"; "toom_cook": minimal filtering,
        2.2 to 3.5 times fewer products for a float32 error of about 1e-5 of the largest result
        instead of 3e-7 (stride 1 and K = 3, 5, 7 or 9, else direct); "auto": the planner, which
        ``noise2music.kernels.explain`` shows, picks by the shape, dtype and processor; "amx": the
        matrix tiles of a processor that has them, else auto, with a float32 error of 5e-6. With
        toom_cook an input that is not finite spoils the outputs of its tiles, up to K + 14 rows,
        not just K; with amx a float32 Inf becomes NaN.
      time_axis: the axis of the ``shard_map`` around the call that splits time: x, residual and y
        are one device's rows of longer clips, T a multiple of ``stride``, and sums are means over
        the devices of their own sums. Sends rows to the neighbours and the sums to all.
      channel_axis: the axis that splits the channels of x: x, scale, offset, sums and residual are
        one device's channels, weight and fc their rows, and y is whole on each device: one
        all-reduce of y. Some columns of weight, bias and fc alone need no axis and send nothing.
      implementation: "auto", "reference", "native" or "pallas".

    Returns:
      y (B, T', D) in the dtype of x; with out_groups, the pair (y, sums of y as stored), the sums
      float32 (B, H, 2). Differentiable in every array; the cotangent of the sums flows back too.

    Raises:
      ValueError, TypeError: an argument has a wrong shape, dtype or type; the message names it.
    """
    name = "conv1d_block"
    x = check.array(name, "x", x, ("B", "T", "C"))
    batch, length, channels = x.shape
    weight = check.array(name, "weight", weight, ("K", channels, "D"))
    kernel, _, outs = weight.shape
    for size, what in ((kernel, "K"), (channels, "C"), (outs, "D")):
        if size < 1:
            raise check.fail(name, "weight", f"of at least one {what}", tuple(weight.shape))
    stride = check.positive_int(name, "stride", stride)
    if algorithm not in ALGORITHMS:
        raise check.fail(name, "algorithm", "one of " + ", ".join(ALGORITHMS), repr(algorithm))
    if not 0 < eps < float("inf"):
        raise check.fail(name, "eps", "positive and finite", eps)
    if bias is not None:
        bias = check.array(name, "bias", bias, (outs,)).astype(jnp.float32)
    if (scale is None) != (offset is None):
        raise check.fail(name, "scale and offset", "both given or both None", "one of them")
    if (residual is None) != (fc is None):
        raise check.fail(name, "residual and fc", "both given or both None", "one of them")
    if scale is None:
        for what, value in (("groups", groups), ("sums", sums)):
            if value is not None:
                raise check.fail(
                    name, what, "None without scale", "a value", "give scale and offset"
                )
    else:
        scale = check.array(name, "scale", scale, (channels,)).astype(jnp.float32)
        offset = check.array(name, "offset", offset, (channels,)).astype(jnp.float32)
        if groups is None:
            raise check.fail(name, "groups", f"a divisor of the {channels} channels", None)
        groups = check.groups(name, "groups", groups, channels)
        if sums is not None:
            sums = check.array(name, "sums", sums, (batch, groups, 2), ("float32",))
    if residual is not None:
        residual = check.array(name, "residual", residual, (batch, -(-length // stride), "R"))
        residual = residual.astype(x.dtype)
        fc = check.array(name, "fc", fc, (residual.shape[2], outs))
        if residual.shape[2] < 1:
            raise check.fail(name, "residual", "of at least one channel", tuple(residual.shape))
        if fc.dtype != weight.dtype:
            weight, fc = weight.astype(jnp.float32), fc.astype(jnp.float32)
    count = 0 if out_groups is None else check.groups(name, "out_groups", out_groups, outs)
    if shards.size(name, "time_axis", time_axis) == 1:
        time_axis = None
    if shards.size(name, "channel_axis", channel_axis) == 1:
        channel_axis = None
    if time_axis is not None and (length < 1 or length % stride):
        raise check.fail(
            name, "T", f"a multiple of the stride {stride} on each device", length, "split it less"
        )
    if scale is not None and sums is None:
        (sums,) = GROUP_SUMS(x, groups=groups, implementation=implementation)
        sums = sums if time_axis is None else shards.mean(sums, time_axis)
    operands = (x, weight, bias, scale, offset, sums, residual, fc)
    static: dict[str, Any] = {"stride": stride, "eps": float(eps)}

    def whole(*operands_and_groups: Any) -> Any:
        *operands, groups_of_y = operands_and_groups
        return OP(
            *operands,
            **static,
            out_groups=groups_of_y,
            algorithm=algorithm,
            implementation=implementation,
        )

    if time_axis is None and channel_axis is None:
        y, out_sums = whole(*operands, count)
    else:
        y, out_sums = sharded.conv1d_block(
            whole, operands, **static, out_groups=count,
            time_axis=time_axis, channel_axis=channel_axis,
        )  # fmt: skip
    return y if out_groups is None else (y, out_sums)
