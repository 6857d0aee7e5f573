"""Whether a build has CUDA: when it is asked for, whatever the machine has; and what it says."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from test_consumer import cmake

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cpp
PLAIN = ("-DN2M_XLA=OFF", "-DN2M_PYTHON=OFF", "-DN2M_PIPELINE=OFF")


def configure(build, *options, path=""):
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    env.pop("CUDACXX", None)
    command = [cmake(), "-S", ROOT, "-B", build, *PLAIN, *options]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env)


@pytest.fixture(autouse=True)
def compiler():
    if not any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")


def test_an_nvcc_that_is_there_is_not_touched(tmp_path):
    tools, touched = tmp_path / "tools", tmp_path / "touched"
    tools.mkdir()
    (tools / "nvcc").write_text(f"#!/bin/sh\ntouch {touched}\nexit 1\n")
    (tools / "nvcc").chmod(0o755)
    done = configure(tmp_path / "build", path=tools)
    assert done.returncode == 0, done.stderr
    assert not touched.exists()
    assert "CMAKE_CUDA" not in (tmp_path / "build" / "CMakeCache.txt").read_text()


def test_without_one_the_build_says_what_to_install(tmp_path):
    if [p for s in site.getsitepackages() for p in Path(s).glob("nvidia/cu*/bin/nvcc")]:
        pytest.skip("nvcc's wheel is installed")
    options = ("-DNOISE2MUSIC_CUDA=ON", "-DN2M_CUDA_WHEELS=ON")
    done = configure(tmp_path / "build", *options, f"-DPython_EXECUTABLE={sys.executable}")
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "NOISE2MUSIC_CUDA=ON needs nvcc" in message
    assert "pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl" in message
