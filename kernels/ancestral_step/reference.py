"""One step of the sampler in plain jnp: the definition of correct, and the fallback."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

# Places in the `coefficients` vector.
W, INV_ALPHA_T, SIGMA_OVER_ALPHA_T, C_X, C_0, C_NOISE, CLIP_PERCENTILE, CLIP_FLOOR = range(8)


def first_counter(offset: int | jax.Array, channels: int) -> tuple[jax.Array, jax.Array]:
    """The (high, low) words of offset * channels, which is below 2^32 if offset is traced."""
    if isinstance(offset, int):
        first = offset * channels
        return jnp.uint32(first >> 32), jnp.uint32(first & 0xFFFFFFFF)
    return jnp.uint32(0), offset.astype(jnp.uint32) * jnp.uint32(channels)


def normal_at(key: jax.Array, first: tuple[jax.Array, jax.Array], count: int) -> jax.Array:
    """Values first .. first + count - 1 of the flattened ``jax.random.normal(key, (...))``.

    z_i = sqrt(2) erfinv(u_i), u_i in (-1, 1) from the 23 upper bits of hi ^ lo, where (hi, lo) is
    threefry2x32(key, i) and i has 64 bits. float32, bit-equal to jax.random.normal under
    ``jax_threefry_partitionable=True`` (jax's default), whatever that flag says here.
    """
    words = jax.random.key_data(key)
    index = jax.lax.iota(jnp.uint32, count)
    low = index + first[1]
    high = jnp.broadcast_to(first[0], low.shape) + (low < index).astype(jnp.uint32)
    bits_high, bits_low = threefry2x32_p.bind(words[0], words[1], high, low)
    mantissa = jax.lax.shift_right_logical(bits_high ^ bits_low, jnp.uint32(9))
    one = jnp.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(mantissa | one, jnp.float32) - jnp.float32(1)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    u = jnp.maximum(lowest, unit * (np.float32(1) - lowest) + lowest)
    return jnp.float32(np.sqrt(2)) * jax.lax.erf_inv(u)


# jit, so that a call outside of a program does not compile its `cond` anew each time.
@functools.partial(jax.jit, static_argnames=("length", "channels"))
def _draw(
    key: jax.Array,
    first: tuple[jax.Array, jax.Array],
    c_noise: jax.Array,
    length: int,
    channels: int,
) -> jax.Array:
    def noise(keys: jax.Array) -> jax.Array:
        flat = jax.vmap(lambda k: normal_at(k, first, length * channels))(keys)
        return flat.reshape(keys.shape[0], length, channels)

    def nothing(keys: jax.Array) -> jax.Array:
        return jnp.zeros((keys.shape[0], length, channels), jnp.float32)

    return jax.lax.cond(c_noise != 0, noise, nothing, key)


def draw(
    key: jax.Array, length: int, channels: int, c_noise: jax.Array, offset: int | jax.Array = 0
) -> jax.Array:
    """z (B, T, C) float32: per clip the values offset * C .. (offset + T) * C of its normal draw.

    Zeros, without the work of drawing, where c_noise is 0.
    """
    return _draw(key, first_counter(offset, channels), c_noise, length, channels)


def step_with_noise(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    seeds: jax.Array,
    coefficients: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """``step`` with z drawn from seeds (B, 4): the words of a key and of ``first_counter``."""
    _, length, channels = x_t.shape
    key = jax.random.wrap_key_data(seeds[:, :2], impl="threefry2x32")
    first = seeds[0, 2], seeds[0, 3]
    z = _draw(key, first, coefficients[C_NOISE], length, channels)
    return step(x_t, eps_cond, eps_uncond, z, coefficients)


def guided(eps_cond: jax.Array, eps_uncond: jax.Array | None, coefficients: jax.Array) -> jax.Array:
    """eps = w eps_cond + (1 - w) eps_uncond in the dtype of the coefficients."""
    eps = eps_cond.astype(coefficients.dtype)
    if eps_uncond is None:
        return eps
    w = coefficients[W]
    return w * eps + (1 - w) * eps_uncond.astype(coefficients.dtype)


def percentile_of_rows(magnitudes: jax.Array, percent: jax.Array) -> jax.Array:
    """(B, N) -> (B,), linear between the two nearest ranks."""
    return jnp.percentile(magnitudes, percent, axis=1)


def dynamic_clip(
    x_0: jax.Array,
    percent: jax.Array,
    floor: jax.Array,
    percentile: Callable[[jax.Array, jax.Array], jax.Array] = percentile_of_rows,
) -> jax.Array:
    """s = max(percentile(|x_0|), floor) per clip; clip(x_0, -s, s) floor / s. NaN stays NaN."""
    magnitudes = jnp.abs(x_0).reshape(x_0.shape[0], -1)
    s = jnp.maximum(percentile(magnitudes, percent), floor)[:, None, None]
    return jnp.minimum(jnp.maximum(x_0, -s), s) * (floor / s)


@functools.partial(jax.jit, static_argnames="percentile")
def step(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    z: jax.Array,
    coefficients: jax.Array,
    percentile: Callable[[jax.Array, jax.Array], jax.Array] = percentile_of_rows,
) -> tuple[jax.Array, jax.Array]:
    """eps = w eps_cond + (1 - w) eps_uncond
    x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps, then dynamic clipping
    x_s = c_x x_t + c_0 x_0 + c_noise z.

    x_t, eps_* and z (B, T, C); coefficients (8,). Returns (x_s, x_0) in the dtype of x_t.
    percentile(|x_0| (B, N), p) -> (B,).
    """
    c = coefficients
    x_0 = c[INV_ALPHA_T] * x_t - c[SIGMA_OVER_ALPHA_T] * guided(eps_cond, eps_uncond, c)
    if x_0.size:
        # `cond` and not `where`: the sort is the costly part, and not every step clips.
        x_0 = jax.lax.cond(
            c[CLIP_PERCENTILE] > 0,
            lambda value: dynamic_clip(value, c[CLIP_PERCENTILE], c[CLIP_FLOOR], percentile),
            lambda value: value,
            x_0,
        )
    return c[C_X] * x_t + c[C_0] * x_0 + c[C_NOISE] * z, x_0
