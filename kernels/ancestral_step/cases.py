"""Named shapes of ancestral_step; read by tests and benchmarks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..common.cases import Case, Cost, itemsize, normal
from . import reference
from .op import ancestral_step

FUNCTION = ancestral_step
DTYPES = ("float32",)
# Arguments with a batch axis. Sampling differentiates nothing.
BATCHED = ("x_t", "eps_cond", "eps_uncond", "key")
DIFFERENTIABLE = ()

CASES = (
    Case("small", {"B": 4, "T": 37, "C": 3}),
    Case("offset", {"B": 4, "T": 20, "C": 3}, {"offset": 17}),
    Case("length_1", {"B": 4, "T": 1, "C": 1}),
    Case("empty_batch", {"B": 0, "T": 8, "C": 2}),
    Case("empty_time", {"B": 2, "T": 0, "C": 2}),
    Case("primes", {"B": 4, "T": 101, "C": 31}),
    Case("one_past_a_chunk", {"B": 2, "T": 16385, "C": 1}),
    # A 29.44 s clip of the waveform generator (3.2 kHz), a mel spectrogram, and 24 kHz.
    Case("waveform", {"B": 1, "T": 94208, "C": 1}, hot=True),
    Case("spectrogram", {"B": 1, "T": 2976, "C": 80}, hot=True),
    Case("super_resolution", {"B": 1, "T": 706560, "C": 1}, hot=True),
)

# (what is wrong, the arguments to replace, what the message says)
BAD_ARGUMENTS = (
    ("x_t of rank 2", {"x_t": (4, 37)}, r"x_t must be of shape \(B, T, C\), got \(4, 37\)"),
    ("eps_cond too short", {"eps_cond": (4, 36, 3)}, r"eps_cond must be of shape \(4, 37, 3\)"),
    (
        "eps_uncond too short",
        {"eps_uncond": (4, 36, 3)},
        r"eps_uncond must be of shape \(4, 37, 3\)",
    ),
    ("raw key words", {"key": (4, 2)}, r"key must be typed keys as jax\.random\.key makes"),
    ("one key", {"key": jax.random.key(0)}, r"key must be of shape \(4\), one a clip, got \(\)"),
    (
        "key of another generator",
        {"key": jax.random.split(jax.random.key(0, impl="rbg"), 4)},
        r"key must be of the threefry2x32 implementation",
    ),
    ("coefficients too few", {"coefficients": (6,)}, r"coefficients must be of shape \(8\)"),
    ("offset negative", {"offset": -1}, r"offset must be at least 0, got -1"),
    ("offset a fraction", {"offset": 0.5}, r"offset must be an integer, got float"),
    ("unknown implementation", {"implementation": "fast"}, r"implementation must be one of auto"),
)


def make_inputs(case: Case, dtype: str) -> dict[str, Any]:
    """The array arguments of the public function: a guided step half way, clipping at 99.5 %."""
    shape = (case.B, case.T, case.C)
    return {
        "x_t": normal(case, "x_t", shape, dtype),
        "eps_cond": normal(case, "eps_cond", shape, dtype),
        "eps_uncond": normal(case, "eps_uncond", shape, dtype),
        "key": jax.random.split(jax.random.key(case.T), case.B),
        "coefficients": jnp.float32([3.0, 1.41, 1.0, 0.9, 0.1, 0.4, 99.5, 1.0]),
    }


def exact(
    x_t: Any, eps_cond: Any, eps_uncond: Any, key: Any, coefficients: Any, offset: int = 0
) -> Any:
    """The reference without the public function's checks, so that it also takes float64; z is the
    float32 draw, which is exact by definition."""
    c_noise = coefficients[reference.C_NOISE]
    z = reference.draw(key, x_t.shape[1], x_t.shape[2], c_noise, offset)
    return reference.step(x_t, eps_cond, eps_uncond, z.astype(x_t.dtype), coefficients)


def cost(case: Case, dtype: str) -> Cost:
    """x_t, two eps and z are read, x_s and x_0 written once. 3 operations a value for guidance, 3
    for x_0, 3 for clipping, 5 for the update; selection and draw do not count. noise="hardware"
    reads no z."""
    values = case.B * case.T * case.C
    arrays = 5 if case.options.get("noise") == "hardware" else 6
    return Cost(arrays * values * itemsize(dtype), 14 * values)
