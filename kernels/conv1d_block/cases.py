"""Named shapes of conv1d_block; read by tests and benchmarks.

Axes: B batch, T time, C channels in, K kernel, D channels out, R channels of the residual (0:
none).
"""

from __future__ import annotations

from typing import Any

from ..common.cases import Case, Cost, itemsize, normal
from . import reference
from .op import conv1d_block

FUNCTION = conv1d_block
DTYPES = ("float32", "bfloat16")
# Arguments with a batch axis, and those to differentiate.
BATCHED = ("x", "sums", "residual")
DIFFERENTIABLE = ("x", "weight", "bias", "scale", "offset", "sums", "residual", "fc")


def _hot(name: str, *, R: int = 0, **shape: int) -> Case:
    """A block of a preset: channels out as in, normalised in 32 groups, sums for the next."""
    return Case(
        name, {**shape, "D": shape["C"], "R": R}, {"groups": 32, "out_groups": 32}, hot=True
    )


# Cases with groups give scale and offset; those with "given_sums" in the name give sums too.
CASES = (
    Case(
        "small",
        {"B": 4, "T": 29, "C": 12, "K": 5, "D": 16, "R": 6},
        {"groups": 3, "out_groups": 4},
    ),
    Case("plain", {"B": 4, "T": 29, "C": 12, "K": 3, "D": 16, "R": 0}),
    Case("length_1", {"B": 4, "T": 1, "C": 16, "K": 7, "D": 24, "R": 8}, {"groups": 2}),
    Case("shorter_than_kernel", {"B": 2, "T": 3, "C": 8, "K": 9, "D": 8, "R": 0}, {"groups": 2}),
    Case("empty_batch", {"B": 0, "T": 8, "C": 8, "K": 3, "D": 8, "R": 4}, {"groups": 2}),
    Case("empty_time", {"B": 2, "T": 0, "C": 8, "K": 3, "D": 8, "R": 4}, {"groups": 2}),
    Case(
        "primes",
        {"B": 4, "T": 101, "C": 31, "K": 7, "D": 23, "R": 13},
        {"groups": 31, "out_groups": 23},
    ),
    Case(
        "given_sums",
        {"B": 2, "T": 40, "C": 16, "K": 5, "D": 32, "R": 16},
        {"groups": 4, "out_groups": 8},
    ),
    Case(
        "stride_4",
        {"B": 2, "T": 103, "C": 16, "K": 7, "D": 24, "R": 5},
        {"groups": 4, "stride": 4, "out_groups": 3},
    ),
    Case("stride_beyond_kernel", {"B": 2, "T": 50, "C": 8, "K": 2, "D": 8, "R": 0}, {"stride": 5}),
    Case("one_channel", {"B": 2, "T": 61, "C": 1, "K": 3, "D": 33, "R": 1}),
    # These two are large enough for Toom-Cook, whose error has a budget of its own
    # (tests/kernels/test_conv1d_toom_cook.py).
    Case(
        "one_past_a_tile",
        {"B": 1, "T": 385, "C": 32, "K": 9, "D": 65, "R": 0},
        {"groups": 8, "algorithm": "direct"},
    ),
    # A reduction of several chunks and a result of several blocks.
    Case(
        "wide",
        {"B": 1, "T": 26, "C": 272, "K": 3, "D": 144, "R": 0},
        {"groups": 16, "algorithm": "direct"},
    ),
    # Blocks of the presets at 29.44 s, one down-sampling, and the batches of guidance and training.
    # Waveform generator (kernel 7), spectrogram generator (9), vocoder (5).
    _hot("wavgen_256", B=1, T=23552, C=256, K=7),
    _hot("wavgen_256_residual", B=1, T=5888, C=256, K=7, R=256),
    _hot("wavgen_512", B=1, T=1472, C=512, K=7),
    _hot("wavgen_768", B=1, T=368, C=768, K=7),
    _hot("wavgen_1024", B=4, T=92, C=1024, K=7),
    _hot("wavgen_1024_few_rows", B=2, T=92, C=1024, K=7),
    _hot("wavgen_1024_fewest_rows", B=2, T=23, C=1024, K=7),
    _hot("specgen_256", B=1, T=744, C=256, K=9),
    _hot("specgen_512", B=2, T=248, C=512, K=9),
    _hot("specgen_768", B=4, T=124, C=768, K=9),
    _hot("specgen_1024", B=8, T=62, C=1024, K=9),
    _hot("vocoder_256", B=1, T=14720, C=256, K=5),
    _hot("vocoder_512", B=1, T=2944, C=512, K=5),
    Case(
        "wavgen_down",
        {"B": 1, "T": 5888, "C": 256, "K": 7, "D": 512, "R": 0},
        {"stride": 4},
        hot=True,
    ),
)

