"""What nvcc makes of the Hopper kernels of conv1d_block: wgmma, in a pipeline, without spills."""

import os
import re
import shutil
import site
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = """
#include "kernels/conv1d_block/conv1d_block_cuda_weight.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_wgmma.cuh"
namespace n2m::conv1d_block_cuda {
template __global__ void n2m_conv1d_block_wgmma<64, false>(const __grid_constant__ ConvJob, int);
template __global__ void n2m_conv1d_block_wgmma<192, false>(const __grid_constant__ ConvJob, int);
template __global__ void n2m_conv1d_block_wgmma<256, false>(const __grid_constant__ ConvJob, int);
template __global__ void n2m_conv1d_block_wgmma<256, true>(const __grid_constant__ ConvJob, int);
template __global__ void n2m_conv1d_block_weight_wgmma<WeightWgmma<2>>(
    const __grid_constant__ WeightJob);
}
"""

pytestmark = pytest.mark.cpp


def tools() -> dict[str, str]:
    """The environment in which nvcc, cuobjdump and nvdisasm run; from PyPI's wheels where there."""
    wheels = [p for s in site.getsitepackages() for p in Path(s).glob("nvidia/cu*/bin")]
    path = os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin", *map(str, wheels)])
    for tool in ("nvcc", "cuobjdump", "nvdisasm"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"no {tool}")
    return {**os.environ, "PATH": path}


def run(env: dict[str, str], *command: str | Path) -> str:
    # The path of the child is searched for the program too.
    program = shutil.which(command[0], path=env["PATH"])
    result = subprocess.run(
        [program, *map(str, command[1:])], capture_output=True, text=True, cwd=ROOT, env=env
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_hopper_multiplies_by_wgmma(tmp_path):
    env = tools()
    source, cubin = tmp_path / "kernels.cu", tmp_path / "kernels.cubin"
    source.write_text(SOURCE)
    flags = ("-std=c++17", "-O3", "-arch=sm_90a", "-Xptxas=-v", "-Werror=all-warnings")
    include = ("-I.", "-Icsrc", "-Icsrc/include")
    said = run(env, "nvcc", *flags, *include, "-cubin", "-o", cubin, source)
    assert "serialized" not in said, said  # a wgmma that waits for the one before
    assert len(re.findall(r" 0 bytes spill stores, 0 bytes spill loads", said)) == 5, said
    code = run(env, "cuobjdump", "-sass", cubin).split("Function :")[1:]
    assert len(code) == 5
    for function in code:
        # Four steps of 16 of the reduction; of one tile of 64 rows a warpgroup or two.
        tiles = 1 if re.search(r"wgmmaILi(64|192)E", function.splitlines()[0]) else 2
        multiplied = re.findall(r"HGMMA\.64x128x16\.F32\.BF16.*", function)
        assert len(multiplied) == 4 * tiles
        # "!UPT" would throw the accumulator away.
        assert not any("!UPT" in line for line in multiplied)
        assert not re.search(r"\b(STL|LDL)\b", function)
