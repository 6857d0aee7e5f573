"""The definition of correct, in plain jnp with float32 accumulation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.lax import Precision


def film(emb: Any, kernel: Any, bias: Any) -> Any:
    """[scale, shift] = emb @ kernel + bias, (B, 2C) in float32 (float64 if an operand is)."""
    dtype = jnp.promote_types(jnp.float32, emb.dtype)
    return jnp.matmul(
        emb.astype(dtype), kernel.astype(dtype), precision=Precision.HIGHEST
    ) + bias.astype(dtype)


def group_sums(y: Any, groups: int) -> Any:
    """(B, G, 2): sum and sum of squares of y (B, T, C) over time and the channels of a group."""
    b, t, c = y.shape
    y = y.astype(jnp.promote_types(jnp.float32, y.dtype)).reshape(b, t, groups, c // groups)
    return jnp.stack([y.sum((1, 3)), (y * y).sum((1, 3))], axis=-1)


def forward(x: Any, emb: Any, kernel: Any, bias: Any, *, groups: int) -> tuple[Any, Any]:
    """y (B, T, C) in the dtype of x, and the sums of y as stored, or None if groups is 0."""
    scale, shift = jnp.split(film(emb, kernel, bias)[:, None, :], 2, axis=-1)
    y = (x.astype(scale.dtype) * (1 + scale) + shift).astype(x.dtype)
    return y, group_sums(y, groups) if groups else None


def backward(
    x: Any, emb: Any, kernel: Any, bias: Any, dy: Any, dsums: Any, *, groups: int
) -> tuple[Any, Any]:
    """dx (B, T, C) and dfilm (B, 2C): g = dy + dsum + 2 y dsquares, dx = g (1 + scale)."""
    scale, shift = jnp.split(film(emb, kernel, bias)[:, None, :], 2, axis=-1)
    g = dy.astype(scale.dtype)
    x32 = x.astype(scale.dtype)
    if groups:
        wide = jnp.repeat(dsums, x.shape[2] // groups, axis=1)[:, None]
        g = g + wide[..., 0] + 2 * (x32 * (1 + scale) + shift) * wide[..., 1]
    dfilm = jnp.concatenate([(g * x32).sum(1), g.sum(1)], axis=-1)
    return (g * (1 + scale)).astype(x.dtype), dfilm


def backward_params(emb: Any, kernel: Any, dfilm: Any) -> tuple[Any, Any, Any]:
    """demb (B, E), dkernel (E, 2C) and dbias (2C,) of dfilm (B, 2C)."""
    demb = jnp.matmul(dfilm, kernel.T, precision=Precision.HIGHEST)
    dkernel = jnp.matmul(emb.T, dfilm, precision=Precision.HIGHEST)
    return demb, dkernel, dfilm.sum(0)
