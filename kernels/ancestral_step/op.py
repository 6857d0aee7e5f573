"""The public `ancestral_step`: checks, then the implementation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import reference

_NAME = "n2m.ancestral_step"


def _check(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    key: jax.Array,
    coefficients: jax.Array,
    offset: int | jax.Array,
) -> None:
    if x_t.ndim != 3:
        raise ValueError(f"{_NAME}: x_t must be of shape (B, T, C), got {x_t.shape}")
    if x_t.dtype != jnp.float32:
        raise TypeError(f"{_NAME}: x_t must be float32, got {x_t.dtype}")
    for name, eps in (("eps_cond", eps_cond), ("eps_uncond", eps_uncond)):
        if eps is None:
            continue
        if eps.shape != x_t.shape:
            raise ValueError(
                f"{_NAME}: {name} must have the shape of x_t {x_t.shape}, got {eps.shape}"
            )
        if eps.dtype not in (jnp.float32, jnp.bfloat16):
            raise TypeError(f"{_NAME}: {name} must be float32 or bfloat16, got {eps.dtype}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{_NAME}: key must be a typed key array as jax.random.key makes, got {key.dtype};"
            " jax.random.wrap_key_data converts raw words"
        )
    if str(jax.random.key_impl(key)) != "threefry2x32":
        raise ValueError(
            f"{_NAME}: key must be of implementation threefry2x32, got {jax.random.key_impl(key)}"
        )
    if key.shape != x_t.shape[:1]:
        raise ValueError(
            f"{_NAME}: key must be one key per clip, shape {x_t.shape[:1]}, got {key.shape}"
        )
    if coefficients.shape != (8,) or coefficients.dtype != jnp.float32:
        raise ValueError(
            f"{_NAME}: coefficients must be float32 of shape (8,), got {coefficients.dtype} of shape"
            f" {coefficients.shape}"
        )
    if isinstance(offset, int):
        if offset < 0:
            raise ValueError(f"{_NAME}: offset must be at least 0, got {offset}")
    elif offset.shape != () or not jnp.issubdtype(offset.dtype, jnp.integer):
        raise TypeError(
            f"{_NAME}: offset must be an int or an integer scalar, got {offset.dtype} of shape"
            f" {offset.shape}"
        )


def ancestral_step(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    key: jax.Array,
    coefficients: jax.Array,
    *,
    offset: int | jax.Array = 0,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """eps = w eps_cond + (1 - w) eps_uncond
    x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps
    s   = max(percentile(|x_0|, p), floor);  x_0 <- clip(x_0, -s, s) floor / s     (p > 0 only)
    x_s = c_x x_t + c_0 x_0 + c_noise z                                            (Equation 4)

    Args:
        x_t: (B, T, C) float32, the state at time t.
        eps_cond: (B, T, C) float32 or bfloat16, the network's noise estimate under the text.
        eps_uncond: the same without the text, or None for no guidance (eps = eps_cond).
        key: (B,) typed threefry keys, one a clip. z of clip b is
            ``jax.random.normal(key[b], (T, C))``, bit-equal in every implementation, and not drawn
            at all when c_noise is 0.
        coefficients: (8,) float32, may be traced: [w, 1 / alpha_t, sigma_t / alpha_t, c_x, c_0,
            c_noise, p, floor]; p in percent, p <= 0 for no clipping; floor > 0, the largest
            magnitude of the data (1 for waveforms).
        offset: global time index of the piece's first sample: its noise starts offset * C elements
            into the clip's draw. The percentile is that of the piece.
        implementation: "auto", "reference", "native" or "pallas".

    Returns:
        (x_s, x_0), each (B, T, C) float32. A NaN in a clip comes out as NaN, never clipped away.
    """
    x_t, eps_cond, coefficients = map(jnp.asarray, (x_t, eps_cond, coefficients))
    eps_uncond = None if eps_uncond is None else jnp.asarray(eps_uncond)
    _check(x_t, eps_cond, eps_uncond, key, coefficients, offset)
    if implementation not in ("auto", "reference"):
        raise ValueError(
            f'{_NAME}: implementation must be "auto" or "reference", got {implementation!r}'
        )
    with jax.named_scope("n2m_ancestral_step"):
        return reference.ancestral_step(x_t, eps_cond, eps_uncond, key, coefficients, offset=offset)
