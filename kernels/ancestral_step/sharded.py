"""One step of the sampler for a piece of a clip whose other pieces are on other devices.

All of Equation 4 is local but the percentile of |x_0| over the clip. Its two ranks are found
without a sort and without moving x_0: the devices count, digit by digit, the values below a few
candidates, and add up the counts. Plain jnp on every platform.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import reference

_DIGIT = 2  # bits of a value settled a round; 2^_DIGIT - 1 candidates are counted at once


def percentile(magnitudes: jax.Array, percent: jax.Array, axis: str) -> jax.Array:
    """``jnp.percentile(whole, percent, axis=1)`` of (B, N) float32 >= 0, `whole` the pieces of all
    devices of the axis side by side. NaN where there is one. (B,); the ranks are exact."""
    total = magnitudes.shape[1] * lax.axis_size(axis)
    place = percent / 100 * jnp.float32(total - 1)
    low, high = jnp.floor(place), jnp.ceil(place)
    fraction = place - low
    rank = jnp.clip(jnp.stack([low, high]), 0, total - 1).astype(jnp.int32)
    # Floats >= 0 are ordered as their bits are.
    bits = lax.bitcast_convert_type(magnitudes, jnp.uint32)
    steps = jnp.arange(1, 2**_DIGIT, dtype=jnp.uint32)

    def below(candidates: jax.Array) -> jax.Array:
        """(B, M) values of the clip below each of the candidates (B, M)."""
        local = (bits[:, None] < candidates[:, :, None]).sum(-1, dtype=jnp.int32)
        return lax.psum(local, axis)

    def digit(i: jax.Array, found: jax.Array) -> jax.Array:
        """The largest value with these first bits that at most `rank` values are below."""
        shift = jnp.uint32(32 - _DIGIT) - jnp.uint32(_DIGIT) * i.astype(jnp.uint32)
        candidates = found[:, None] + (steps << shift)
        count = (below(candidates) <= rank[0]).sum(-1, dtype=jnp.uint32)
        return found + (count << shift)

    rounds = 32 // _DIGIT
    value = lax.fori_loop(0, rounds, digit, jnp.zeros(bits.shape[:1], jnp.uint32))
    # The next rank is the same value again, or the least of the greater ones.
    upto = below(value[:, None] + 1)[:, 0]
    greater = jnp.where(bits > value[:, None], bits, jnp.uint32(0xFFFFFFFF)).min(-1)
    following = jnp.where(rank[1] < upto, value, lax.pmin(greater, axis))
    first, second = (lax.bitcast_convert_type(v, jnp.float32) for v in (value, following))
    missing = lax.pmax(jnp.isnan(magnitudes).any(-1).astype(jnp.int32), axis)
    return jnp.where(missing > 0, jnp.nan, first * (1 - fraction) + second * fraction)


def step(
    x_t: Any, eps_cond: Any, eps_uncond: Any, z: Any, coefficients: Any, *, axis: str
) -> tuple[jax.Array, jax.Array]:
    """``reference.step`` with the percentile of the whole clip."""
    return reference.step(
        x_t, eps_cond, eps_uncond, z, coefficients, percentile=_percentile_over(axis)
    )


@functools.cache  # one function an axis: it is a static argument of a program
def _percentile_over(axis: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return functools.partial(percentile, axis=axis)
