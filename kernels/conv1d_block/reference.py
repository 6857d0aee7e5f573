"""conv1d_block in plain jnp: the definition of correct, and the fallback."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def _compute(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def precision(x: jax.Array) -> lax.Precision | None:
    """Of products in the dtype of x that lose nothing; those of bfloat16 are exact in float32."""
    return None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after that make ceil(length / stride) outputs, as ``lax`` pads for SAME."""
    out = -(-length // stride)
    total = max((out - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def group_sums(x: jax.Array, groups: int) -> jax.Array:
    """sums[b, g] = [sum of x, sum of x^2] over time and the C / groups channels of group g.

    x is (B, T, C); the result is (B, groups, 2) float32 (float64 for float64).
    """
    batch, length, channels = x.shape
    x = x.astype(_compute(x)).reshape(batch, length, groups, channels // groups)
    return jnp.stack([x.sum(axis=(1, 3)), (x * x).sum(axis=(1, 3))], axis=-1)


def sums(x: Any, *, groups: int) -> tuple[Any]:
    """``group_sums`` in the form of a kernel."""
    return (group_sums(x, groups),)


def group_norm_swish(
    x: Any, scale: Any, offset: Any, sums: Any, eps: float, length: int | None = None
) -> Any:
    """swish((x - mean) / sqrt(var + eps) * scale + offset), in float32.

    x is (B, T, C), scale and offset (C,) or (B, C), sums (B, G, 2); mean = sums[..., 0] / n and
    var = max(sums[..., 1] / n - mean^2, 0) with n = T C / G; T is ``length`` where the sums are of
    more rows than x has.
    """
    compute = _compute(x)
    batch, rows, channels = x.shape
    width = channels // sums.shape[1]
    count = max((rows if length is None else length) * width, 1)
    scale, offset = (
        jnp.broadcast_to(p, (batch, channels)).astype(compute) for p in (scale, offset)
    )
    mean = sums[..., 0].astype(compute) / count
    variance = jnp.maximum(sums[..., 1].astype(compute) / count - mean * mean, 0)
    gain = jnp.repeat(lax.rsqrt(variance + eps), width, axis=1) * scale
    mean = jnp.repeat(mean, width, axis=1)
    u = (x.astype(compute) - mean[:, None]) * gain[:, None] + offset[:, None]
    return u * jax.nn.sigmoid(u)


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
    algorithm: str = "auto",
) -> tuple[Any, Any]:
    """y = conv1d(h, weight; stride, SAME) + bias + residual @ fc, h = swish(group_norm(x)) or x.

    Returns (y, sums of y as stored, or None when out_groups is 0). Everything after the load is
    float32, rounded once to the dtype of x. bias, (scale, offset, sums) and (residual, fc) may be
    None. ``algorithm`` is for the native kernels.
    """
    compute = _compute(x)
    h = x.astype(compute) if scale is None else group_norm_swish(x, scale, offset, sums, eps)
    kernel, _, outs = weight.shape
    batch, length = x.shape[:2]
    if 0 in (batch, length):
        y = jnp.zeros((batch, -(-length // stride), outs), compute)
    elif kernel == stride == 1:
        y = jnp.matmul(h, weight[0].astype(compute), precision=lax.Precision.HIGHEST)
    else:
        y = lax.conv_general_dilated(
            h,
            weight.astype(compute),
            window_strides=(stride,),
            padding=[same_padding(length, kernel, stride)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            precision=lax.Precision.HIGHEST,
        )
    if bias is not None:
        y = y + bias.astype(compute)
    if residual is not None:
        fully = residual.astype(compute), fc.astype(compute)
        y = y + jnp.matmul(*fully, precision=lax.Precision.HIGHEST)
    y = y.astype(x.dtype)
    return y, group_sums(y, out_groups) if out_groups else None


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
    algorithm: str = "auto",
) -> tuple[Any, ...]:
    """(dx, dscale, doffset, dsums, dresidual), dscale and doffset one row a clip: (B, C)."""
    dy = with_sums(dy, y, d_out_sums)
    compute = _compute(x)
    if scale is not None:
        scale = jnp.broadcast_to(scale, (x.shape[0], x.shape[2]))
        offset = jnp.broadcast_to(offset, scale.shape)

    def convolution(x: Any, scale: Any, offset: Any, sums: Any) -> Any:
        none = (None, None)
        return forward(
            x, weight, None, scale, offset, sums, *none, stride=stride, eps=eps, out_groups=0
        )[0]

    _, pull = jax.vjp(convolution, x.astype(compute), scale, offset, sums)
    dx, dscale, doffset, dsums = pull(dy)
    dresidual = None
    if fc is not None:
        dresidual = jnp.matmul(dy, fc.astype(compute).T, precision=lax.Precision.HIGHEST)
        dresidual = dresidual.astype(x.dtype)
    return dx.astype(x.dtype), dscale, doffset, dsums, dresidual


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
    algorithm: str = "auto",
) -> tuple[Any, Any, Any]:
    """(dweight, dbias, dfc), float32, summed over the batch."""
    compute = _compute(x)
    dy = with_sums(dy, y, d_out_sums)
    weight = jnp.zeros((taps, x.shape[2], dy.shape[2]), compute)

    def convolution(weight: Any) -> Any:
        h = x.astype(compute) if scale is None else group_norm_swish(x, scale, offset, sums, eps)
        none = (None,) * 6
        return forward(h, weight, *none, stride=stride, eps=eps, out_groups=0)[0]

    (dweight,) = jax.vjp(convolution, weight)[1](dy)
    dfc = None
    if residual is not None:
        dfc = jnp.einsum(
            "btr,btd->rd", residual.astype(compute), dy, precision=lax.Precision.HIGHEST
        )
    return dweight, dy.sum(axis=(0, 1)) if has_bias else None, dfc


def with_sums(dy: Any, y: Any, d_out_sums: Any) -> Any:
    """dy + d_out_sums[..., 0] + 2 y d_out_sums[..., 1] in float32, by the group of the channel."""
    compute = _compute(dy)
    dy = dy.astype(compute)
    if d_out_sums is None:
        return dy
    width = dy.shape[2] // d_out_sums.shape[1]
    d = jnp.repeat(d_out_sums.astype(compute), width, axis=1)[:, None]
    return dy + d[..., 0] + 2 * y.astype(compute) * d[..., 1]
