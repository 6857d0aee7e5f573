"""The public function: checks, the noise, and the op built from its one kernel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from ..common import check, native, pallas, shards
from ..common.dispatch import Kernel, Op
from . import reference, sharded


def _outputs(
    x_t: Any, eps_cond: Any, eps_uncond: Any, z: Any, coefficients: Any
) -> tuple[Any, Any]:
    out = ShapeDtypeStruct(x_t.shape, x_t.dtype)
    return out, out


def _scratch(x_t: Any, *operands: Any) -> int:
    b, t, c = x_t.shape
    return native.cuda_scratch("n2m_ancestral_step_fwd", B=b, T=t, C=c)


# Values of a clip that stay in the 16 MiB of a TPU core beside what is on its way.
_CLIP_VALUES = 1_000_000


def _too_long(shape: tuple[int, ...], dtype: str, **_: Any) -> str:
    """Why a TPU leaves clips to XLA, or ""."""
    length, channels = shape[1:]
    # Channels that are not laid side by side with time fill whole registers.
    if length * (channels if channels < 64 else pallas.round_up(channels, 16)) > _CLIP_VALUES:
        return f"a clip of more than {_CLIP_VALUES} values does not fit into VMEM"
    return ""


FORWARD = Kernel(
    "n2m_ancestral_step_fwd",
    rule="b t c, b t c, b t c, b t c, k -> b t c, b t c",
    outputs=_outputs,
    reference=reference.step,
    cuda_scratch=_scratch,
    pallas=pallas.from_room(__package__, "step"),
    pallas_yields=lambda x_t, *_: _too_long(x_t.shape, "float32"),
)

# XLA draws the noise in every implementation and hands it to the kernel: only so is it bit-equal to
# jax.random.normal (docs/design/noise.md). Sampling needs no gradient; the reference's serves.
OP = Op("ancestral_step", FORWARD, pallas_yields=_too_long)

# noise="hardware": seeds (B, 4), the words of a key and of `first_counter`, in place of z.
WITH_NOISE = Kernel(
    "n2m_ancestral_step_with_noise",
    rule="b t c, b t c, b t c, b w, k -> b t c, b t c",
    outputs=_outputs,
    reference=reference.step_with_noise,
    pallas=pallas.from_room(__package__, "step_with_noise"),
    pallas_yields=lambda x_t, *_: _too_long(x_t.shape, "float32"),
)
OP_WITH_NOISE = Op("ancestral_step", WITH_NOISE, pallas_yields=_too_long)


def _check_key(name: str, key: Any, batch: int) -> jax.Array:
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else dtype
        raise TypeError(
            f"n2m.{name}: key must be typed keys as jax.random.key makes, got {got};"
            " jax.random.wrap_key_data converts raw words"
        )
    if str(jax.random.key_impl(key)) != "threefry2x32":
        raise check.fail(
            name,
            "key",
            "of the threefry2x32 implementation",
            jax.random.key_impl(key),
            'make it with jax.random.key(seed, impl="threefry2x32")',
        )
    if key.shape != (batch,):
        raise check.fail(name, "key", f"of shape ({batch}), one a clip", tuple(key.shape))
    return key  # type: ignore[no-any-return]


def _check_offset(name: str, offset: Any) -> int | jax.Array:
    if hasattr(offset, "__index__") and not isinstance(offset, (bool, jax.Array)):
        if int(offset) < 0:
            raise check.fail(name, "offset", "at least 0", offset)
        return int(offset)
    if getattr(offset, "shape", None) == () and jnp.issubdtype(offset.dtype, jnp.integer):
        return jnp.asarray(offset)
    raise TypeError(f"n2m.{name}: offset must be an integer, got {type(offset).__name__}")


def ancestral_step(
    x_t: jax.Array,
    eps_cond: jax.Array,
    eps_uncond: jax.Array | None,
    key: jax.Array,
    coefficients: jax.Array,
    *,
    offset: int | jax.Array = 0,
    time_axis: str | None = None,
    noise: str = "threefry",
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """eps = w eps_cond + (1 - w) eps_uncond
    x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps
    s   = max(percentile(|x_0|, p), floor);  x_0 <- clip(x_0, -s, s) floor / s     (p > 0 only)
    x_s = c_x x_t + c_0 x_0 + c_noise z                                            (Equation 4)

    Args:
      x_t: (B, T, C) float32, the state at time t.
      eps_cond: (B, T, C) float32 or bfloat16, the network's estimate of the noise under the text.
      eps_uncond: the same without the text, or None for no guidance (eps = eps_cond).
      key: (B,) typed threefry keys, one a clip. z of clip b is
        ``jax.random.normal(key[b], (T, C))``, bit-equal in every implementation, and not drawn at
        all where c_noise is 0.
      coefficients: (8,) float32, may be traced: [w, 1 / alpha_t, sigma_t / alpha_t, c_x, c_0,
        c_noise, p, floor]. p in percent, p <= 0 for no clipping; floor > 0 is the largest
        magnitude of the data (1 for waveforms).
      offset: time index in the clip of this piece's first sample: its noise starts offset * C
        values into the clip's draw. A traced offset needs offset * C < 2^32. The percentile is
        the piece's own.
      time_axis: the axis of the ``shard_map`` around the call that splits time: x_t and eps are one
        device's rows of longer clips. The noise is that of their place and the percentile that of
        the clip; some counts are sent. Plain JAX in every implementation.
      noise: "threefry", or "hardware", with which a TPU draws z in its kernel by the chip's own
        generator, seeded by key and offset: standard normal up to 5.77, quicker, and of no
        contract; other chips, batches and versions draw others. Where no such kernel runs
        (other platforms, time_axis) z is threefry's, and the step plain JAX.
      implementation: "auto", "reference", "native" or "pallas".

    Returns:
      (x_s, x_0), each (B, T, C) float32. NaN comes out as NaN, never clipped away.

    Raises:
      ValueError, TypeError: an argument has a wrong shape, dtype, type or value.
    """
    name = "ancestral_step"
    x_t = check.array(name, "x_t", x_t, ("B", "T", "C"), ("float32",))
    b, t, c = x_t.shape
    eps_cond = check.array(name, "eps_cond", eps_cond, (b, t, c))
    if eps_uncond is not None:
        dtype = jnp.dtype(eps_cond.dtype).name
        eps_uncond = check.array(name, "eps_uncond", eps_uncond, (b, t, c), (dtype,))
    key = _check_key(name, key, b)
    coefficients = check.array(name, "coefficients", coefficients, (8,), ("float32",))
    offset = _check_offset(name, offset)
    if noise not in ("threefry", "hardware"):
        raise check.fail(name, "noise", "threefry or hardware", repr(noise))
    split = shards.size(name, "time_axis", time_axis) > 1
    if time_axis is not None and split:
        if t < 1:
            raise check.fail(name, "T", "at least 1 on each device", t, "split it less")
        check.implementation(name, implementation)
        offset = offset + jax.lax.axis_index(time_axis) * t
    if noise == "hardware" and not split:
        words = jnp.broadcast_to(jnp.stack(reference.first_counter(offset, c)), (b, 2))
        seeds = jnp.concatenate([jax.random.key_data(key), words], axis=1)
        operands = x_t, eps_cond, eps_uncond, seeds, coefficients
        x_s, x_0 = OP_WITH_NOISE(*operands, implementation=implementation)
        return x_s, x_0
    with jax.named_scope("n2m.ancestral_step.noise"):
        z = reference.draw(key, t, c, coefficients[reference.C_NOISE], offset)
    if time_axis is not None and split:
        with jax.named_scope("n2m.ancestral_step"):
            return sharded.step(x_t, eps_cond, eps_uncond, z, coefficients, axis=time_axis)
    x_s, x_0 = OP(x_t, eps_cond, eps_uncond, z, coefficients, implementation=implementation)
    return x_s, x_0
