"""Normal noise drawn on a TPU by its own generator: noise="hardware" of ancestral_step.

Box and Muller (1958): of two words of random bits come u in (0, 1) and an angle,

    z = sqrt(-2 ln u) (cos a, sin a).

|z| is at most sqrt(2 ln 2^24) = 5.77. The angle is drawn in [-pi/2, pi/2] with a sign for the
cosine apart, so that two short polynomials serve (errors below); jnp.cos, which reduces any
argument, would take longer than all else in the step. The root is exp(ln(.) / 2), of which the most
is done beside the vector units; a reciprocal root is refined and checked by nine operations there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES

# sin(pi/2 v) / v and cos(pi/2 v) as polynomials in v^2 for v in [-1, 1], fitted on Chebyshev's
# points: the absolute errors are 1.2e-6 and 6.8e-6.
SINE = (1.57079513, -0.645925721, 0.0795000068, -0.00437058594)
COSINE = (0.999993202, -1.23348283, 0.252575771, -0.0190927573)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    result = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + jnp.float32(c)
    return result


def normal_pair(
    first: jax.Array, second: jax.Array, scale: Any = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Two independent normal numbers, times scale, of two words of random bits (uint32)."""
    mantissa = jax.lax.shift_right_logical(first, jnp.uint32(9)) | jnp.uint32(0x3F800000)
    u = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - jnp.float32(1 - 2.0**-24)
    # -2 ln u is at least 2^-23, if the chip's logarithm is right there.
    square = jnp.maximum(-2 * jnp.log(u), jnp.float32(2.0**-23))
    radius = jnp.exp(0.5 * jnp.log(square)) * scale
    word = jax.lax.bitcast_convert_type(second, jnp.int32)
    v = word.astype(jnp.float32) * jnp.float32(2.0**-31)
    square = v * v
    sine = v * _polynomial(SINE, square)
    cosine = _polynomial(COSINE, square)
    # The lowest bit, which v hardly has, is the sign of the cosine.
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


def normal(bits: Bits, step: Any, registers: int, scale: Any) -> Iterator[jax.Array]:
    """scale z, float32 (8, 128), as many; the two of a pair are neighbours."""
    for _ in range(0, registers, 2):
        yield from normal_pair(bits((8, LANES), step), bits((8, LANES), step), scale)
