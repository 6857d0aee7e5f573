"""For the CUDA kernels: the scratch of each target, and which kernel runs on which GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ..common import native

# What explain shows of a GPU : (name, compute capability, multiprocessors).
_GPUS = (("H100, H200 (sm_90)", 9, 132), ("A100 (sm_80) and any other", 8, 108))


def _sizes(
    x: Any,
    *,
    dtype: Any,
    kernel: int = 1,
    outs: int = 1,
    stride: int = 1,
    sums: Any = None,
    out_groups: int = 0,
    residual: int = 0,
    weight_dtype: Any = None,
) -> dict[str, int]:
    """The fields of Conv1dBlockShape (noise2music/conv1d_block.h) by name."""
    batch, time, channels = x

    def number(dtype: Any) -> int:
        return int(jnp.dtype(dtype) == jnp.bfloat16)

    return {
        "batch": batch,
        "time": time,
        "channels": channels,
        "kernel": kernel,
        "out_channels": outs,
        "stride": stride,
        "groups": 0 if sums is None else sums.shape[1],
        "out_groups": out_groups,
        "residual_channels": residual,
        "dtype": number(dtype),
        "weight_dtype": number(dtype if weight_dtype is None else weight_dtype),
    }


def sums_scratch(x: Any, *, groups: int) -> int:
    sizes = {**_sizes(x.shape, dtype=x.dtype), "groups": groups}
    return native.cuda_scratch("n2m_conv1d_block_sums", **sizes)


def forward_scratch(
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
    out_groups: int,
    **_: Any,
) -> int:
    sizes = _sizes(
        x.shape,
        dtype=x.dtype,
        kernel=weight.shape[0],
        outs=weight.shape[2],
        stride=stride,
        sums=sums,
        out_groups=out_groups,
        residual=0 if fc is None else fc.shape[0],
        weight_dtype=weight.dtype,
    )
    return native.cuda_scratch("n2m_conv1d_block_fwd", **sizes)


def backward_scratch(
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
    **_: Any,
) -> int:
    sizes = _sizes(
        x.shape,
        dtype=x.dtype,
        kernel=weight.shape[0],
        outs=weight.shape[2],
        stride=stride,
        sums=sums,
        out_groups=0 if d_out_sums is None else d_out_sums.shape[1],
        residual=0 if fc is None else fc.shape[0],
        weight_dtype=weight.dtype,
    )
    return native.cuda_scratch("n2m_conv1d_block_bwd", **sizes)


def backward_weight_scratch(
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
    taps: int,
    **_: Any,
) -> int:
    sizes = _sizes(
        x.shape,
        dtype=x.dtype,
        kernel=taps,
        outs=dy.shape[2],
        stride=stride,
        sums=sums,
        out_groups=0 if d_out_sums is None else d_out_sums.shape[1],
        residual=0 if residual is None else residual.shape[2],
    )
    return native.cuda_scratch("n2m_conv1d_block_bwd_weight", **sizes)


def plan(shape: Sequence[int], dtype: str, weight: Sequence[int], stride: int) -> str:
    """The kernel of each pass for x of this shape and a weight of shape (K, C, D), by GPU."""
    sizes = _sizes(shape, dtype=dtype, kernel=weight[0], outs=weight[2], stride=stride)
    return "\n".join(
        f"{name}:\n  " + native.conv1d_block_cuda_plan(sizes, major, count).replace("\n", "\n  ")
        for name, major, count in _GPUS
    )
