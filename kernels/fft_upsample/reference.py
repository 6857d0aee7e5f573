"""Band-limited resampling in plain jnp: the definition of correct, and the fallback."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def fft_upsample(x: jax.Array, up: int, down: int = 1) -> jax.Array:
    """y = (T'/T) irfft_T'(P rfft_T(x)), T' = T * up / down.

    P keeps the bins both spectra have and fills the rest with zeros. The bin at half the smaller
    length K = min(T, T') (present when K is even) stands for the pair +K/2 and -K/2 in one spectrum
    and for a single bin in the other: it is halved on the way up and doubled on the way down.
    Equal to ``scipy.signal.resample(x, T', axis=1)``.

    x is (B, T, C); y is (B, T', C) with the dtype of x. Spectra are float32 (float64 for float64).
    """
    batch, length, channels = x.shape
    divisor = math.gcd(up, down)
    up, down = up // divisor, down // divisor
    new_length = length * up // down
    if up == down:
        return x
    if 0 in (batch, length, channels):
        return jnp.zeros((batch, new_length, channels), x.dtype)
    compute = jnp.promote_types(x.dtype, jnp.float32)
    spectrum = jnp.fft.rfft(x.astype(compute), axis=1)
    kept = min(length, new_length)
    spectrum = spectrum[:, : kept // 2 + 1]
    if kept % 2 == 0:
        spectrum = spectrum.at[:, kept // 2].multiply(0.5 if up > down else 2.0)
    missing = new_length // 2 + 1 - spectrum.shape[1]
    spectrum = jnp.pad(spectrum, ((0, 0), (0, missing), (0, 0)))
    y = jnp.fft.irfft(spectrum, n=new_length, axis=1) * (new_length / length)
    return y.astype(x.dtype)


def adjoint(y: jax.Array, up: int, down: int = 1) -> jax.Array:
    """x = A^T y, where A is ``fft_upsample(., up, down)``: irfft_T(P^T rfft_T'(y)).

    P^T cuts where P pads, and takes the bin at K/2 with weight 1 both ways: the two halves of a
    split bin add up, a summed bin is handed to both signs. The gains T'/T of A and T/T' of the
    transposed transforms cancel.

    y is (B, T', C); x is (B, T, C), T = T' * down / up, with the dtype of y.
    """
    batch, new_length, channels = y.shape
    length = new_length * down // up
    if up == down:
        return y
    if 0 in (batch, length, channels):
        return jnp.zeros((batch, length, channels), y.dtype)
    compute = jnp.promote_types(y.dtype, jnp.float32)
    kept = min(length, new_length)
    spectrum = jnp.fft.rfft(y.astype(compute), axis=1)[:, : kept // 2 + 1]
    missing = length // 2 + 1 - spectrum.shape[1]
    spectrum = jnp.pad(spectrum, ((0, 0), (0, missing), (0, 0)))
    return jnp.fft.irfft(spectrum, n=length, axis=1).astype(y.dtype)
