r"""softmax(q k^T / sqrt(d)) v, with the keys here or in pieces on several devices; and the products
x W + b on either side of it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from noise2music.kernels import conv1d_block, explain


def dense(x: Array, weight: Array, bias: Array | None, implementation: str) -> Array:
    """x W + b at every time: x (B, T, C), weight (C, D), bias (D,) or None -> (B, T, D) like x.

    On a processor this is conv1d_block with one tap where its plan says that it multiplies on
    matrix tiles or that a few rows read a large weight: it was 1.3 to 4 times as fast as XLA's
    product there (docs/design/dense.md). Everywhere else, and with "reference", it is XLA's.
    """

    def by_xla(x: Array, weight: Array, *bias: Array) -> Array:
        y = x @ weight.astype(x.dtype)
        return y + bias[0].astype(x.dtype) if bias else y

    def by_kernel(x: Array, weight: Array, *bias: Array) -> Array:
        y: Array = conv1d_block(x, weight[None], *bias, implementation=implementation)
        return y

    arrays = (x, weight) if bias is None else (x, weight, bias)
    if implementation not in ("auto", "native") or not _kernel_pays(x, weight):
        return by_xla(*arrays)
    found: Array = jax.lax.platform_dependent(*arrays, cpu=by_kernel, default=by_xla)
    return found


def _kernel_pays(x: Array, weight: Array) -> bool:
    shape = (1, *weight.shape)
    plan = explain("conv1d_block", x.shape, x.dtype, platform="cpu", weight=shape).plan
    return plan.startswith(("forward: amx", "forward: direct, few rows"))


def _logits(q: Array, k: Array) -> Array:
    logits = jnp.einsum("bthd,blhd->bhtl", q, k, preferred_element_type=jnp.float32)
    return logits / math.sqrt(q.shape[-1])


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """q (B, T, H, d), k and v (B, L, H, d), mask (B, L) True at what may be looked at -> like q."""
    logits = _logits(q, k)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, -1e9)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhtl,blhd->bthd", weights, v)


def ring_attention(q: Array, k: Array, v: Array, axis: str) -> Array:
    """The same of q, k and v that are one device's rows of a sequence split over `axis`.

    k and v go once round the ring of devices, a piece at a time (Liu et al. 2023), while each
    device keeps, over the pieces seen so far, m = max of the logits, l = sum of e^{logits - m} and
    o = sum of e^{logits - m} v; the answer is o / l. No device ever holds more than one piece.
    """
    n = jax.lax.axis_size(axis)
    onward = [(i, (i + 1) % n) for i in range(n)]
    highest = total = out = None
    piece = jnp.stack([k, v])
    for hop in range(n):
        logits = _logits(q, piece[0])
        new = logits.max(-1) if highest is None else jnp.maximum(highest, logits.max(-1))
        weights = jnp.exp(logits - new[..., None])
        of_piece = jnp.einsum(
            "bhtl,blhd->bhtd",
            weights.astype(v.dtype),
            piece[1],
            preferred_element_type=jnp.float32,
        )
        if highest is None or total is None or out is None:
            total, out = weights.sum(-1), of_piece
        else:
            shrink = jnp.exp(highest - new)
            total = total * shrink + weights.sum(-1)
            out = out * shrink[..., None] + of_piece
        highest = new
        if hop + 1 < n:
            piece = jax.lax.ppermute(piece, axis, onward)
    assert out is not None and total is not None
    return jnp.swapaxes(out / total[..., None], 1, 2).astype(v.dtype)
