"""One step of the sampler in plain jnp: the definition of correct, and the fallback."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

# Places in the `coefficients` vector.
W, INV_ALPHA_T, SIGMA_OVER_ALPHA_T, C_X, C_0, C_NOISE, CLIP_PERCENTILE, CLIP_FLOOR = range(8)


def _counters(first: int | jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The high and low words of first, first + 1, ... as 64-bit integers, without needing x64."""
    index = jax.lax.iota(jnp.uint32, count)
    if isinstance(first, int):
        first_high, first_low = jnp.uint32(first >> 32), jnp.uint32(first & 0xFFFFFFFF)
    else:
        first_high, first_low = jnp.uint32(0), first.astype(jnp.uint32)
    low = index + first_low
    return first_high + (low < index).astype(jnp.uint32), low


def normal_at(key: jax.Array, first: int | jax.Array, count: int) -> jax.Array:
    """Elements first .. first + count - 1 of the flattened ``jax.random.normal(key, (...))``.

    z_i = sqrt(2) erfinv(u_i), u_i in (-1, 1) from the 23 upper bits of hi ^ lo, where (hi, lo) is
    threefry2x32(key, i). float32, bit-equal to jax.random.normal under
    ``jax_threefry_partitionable=True`` (jax's default) whatever that flag says here.
    """
    words = jax.random.key_data(key)
    high, low = _counters(first, count)
    bits_high, bits_low = threefry2x32_p.bind(words[0], words[1], high, low)
    mantissa = jax.lax.shift_right_logical(bits_high ^ bits_low, jnp.uint32(9))
    one = jnp.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(mantissa | one, jnp.float32) - jnp.float32(1)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    u = jnp.maximum(lowest, unit * (np.float32(1) - lowest) + lowest)
    return jnp.float32(np.sqrt(2)) * jax.lax.erf_inv(u)


def noise(key: jax.Array, length: int, channels: int, offset: int | jax.Array = 0) -> jax.Array:
    """z (B, T, C) float32: per clip the elements offset * C .. (offset + T) * C of its normal draw."""
    draw = jax.vmap(lambda k: normal_at(k, offset * channels, length * channels))(key)
    return draw.reshape(key.shape[0], length, channels)


def guided(eps_cond: jax.Array, eps_uncond: jax.Array | None, coefficients: jax.Array) -> jax.Array:
    """eps = w eps_cond + (1 - w) eps_uncond in the dtype of the coefficients."""
    eps = eps_cond.astype(coefficients.dtype)
    if eps_uncond is None:
        return eps
    w = coefficients[W]
    return w * eps + (1 - w) * eps_uncond.astype(coefficients.dtype)


def dynamic_clip(x_0: jax.Array, percentile: jax.Array, floor: jax.Array) -> jax.Array:
    """s = max(percentile(|x_0|), floor) per clip; clip(x_0, -s, s) floor / s. NaN stays NaN."""
    magnitudes = jnp.abs(x_0).reshape(x_0.shape[0], -1)
    s = jnp.maximum(jnp.percentile(magnitudes, percentile, axis=1), floor)[:, None, None]
    return jnp.minimum(jnp.maximum(x_0, -s), s) * (floor / s)


def draw(
    key: jax.Array, length: int, channels: int, c_noise: jax.Array, offset: int | jax.Array = 0
) -> jax.Array:
    """``noise``, or zeros without the work of drawing where c_noise is 0."""
    return jax.lax.cond(
        c_noise != 0,
        lambda keys: noise(keys, length, channels, offset),
        lambda keys: jnp.zeros((keys.shape[0], length, channels), jnp.float32),
        key,
    )


def step(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    z: jax.Array,
    coefficients: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """eps = w eps_cond + (1 - w) eps_uncond
    x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps, then dynamic clipping
    x_s = c_x x_t + c_0 x_0 + c_noise z.

    x_t, eps_* and z (B, T, C); coefficients (8,). Returns (x_s, x_0) in float32 (float64 if x_t is).
    """
    c = coefficients
    x_0 = c[INV_ALPHA_T] * x_t - c[SIGMA_OVER_ALPHA_T] * guided(eps_cond, eps_uncond, c)
    if x_0.size:
        # `cond` and not `where`: the sort is the costly part, and not every step clips.
        x_0 = jax.lax.cond(
            c[CLIP_PERCENTILE] > 0,
            lambda value: dynamic_clip(value, c[CLIP_PERCENTILE], c[CLIP_FLOOR]),
            lambda value: value,
            x_0,
        )
    return c[C_X] * x_t + c[C_0] * x_0 + c[C_NOISE] * z, x_0
