"""conv1d_block on the matrix tiles of AMX, against float64: by their instructions where the
processor has them, emulated on any other with AVX-512."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from noise2music import kernels
from rooms import HAS_NATIVE

INFO = kernels.build_info() if HAS_NATIVE else {"isa": "none"}
pytestmark = pytest.mark.skipif(
    INFO["isa"] not in {"avx512", "amx"}, reason="needs a native library and AVX-512"
)

PROGRAM = """
import jax, numpy as np, tolerances, test_conv1d_toom_cook as t
from noise2music import kernels
from noise2music.kernels.conv1d_block import cases

jax.config.update("jax_disable_most_optimizations", True)  # the kernels are compiled already
assert kernels.build_info()["isa"] == "amx"
strided = t.block(2, 530, 40, 7, 72, 33, stride=3, groups=8, out_groups=4)
for case in (*t.SHAPES[:3], strided):
    for dtype in cases.DTYPES:
        amx = t.Case(case.name, case.shape, {**case.options, "algorithm": "amx"})
        t.check(amx, dtype, tolerances.TOOM_COOK[dtype])

def plan(dtype, shape=(1, 23, 1024), weight=(7, 1024, 1024), **options):
    return kernels.explain("conv1d_block", shape, dtype, weight=weight, **options).plan

assert plan("bfloat16").splitlines() == [
    f"{p}: amx, tiles of bfloat16" for p in ("forward", "input gradient", "weight gradient")
]
assert "toom_cook" in plan("float32") and "amx" not in plan("float32")
assert plan("float32", algorithm="amx").startswith("forward: amx")
# float32 goes there by itself where Toom-Cook does not: a stride, a single tap, a residual.
many = (1, 96, 128)
assert plan("float32", many, (7, 128, 128), stride=3).startswith("forward: amx")
assert plan("float32", (1, 24, 128), (1, 128, 128)).startswith("forward: amx")
assert plan("float32", many, (7, 128, 64), stride=3).startswith("forward: direct")
assert plan("float32", (1, 90, 128), (7, 128, 128), stride=3).startswith("forward: direct")
deep = "forward: direct, few rows: reading the weights is the limit"
assert plan("float32", (1, 92, 1024), stride=4).splitlines()[0] == deep
for case in (
    t.block(2, 101, 136, 7, 144, 200, groups=8, out_groups=4),
    t.block(1, 131, 128, 5, 160, 0, groups=4, stride=3),
    t.block(2, 30, 140, 1, 130, 0),
):
    t.check(case, "float32", tolerances.TOOM_COOK["float32"])
assert plan("bfloat16", algorithm="toom_cook").startswith("forward: toom_cook")
assert "amx" not in plan("bfloat16", (1, 99, 16), (7, 16, 64))
"""


def run(program, **variables):
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", ["instructions", "emulated"])
def test_values_and_plan(how):
    if how == "instructions" and INFO["isa"] != "amx":
        pytest.skip("this processor has no AMX")
    result = run(PROGRAM, **({"NOISE2MUSIC_AMX": "emulate"} if how == "emulated" else {}))
    assert result.returncode == 0, result.stderr


def test_a_lower_instruction_set_has_no_tiles():
    result = run(
        "from noise2music import kernels;"
        'print(kernels.build_info()["isa"], kernels.explain("conv1d_block", (1, 99, 64),'
        ' "bfloat16", weight=(7, 64, 64), algorithm="amx").plan)',
        NOISE2MUSIC_ISA="avx512",
    )
    assert result.stdout.startswith("avx512 forward: toom_cook"), result.stderr
