"""conv1d_block of one piece of a clip, or of some of the channels, beside other devices.

Over time: the kernel runs on the piece as if it were a clip, with zeros beyond its ends. A
convolution is linear in h, so what the neighbours' rows add to the first and last few outputs is
added afterwards by a convolution of these rows alone. The kernel is the same on every platform,
and the rows travel while it runs.

Over channels: each device has some rows of the weight and those channels of x. The products are
added over the devices; all else is local.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..common import shards
from ..common.pallas import LANES
from . import reference

Operands = tuple[Any, ...]  # x, weight, bias, scale, offset, sums, residual, fc


def conv1d_block(
    kernel: Callable[..., tuple[Any, Any]],
    operands: Operands,
    *,
    stride: int,
    eps: float,
    out_groups: int,
    time_axis: str | None,
    channel_axis: str | None,
) -> tuple[Any, Any]:
    """(y, sums of y or None) of this device. kernel(*operands, out_groups) is the whole op."""
    x, weight, bias, scale, offset, sums, residual, fc = operands
    if channel_axis is not None and bias is not None:  # once, not once a device
        bias = jnp.where(lax.axis_index(channel_axis) == 0, bias, 0)
    partial = channel_axis is not None
    y, out_sums = kernel(
        x, weight, bias, scale, offset, sums, residual, fc, 0 if partial else out_groups
    )
    if time_axis is not None:
        y, out_sums = _with_neighbours(
            y, out_sums, operands, stride=stride, eps=eps, axis=time_axis
        )
    if partial:
        y = lax.psum(y.astype(reference._compute(y)), channel_axis).astype(y.dtype)
        out_sums = reference.group_sums(y, out_groups) if out_groups else None
    if out_sums is not None and time_axis is not None:
        out_sums = shards.mean(out_sums, time_axis)
    return y, out_sums


def _with_neighbours(
    y: Any, out_sums: Any, operands: Operands, *, stride: int, eps: float, axis: str
) -> tuple[Any, Any]:
    """y, and its sums, with the products of the rows beyond the ends of the piece."""
    x, weight, _, scale, offset, sums, _, _ = operands
    length, taps, rows = x.shape[1], weight.shape[0], y.shape[1]
    before, after = reference.same_padding(length, taps, stride)
    if before + after == 0:
        return y, out_sums
    compute = reference._compute(x)

    # Beyond the clip h is zero, not swish(norm(0)).
    within = jnp.concatenate(shards.inside(before, length, after, axis))[:, None]
    beyond = jnp.concatenate(shards.halo(x, before, after, axis), axis=1).astype(compute)
    if scale is not None:
        beyond = reference.group_norm_swish(beyond, scale, offset, sums, eps, length=length)
    front, back = jnp.split(jnp.where(within, beyond, 0), [before], axis=1)

    def zeros(count: int) -> jax.Array:
        return jnp.zeros((x.shape[0], count, x.shape[2]), compute)

    # As many outputs at each end as have windows that reach beyond it, in one convolution.
    count = -(-after // stride)  # after >= before
    if 2 * count > rows:
        starts, count = [0], rows
        windows = [[front, zeros(length), back]]
    else:
        starts, within_piece = [0, rows - count], (count - 1) * stride + taps
        windows = [[front, zeros(within_piece - before)], [zeros(within_piece - after), back]]
    window = jnp.concatenate([jnp.concatenate(window, axis=1) for window in windows])
    added = _convolve(window, weight.astype(compute), stride)
    old = jnp.concatenate([y[:, start : start + count] for start in starts])
    new = (old.astype(compute) + added).astype(y.dtype)
    for start, rows_of_end in zip(starts, jnp.split(new, len(starts)), strict=True):
        y = lax.dynamic_update_slice_in_dim(y, rows_of_end, start, axis=1)
    if out_sums is not None:
        groups = out_sums.shape[1]
        changed = reference.group_sums(new, groups) - reference.group_sums(old, groups)
        out_sums = out_sums + sum(jnp.split(changed, len(starts)))
    return y, out_sums


def _convolve(x: Any, weight: Any, stride: int) -> jax.Array:
    """(B, T, C), (K, C, D) -> (B, (T - K) / stride + 1, D), of a few rows.

    The entry and exit of a U-Net as one product: a convolution of few channels asks on a TPU for a
    layout in which every value fills a register, and so for copies of the whole activation.
    """
    taps, *channels = weight.shape
    if min(channels) >= LANES:
        return lax.conv_general_dilated(
            x,
            weight,
            window_strides=(stride,),
            padding="VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
            precision=lax.Precision.HIGHEST,
        )
    reach = x.shape[1] - taps + 1
    taken = [x[:, tap : tap + reach : stride] for tap in range(taps)]
    return jnp.matmul(
        jnp.concatenate(taken, axis=2),
        weight.reshape(-1, channels[1]),
        precision=lax.Precision.HIGHEST,
    )
