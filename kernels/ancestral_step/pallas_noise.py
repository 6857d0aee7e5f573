"""Normal noise drawn on a TPU by its own generator: noise="hardware" of ancestral_step.

Box and Muller (1958): of two words of random bits come u in (0, 1) and an angle,

    z = sqrt(-2 ln u) (cos a, sin a).

|z| is at most sqrt(2 ln 2^24) = 5.77. The angle is drawn in [-pi/2, pi/2) with a sign for the
cosine apart, so that two short polynomials serve (errors below); jnp.cos, which reduces any
argument, would take longer than all else in the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

# sin(pi/2 v) / v and cos(pi/2 v) as polynomials in v^2 for v in [-1, 1], fitted on Chebyshev's
# points: the absolute errors are 7e-9 and 5e-8, below those of float32.
SINE = (1.57079632, -0.64596376, 0.0796899226, -0.00467415067, 0.000151675118)
COSINE = (0.999999953, -1.23369821, 0.25365071, -0.0208105714, 0.000858162543)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    result = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + jnp.float32(c)
    return result


def normal_pair(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent normal numbers of two words of random bits, uint32 -> float32."""
    mantissa = jax.lax.shift_right_logical(first, jnp.uint32(9)) | jnp.uint32(0x3F800000)
    u = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - jnp.float32(1 - 2.0**-24)
    s = -2 * jnp.log(u)
    radius = s * jax.lax.rsqrt(s)
    mantissa = jax.lax.shift_right_logical(second, jnp.uint32(9)) | jnp.uint32(0x40000000)
    v = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - jnp.float32(3)
    square = v * v
    sine = v * _polynomial(SINE, square)
    cosine = _polynomial(COSINE, square)
    # The lowest bit, which v does not have, is the sign of the cosine.
    sign = jax.lax.shift_left(second, jnp.uint32(31))
    cosine = jax.lax.bitcast_convert_type(cosine, jnp.uint32) ^ sign
    return radius * jax.lax.bitcast_convert_type(cosine, jnp.float32), radius * sine


Bits = Callable[[tuple[int, int], Any], jax.Array]  # of (shape, step of the tile), uint32


def hardware_bits(*seeds: Any) -> Bits:
    """The generator of the chip, started anew with these words."""
    pltpu.prng_seed(*seeds)
    return lambda shape, _: jax.lax.bitcast_convert_type(pltpu.prng_random_bits(shape), jnp.uint32)


def hashed_bits(*seeds: Any) -> Bits:
    """What stands in for it in the interpreter: a hash of seeds and position."""
    words = 0

    def draw(shape: tuple[int, int], step: Any) -> jax.Array:
        nonlocal words
        words += 1
        rows, columns = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
        word = (rows * jnp.uint32(shape[1]) + columns) * jnp.uint32(0x9E3779B9)
        for seed in (*seeds, step, words):
            word = _mixed(word ^ jnp.asarray(seed).astype(jnp.uint32))
        return word

    return draw


def _mixed(word: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ jax.lax.shift_right_logical(word, jnp.uint32(shift))) * jnp.uint32(factor)
    return word ^ jax.lax.shift_right_logical(word, jnp.uint32(16))


def normal(bits: Bits, step: Any, rows: int, lanes: int) -> jax.Array:
    """(rows, lanes) float32; the second of each pair is half of the rows further down."""
    half = (-(-rows // 2) + 7) // 8 * 8
    pair = normal_pair(bits((half, lanes), step), bits((half, lanes), step))
    return jnp.concatenate(pair)[:rows]
