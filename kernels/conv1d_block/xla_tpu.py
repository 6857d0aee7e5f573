"""conv1d_block by XLA on a TPU, where channels fill no registers: the entry and exit of a U-Net.

An array of one channel with time along the sublanes takes 128 times its bytes, and XLA convolves
in float32 by six products. So time is laid along the lanes, taps are side by side, and what is left
is one matrix product in the dtype of x, added in float32:

    few channels in:   y[t] = sum_{k c} taps[k c, t] W[k, c],    taps[k c, t] = x[t + k - first, c]
    few channels out:  y[t] = sum_k z[k, t + k - first],         z[k, t] = sum_c x[t, c] W[k, c]
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from . import reference

_FEW = 256  # rows of the product's matrix, or columns


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
    """As `reference.forward`; with x in bfloat16 products are of bfloat16."""
    compute = reference._compute(x)
    h = x if scale is None else reference.group_norm_swish(x, scale, offset, sums, eps)
    h, w = h.astype(x.dtype), weight.astype(x.dtype)
    kernel, channels, outs = w.shape
    length = x.shape[1]
    before, after = reference.same_padding(length, kernel, stride)
    exact = {"precision": reference.precision(x), "preferred_element_type": compute}
    if stride == 1 and kernel * channels <= _FEW:
        along = jnp.pad(h.swapaxes(1, 2), ((0, 0), (0, 0), (before, after)))
        taps = jnp.concatenate([along[:, :, k : k + length] for k in range(kernel)], axis=1)
        y = jnp.einsum("bit,id->btd", taps, w.reshape(-1, outs), **exact)
    elif stride == 1 and kernel * outs <= _FEW:
        z = jnp.einsum("btc,ci->bit", h, w.swapaxes(0, 1).reshape(channels, -1), **exact)
        z = jnp.pad(z, ((0, 0), (0, 0), (before, after)))
        parts = [z[:, k * outs : (k + 1) * outs, k : k + length] for k in range(kernel)]
        y = sum(parts[1:], parts[0]).swapaxes(1, 2)
    else:
        y = lax.conv_general_dilated(
            h, w, (stride,), [(before, after)], dimension_numbers=("NWC", "WIO", "NWC"), **exact
        )
    if bias is not None:
        y = y + bias.astype(compute)
    if residual is not None:
        y = y + jnp.matmul(residual, fc.astype(x.dtype), **exact)
    y = y.astype(x.dtype)
    return y, reference.group_sums(y, out_groups) if out_groups else None