# (what is wrong, the arguments to replace, what the message says)
BAD_ARGUMENTS = (
    ("x of rank 2", {"x": (4, 12)}, r"x must be of shape \(B, T, C\), got \(4, 12\)"),
    ("weight for other channels", {"weight": (5, 11, 16)}, r"weight must be of shape \(K, 12, D\)"),
    ("no taps", {"weight": (0, 12, 16)}, r"weight must be of at least one K, got \(0, 12, 16\)"),
    ("bias too short", {"bias": (15,)}, r"bias must be of shape \(16\), got \(15,\)"),
    ("scale too long", {"scale": (13,)}, r"scale must be of shape \(12\)"),
    ("scale alone", {"offset": None}, r"scale and offset must be both given or both None"),
    ("groups missing", {"groups": None}, r"groups must be a divisor of the 12 channels, got None"),
    ("groups no divisor", {"groups": 5}, r"groups must be a divisor of the 12 channels, got 5"),
    (
        "groups without scale",
        {"scale": None, "offset": None},
        r"groups must be None without scale",
    ),
    ("sums of other groups", {"sums": (4, 2, 2)}, r"sums must be of shape \(4, 3, 2\)"),
    ("residual too long", {"residual": (4, 30, 6)}, r"residual must be of shape \(4, 29, R\)"),
    ("fc missing", {"fc": None}, r"residual and fc must be both given or both None"),
    ("fc of other width", {"fc": (7, 16)}, r"fc must be of shape \(6, 16\)"),
    ("stride zero", {"stride": 0}, r"stride must be a positive integer, got 0"),
    ("eps negative", {"eps": -1.0}, r"eps must be positive and finite, got -1.0"),
    (
        "out_groups no divisor",
        {"out_groups": 5},
        r"out_groups must be a divisor of the 16 channels",
    ),
    ("unknown algorithm", {"algorithm": "fft"}, r"algorithm must be one of auto, direct, toom_coo"),
    ("unknown implementation", {"implementation": "fast"}, r"implementation must be one of auto"),
)


# Keeps y, and with it the sums of y, small: a generic test takes the sine of every output.
_SIZE = 0.2


def make_inputs(case: Case, dtype: str) -> dict[str, Any]:
    """The array arguments of the public function."""
    b, t, c, k, d, r = (case.shape[axis] for axis in "BTCKDR")
    out = -(-t // case.options.get("stride", 1))
    groups = case.options.get("groups")
    x = normal(case, "x", (b, t, c), dtype)
    return {
        "x": x,
        "weight": normal(case, "weight", (k, c, d), dtype, _SIZE * (k * c) ** -0.5),
        "bias": normal(case, "bias", (d,), dtype, _SIZE),
        "scale": 1 + normal(case, "scale", (c,), dtype, 0.25) if groups else None,
        "offset": normal(case, "offset", (c,), dtype) if groups else None,
        "sums": reference.group_sums(x, groups or 1) if "given_sums" in case.name else None,
        "residual": normal(case, "residual", (b, out, r), dtype) if r else None,
        "fc": normal(case, "fc", (r, d), dtype, _SIZE * r**-0.5) if r else None,
    }


def exact(
    x: Any,
    weight: Any,
    bias: Any,
    scale: Any,
    offset: Any,
    sums: Any,
    residual: Any,
    fc: Any,
    groups: int | None = None,
    stride: int = 1,
    out_groups: int | None = None,
    algorithm: str = "auto",
) -> Any:
    """The reference without the public function's checks, so that it also takes float64."""
    if scale is not None and sums is None:
        sums = reference.group_sums(x, groups or 1)
    static: dict[str, Any] = {"stride": stride, "eps": 1e-5, "out_groups": out_groups or 0}
    y, y_sums = reference.forward(x, weight, bias, scale, offset, sums, residual, fc, **static)
    return y if out_groups is None else (y, y_sums)


def cost(case: Case, dtype: str) -> Cost:
    """Every array moved once; a multiply-add a tap, about 20 operations to normalise and swish.

    Sums of x that are not given cost one more pass over x.
    """
    b, t, c, k, d, r = (case.shape[axis] for axis in "BTCKDR")
    out = -(-t // case.options.get("stride", 1))
    normed = bool(case.options.get("groups"))
    passes = 2 if normed and "given_sums" not in case.name else 1
    elements = passes * b * t * c + k * c * d + r * d + b * out * (d + r)
    flops = 2 * b * out * d * (k * c + r) + (20 + 3 * (passes - 1)) * b * t * c * normed
    if case.options.get("out_groups"):
        flops += 3 * b * out * d
    return Cost(elements * itemsize(dtype), flops)
