"""Named shapes of fft_upsample; read by tests and benchmarks."""

from __future__ import annotations

import math
from typing import Any

from ..common.cases import Case, Cost, itemsize, normal
from . import reference
from .op import fft_upsample

FUNCTION = fft_upsample
DTYPES = ("float32", "bfloat16")
# Arguments with a batch axis, and those to differentiate.
BATCHED = ("x",)
DIFFERENTIABLE = ("x",)

CASES = (
    Case("small", {"B": 4, "T": 60, "C": 3}, {"up": 3, "down": 2}),
    Case("odd", {"B": 4, "T": 45, "C": 2}, {"up": 5}),
    Case("length_1", {"B": 4, "T": 1, "C": 2}, {"up": 5}),
    Case("empty_batch", {"B": 0, "T": 8, "C": 2}, {"up": 5}),
    Case("empty_time", {"B": 2, "T": 0, "C": 2}, {"up": 5}),
    # 101 is past the radices with a pass of their own: Bluestein.
    Case("primes", {"B": 4, "T": 101, "C": 3}, {"up": 7}),
    # 64 * 23: eight lanes joined by a transposition, and a generic radix.
    Case("split", {"B": 2, "T": 1472, "C": 1}, {"up": 5}),
    Case("down_to_even", {"B": 4, "T": 72, "C": 2}, {"up": 2, "down": 3}),
    # 29.44 s at 3.2 kHz and 16 kHz: the two steps up of the cascade.
    Case("cascader", {"B": 1, "T": 94208, "C": 1}, {"up": 5}, hot=True),
    Case("super_resolution", {"B": 1, "T": 471040, "C": 1}, {"up": 3, "down": 2}, hot=True),
    Case("cascader_batch", {"B": 4, "T": 94208, "C": 1}, {"up": 5}, hot=True),
)

# (what is wrong, the arguments to replace, what the message says)
BAD_ARGUMENTS = (
    ("x of rank 2", {"x": (4, 60)}, r"x must be of shape \(B, T, C\), got \(4, 60\)"),
    ("up zero", {"up": 0}, r"up must be a positive integer, got 0"),
    ("up a fraction", {"up": 1.5}, r"up must be a positive integer, got 1\.5"),
    ("down negative", {"down": -2}, r"down must be a positive integer, got -2"),
    ("T not divisible", {"down": 7}, r"T must be divisible by down=7, got 60; pad x"),
    ("unknown implementation", {"implementation": "fast"}, r"implementation must be one of auto"),
)


def make_inputs(case: Case, dtype: str) -> dict[str, Any]:
    """The array arguments of the public function."""
    return {"x": normal(case, "x", (case.B, case.T, case.C), dtype)}


def exact(x: Any, up: int, down: int = 1) -> Any:
    """The reference without the public function's checks, so that it also takes float64."""
    return reference.fft_upsample(x, up, down)


def cost(case: Case, dtype: str) -> Cost:
    """x is read and y written once. 5 n log2 n operations a complex transform of n points: one of
    T / 2, and one of T / down per two output phases; 8 a point for the product of a spectrum
    with its phases."""
    divisor = math.gcd(case.options["up"], case.options.get("down", 1))
    up, down = case.options["up"] // divisor, case.options.get("down", 1) // divisor
    columns, n = case.B * case.C, case.T
    bytes_moved = columns * (n + n * up // down) * itemsize(dtype)
    if up == down or columns * n == 0:
        return Cost(bytes_moved, 0)
    pairs = (up - (up > down) + 1) // 2

    def transform(points: float) -> float:
        return 5 * points * math.log2(max(points, 2))

    flops = transform(n / 2) + pairs * (transform(n / down) + 8 * n)
    return Cost(bytes_moved, round(columns * flops))
