"""The Toom-Cook form of conv1d_block: its numbers exactly, its results against float64."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from noise2music import kernels
from noise2music.kernels import conv1d_block
from noise2music.kernels.common.cases import Case, to_float64
from noise2music.kernels.conv1d_block import cases, toom_cook
from rooms import HAS_NATIVE, as_float64, cotangents, error, flat

pytestmark = pytest.mark.usefixtures("quick_compiler")
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library")
FORMS = [(n - taps + 1, taps) for n in toom_cook.PAIRS for taps in range(2, n)]


@pytest.mark.parametrize(("outs", "taps"), FORMS)
def test_matrices_are_exact(outs, taps):
    """sum_j A[j, i] G[j, k] B^T[j, l] is 1 where l = i + k, else 0: that is a convolution."""
    a, g, b = toom_cook.matrices(outs, taps)
    n = outs + taps - 1
    for i in range(outs):
        for k in range(taps):
            products = [a[j][i] * g[j][k] for j in range(n)]
            row = [sum(p * b[j][at] for j, p in enumerate(products)) for at in range(n)]
            assert row == [Fraction(at == i + k) for at in range(n)]


@pytest.mark.parametrize("n", toom_cook.PAIRS)
def test_tables_make_the_matrices(n):
    """What the kernels do with even and odd terms is multiplication by the three matrices."""
    tables = toom_cook.tables(n)
    (product,), quotients, powers = tables["kProduct"], tables["kQuotient"], tables["kPower"]
    (inverse,) = tables["kInverse"]
    a, g, b = toom_cook.matrices(n - 4, 5)
    zeros = [Fraction(0)] * len(product)
    assert b[0] == [c for pair in zip(product, zeros, strict=True) for c in pair]
    assert b[-1] == [c for pair in zip(zeros, product, strict=True) for c in pair]
    assert a[0][0] == inverse[0]
    for j, quotient in enumerate(quotients):
        for sign, row in ((1, 2 * j + 1), (-1, 2 * j + 2)):
            data = [Fraction(0)] * n
            for k, c in enumerate(quotient):
                data[2 * k + 2] += c
                data[2 * k + 1] += sign * powers[j][1] * c
            assert b[row] == data
            assert a[row] == [sign**i * powers[j][i] * inverse[j + 1] for i in range(n - 4)]
            assert g[row] == [sign**k * powers[j][k] for k in range(5)]


def test_header_is_up_to_date():
    header = Path(toom_cook.__file__).with_name("conv1d_block_points.h")
    if not header.exists():  # an installed package has the Python files only
        header = Path(__file__).parents[2] / "kernels" / "conv1d_block" / "conv1d_block_points.h"
    assert header.read_text() == toom_cook.header()


def run(case, dtype, implementation="native"):
    """Outputs and gradients of the block by the case's algorithm, and the same in float64."""
    inputs = cases.make_inputs(case, dtype)
    fixed = {n: v for n, v in inputs.items() if v is None}
    moving = {n: v for n, v in inputs.items() if v is not None}

    def results(function, moving, ct):
        outputs, pull = jax.vjp(lambda m: flat(function(**m, **fixed, **case.options)), moving)
        return outputs, pull(ct)[0]

    def ours(**arguments):
        return conv1d_block(**arguments, implementation=implementation)

    ct = cotangents(case, jax.eval_shape(lambda: flat(ours(**inputs, **case.options))))
    got = jax.jit(lambda m, c: results(ours, m, c))(moving, ct)
    with jax.enable_x64(True):
        exact = jax.jit(lambda m, c: results(cases.exact, m, c))(to_float64(moving), to_float64(ct))
        return got, jax.tree.map(as_float64, exact)


def check(case, dtype, limit):
    (outputs, gradients), (exact_outputs, exact_gradients) = run(case, dtype)
    for i, (a, b) in enumerate(zip(outputs, exact_outputs, strict=True)):
        assert error(a, b) <= limit, (case.name, "output", i, error(a, b))
    for name, g in gradients.items():
        # Sums over many rows of either sign: a rounding of the terms, not of the total.
        assert error(g, exact_gradients[name]) <= limit, (case.name, name)


def block(b, t, c, k, d, r, **options):
    shape = {"B": b, "T": t, "C": c, "K": k, "D": d, "R": r}
    return Case(f"{shape} {options}", shape, options)


# Several tiles, parts, chunks, panels and waves; rows and channels that fill none of them.
SHAPES = [
    block(2, 61, 48, 3, 80, 0, groups=4),
    block(1, 250, 32, 5, 33, 7, groups=8, out_groups=11),
    block(2, 101, 272, 7, 40, 24, groups=16, out_groups=8),
    block(1, 1700, 40, 7, 72, 0),
    block(3, 17, 36, 9, 36, 5, groups=3, out_groups=4),
    block(5, 1, 16, 7, 16, 0, groups=2),
]


