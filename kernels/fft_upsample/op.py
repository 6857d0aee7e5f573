"""The public `fft_upsample`: checks, then the implementation."""

from __future__ import annotations

import operator

import jax
import jax.numpy as jnp

from . import reference


def _positive(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"n2m.fft_upsample: {name} must be an int, got {type(value).__name__}; a factor such as"
            " 1.5 is written up=3, down=2"
        ) from None
    if number < 1:
        raise ValueError(f"n2m.fft_upsample: {name} must be at least 1, got {number}")
    return number


def fft_upsample(
    x: jax.Array, up: int, down: int = 1, *, implementation: str = "auto"
) -> jax.Array:
    """y = (T'/T) irfft_T'(P rfft_T(x)), T' = T * up / down: band-limited resampling by up / down.

    P zero-pads (or cuts) the spectrum with the Nyquist bin split in half (or summed), so that the
    result equals ``scipy.signal.resample(x, T', axis=1)``. The signal is taken as periodic.

    Args:
        x: (B, T, C) float32 or bfloat16 (computed in float32).
        up: positive int. 5 takes 3.2 kHz to 16 kHz.
        down: positive int; T * up must be divisible by it. up=3, down=2 takes 16 kHz to 24 kHz.
        implementation: "auto", "reference", "native" or "pallas".

    Returns:
        (B, T', C), dtype of x. Differentiable in x.
    """
    up, down = _positive("up", up), _positive("down", down)
    x = jnp.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"n2m.fft_upsample: x must be of shape (B, T, C), got {x.shape}")
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(f"n2m.fft_upsample: x must be float32 or bfloat16, got {x.dtype}")
    if x.shape[1] * up % down:
        raise ValueError(
            f"n2m.fft_upsample: T * up must be divisible by down, got T={x.shape[1]}, up={up},"
            f" down={down}; pad T to a multiple of {down}"
        )
    if implementation not in ("auto", "reference"):
        raise ValueError(
            f'n2m.fft_upsample: implementation must be "auto" or "reference", got {implementation!r}'
        )
    with jax.named_scope("n2m_fft_upsample"):
        return reference.fft_upsample(x, up, down)
