"""Named shapes of combine_film; read by tests and benchmarks."""

from __future__ import annotations

from typing import Any

from ..common.cases import Case, Cost, itemsize, normal
from . import reference
from .op import combine_film

FUNCTION = combine_film
DTYPES = ("float32", "bfloat16")
# Arguments with a batch axis, those to differentiate, and those that share the batch.
BATCHED = ("x", "emb")
DIFFERENTIABLE = ("x", "emb", "kernel", "bias")

CASES = (
    Case("small", {"B": 4, "T": 37, "C": 24, "E": 5}),
    Case("sums", {"B": 4, "T": 37, "C": 24, "E": 5}, {"groups": 3}),
    Case("length_1", {"B": 4, "T": 1, "C": 16, "E": 8}, {"groups": 2}),
    Case("one_channel", {"B": 4, "T": 9, "C": 1, "E": 1}, {"groups": 1}),
    Case("empty_batch", {"B": 0, "T": 8, "C": 16, "E": 4}, {"groups": 2}),
    Case("empty_time", {"B": 2, "T": 0, "C": 16, "E": 4}, {"groups": 2}),
    Case("primes", {"B": 4, "T": 101, "C": 31, "E": 7}, {"groups": 31}),
    Case("one_past_a_chunk", {"B": 4, "T": 513, "C": 64, "E": 16}, {"groups": 8}),
    # The blocks of the presets: waveform generator at depth 2, spectrogram generator at depth 2.
    Case("wavgen_1024", {"B": 2, "T": 1472, "C": 1024, "E": 128}, {"groups": 32}, hot=True),
    Case("wavgen_256", {"B": 2, "T": 23552, "C": 256, "E": 128}, {"groups": 32}, hot=True),
    Case("plain_256", {"B": 2, "T": 23552, "C": 256, "E": 128}, hot=True),
)

# (what is wrong, the arguments to replace, what the message says)
BAD_ARGUMENTS = (
    (
        "x of rank 2",
        {"x": (4, 24)},
        r"n2m\.combine_film: x must be of shape \(B, T, C\), got \(4, 24\)",
    ),
    ("emb of another batch", {"emb": (3, 5)}, r"emb must be of shape \(4, E\), got \(3, 5\)"),
    ("kernel too narrow", {"kernel": (5, 24)}, r"kernel must be of shape \(5, 48\)"),
    ("bias too short", {"bias": (24,)}, r"bias must be of shape \(48\)"),
    ("groups no divisor", {"groups": 7}, r"groups must be a divisor of the 24 channels, got 7"),
    ("groups zero", {"groups": 0}, r"groups must be a positive integer, got 0"),
    ("unknown implementation", {"implementation": "fast"}, r"implementation must be one of auto"),
)


def make_inputs(case: Case, dtype: str) -> dict[str, Any]:
    """The array arguments of the public function."""
    b, t, c, e = case.B, case.T, case.C, case.E
    return {
        "x": normal(case, "x", (b, t, c), dtype),
        "emb": normal(case, "emb", (b, e), dtype),
        "kernel": normal(case, "kernel", (e, 2 * c), dtype, e**-0.5),
        "bias": normal(case, "bias", (2 * c,), dtype),
    }


def exact(x: Any, emb: Any, kernel: Any, bias: Any, groups: int | None = None) -> Any:
    """The reference without the public function's checks, so that it also takes float64."""
    y, sums = reference.forward(x, emb, kernel, bias, groups=groups or 0)
    return y if groups is None else (y, sums)


def cost(case: Case, dtype: str) -> Cost:
    """x is read and y written once; 2 flops a value, and 3 more with the group sums."""
    elements = case.B * case.T * case.C
    small = 4 * (2 * case.C * (case.E + 1) + case.B * case.E)
    flops = elements * (5 if case.options.get("groups") else 2) + 4 * case.B * case.E * case.C
    return Cost(2 * elements * itemsize(dtype) + small, flops)
