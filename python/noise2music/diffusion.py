r"""Forward diffusion and its loss (section 3.1), in the paper's symbols.

x_t = alpha_t x + sigma_t eps (Equation 2);
loss E[w_t ||eps_theta(x_t, c, t) - eps||^2] (Equation 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from noise2music.schedules import alpha_sigma

_DETAIL = 0.1  # d of "sample": what a tiny network on mel spectrograms in [-1, 1] cannot carry


def _to(x: Array, like: Array) -> Array:
    """(B,) -> (B, 1, ..., 1) with the rank of `like`."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def diffuse(x: Array, eps: Array, t: Array, schedule: str) -> Array:
    """x_t = alpha_t x + sigma_t eps (Equation 2). x, eps (B, T, C); t (B,) in [0, 1]."""
    alpha, sigma = alpha_sigma(schedule, t)
    return _to(alpha, x) * x + _to(sigma, x) * eps


def to_noise(output: Array, x_t: Array, t: Array, schedule: str, prediction: str) -> Array:
    r"""The network's output as eps_theta (docs/design/prediction.md).

    "noise": the output itself (the paper). "velocity": the network gives
    v = alpha_t eps - sigma_t x (Salimans & Ho 2022), so eps_theta = sigma_t x_t + alpha_t v.
    "sample": it gives F, x_0 = c_skip x_t + c_out F with c_skip = alpha_t d^2 / n,
    c_out = sigma_t / sqrt(n), n = alpha_t^2 d^2 + sigma_t^2 (Karras et al. 2022): F is x_0 but for
    detail of deviation d = 0.1, which comes from x_t; eps_theta = (x_t - alpha_t x_0) / sigma_t.
    """
    if prediction == "noise":
        return output
    alpha, sigma = (_to(a, x_t) for a in alpha_sigma(schedule, t))
    if prediction == "velocity":
        return sigma * x_t + alpha * output
    # x_t - alpha x_0 with sigma taken out, so that nothing is lost to cancellation at small t.
    n = jnp.square(alpha * _DETAIL) + jnp.square(sigma)
    return sigma / n * x_t - alpha / jnp.sqrt(n) * output


def loss_weight(weight: str, t: Array, schedule: str) -> Array:
    """w_t of Equation 1.

    simplified: 1; sigma: sigma_t^2; velocity: 1 / alpha_t^2, which makes the loss
    ||v_theta - v||^2; truncated: min(1, 10 sigma_t^2) / alpha_t^2, the same without the last
    decibels of noise.
    """
    alpha, sigma = alpha_sigma(schedule, t)
    if weight == "simplified":
        return jnp.ones_like(t)
    if weight == "sigma":
        return sigma**2
    if weight == "velocity":
        return 1.0 / alpha**2
    if weight == "truncated":
        return jnp.minimum(1.0, 10.0 * sigma**2) / alpha**2
    raise ValueError(
        f"n2m.diffusion: weight must be simplified, sigma, velocity or truncated, got {weight!r}"
    )


def gaussian_blur(x: Array, sigma: Array, dims: int) -> Array:
    """Blur augmentation (section 4.1): x (B, T, C) with a Gaussian.

    Its deviation is sigma (B,), in samples.

    dims = 1: width 10 along T. An even kernel would shift by half a sample, so the ten-sample width
    is laid on eleven centred taps with the outermost at half weight. dims = 2: 5 x 5 over T and C.
    Edges repeat the last value.
    """
    radius = 5 if dims == 1 else 2
    taps = jnp.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = jnp.exp(-0.5 * (taps[None] / sigma[:, None]) ** 2)
    if dims == 1:
        kernel = kernel.at[:, 0].mul(0.5).at[:, -1].mul(0.5)
    kernel = kernel / kernel.sum(1, keepdims=True)
    for axis in range(1, dims + 1):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = jnp.pad(x, pad, mode="edge")
        size = x.shape[axis]
        x = sum(
            (
                kernel[:, k, None, None] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
                for k in range(2 * radius + 1)
            ),
            jnp.zeros_like(x),
        )
    return x