@needs_native
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_error_is_within_the_budget(case, dtype):
    forced = Case(case.name, case.shape, {**case.options, "algorithm": "toom_cook"})
    check(forced, dtype, tolerances.TOOM_COOK[dtype])


@needs_native
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 9),
    st.sampled_from([1, 2, 3, 5, 7, 8, 9]), st.integers(1, 70), st.integers(0, 9),
    st.sampled_from([1, 1, 1, 2, 4]),
    st.sampled_from(["auto", "direct", "toom_cook"]), st.sampled_from(cases.DTYPES),
)  # fmt: skip
def test_any_shape_by_any_algorithm(b, t, c, k, d, r, stride, algorithm, dtype):
    case = block(b, t, 4 * c, k, d, r, groups=c, stride=stride, algorithm=algorithm)
    check(case, dtype, tolerances.TOOM_COOK[dtype])


@needs_native
def test_a_clip_is_the_same_bits_in_any_batch():
    """Also where the batch fills several waves, one clip is less than one tile, and the weights are
    read in place for one clip but packed for many."""
    strided = block(12, 60, 192, 5, 64, 0, groups=4, stride=4)
    for case in (SHAPES[4], block(40, 50, 32, 7, 32, 8, groups=4, out_groups=4), strided):
        inputs = cases.make_inputs(case, "float32")
        call = jax.jit(lambda i, case=case: flat(conv1d_block(**i, **case.options)))
        together = call(inputs)
        for item in (0, case.B - 1):
            one = {
                n: v[item : item + 1] if n in cases.BATCHED and v is not None else v
                for n, v in inputs.items()
            }
            for a, b in zip(together, call(one), strict=True):
                np.testing.assert_array_equal(a[item : item + 1], b)


@needs_native
def test_the_plan_is_shown_and_can_be_forced():
    def plan(weight, shape=(1, 1000, 64), dtype="float32", **options):
        return kernels.explain("conv1d_block", shape, dtype, weight=weight, **options).plan

    assert plan((7, 64, 64)).startswith("forward: toom_cook F(6, 7), 12 points, 3.50 times")
    assert "input gradient: toom_cook F(6, 7)" in plan((7, 64, 64))
    assert plan((7, 64, 64), algorithm="direct").startswith("forward: direct")
    assert plan((7, 64, 64), stride=2).startswith("forward: direct")
    assert plan((4, 64, 64), algorithm="toom_cook").startswith("forward: direct")
    assert plan((7, 64, 64), shape=(8, 3, 64)).startswith("forward: direct")
    assert plan((7, 8, 64), algorithm="toom_cook").startswith("forward: toom_cook")
    # Few rows of a large weight: reading it is the limit, and the transform would not keep up.
    deep = {"weight": (7, 1024, 1024), "shape": (1, 23, 1024)}
    reason = "forward: direct, few rows: reading the weights is the limit"
    assert plan(**deep).splitlines()[0] == reason
    assert "input gradient: toom_cook" in plan(**deep)
    assert plan(**deep, algorithm="toom_cook").startswith("forward: toom_cook")
    assert plan(**{**deep, "shape": (2, 23, 1024)}).startswith("forward: toom_cook")
    for taps in (3, 5, 7, 9):  # a larger error budget never means more products
        counts = [
            float(re.search(r"([\d.]+) times", plan((taps, 64, 64), **forced)).group(1))
            for forced in ({"dtype": d, "algorithm": "toom_cook"} for d in cases.DTYPES)
        ]
        assert counts[1] > counts[0] >= 2


@needs_native
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NOISE2MUSIC_ISA", "baseline"),
        ("NOISE2MUSIC_ISA", "avx2"),
        ("NOISE2MUSIC_CONV1D", "direct"),
    ],
)
def test_environment(variable, value):
    """Other instruction sets, and the variable that overrules the planner."""
    program = """
import jax, tolerances, test_conv1d_toom_cook as t
from noise2music import kernels
plan = kernels.explain("conv1d_block", (1, 99, 40), "float32", weight=(7, 40, 40)).plan
print(kernels.build_info()["isa"], plan.splitlines()[0])
for case in t.SHAPES[1:3]:
    t.check(case, "float32", tolerances.TOOM_COOK["float32"])
"""
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent)])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, variable: value, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    if variable == "NOISE2MUSIC_CONV1D":
        assert "forward: direct" in result.stdout
        return
    best = kernels.build_info()["isa"]  # one above the processor's own is ignored
    isa = min(value, best, key=["baseline", "avx2", "avx512", "amx"].index)
    assert result.stdout.startswith(f"{isa} forward: toom_cook")
