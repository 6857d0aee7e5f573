"""A C++ project finds the installed package and computes with it; without Python and XLA."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from noise2music.kernels.common import native

CONSUMER = Path(__file__).parent / "consumer"

pytestmark = pytest.mark.cpp


def cmake() -> str:
    """pip's CMake, else the one on the path."""
    if importlib.util.find_spec("cmake"):
        from cmake import CMAKE_BIN_DIR

        return str(Path(CMAKE_BIN_DIR) / "cmake")
    found = shutil.which("cmake")
    if found is None:
        pytest.skip("no CMake")
    return found


def run(*command: str | Path) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def cmake_dir() -> str:
    if native.why_missing():
        pytest.skip("this installation has no native library")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    command = [sys.executable, "-m", "noise2music", "--cmake-dir"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 2:
        pytest.skip("running from the source tree: nothing is installed for CMake to find")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_consumer_builds_and_computes(cmake_dir, tmp_path):
    build = tmp_path / "build"
    run(cmake(), "-S", CONSUMER, "-B", build, f"-Dnoise2music_DIR={cmake_dir}")
    run(cmake(), "--build", build)
    out = run(build / "consumer")
    assert "ok; n2m.combine_film: groups must be a positive divisor of C" in out

    commands = (build / "CMakeCache.txt").read_text() + out
    assert "jaxlib" not in commands


def test_headers_stand_alone(cmake_dir, tmp_path):
    """Each public header compiles by itself."""
    include = Path(cmake_dir).parents[2] / "include"
    headers = sorted((include / "noise2music").glob("*.h"))
    assert len(headers) >= 6
    source = tmp_path / "all.cc"
    compiler = next(c for c in ("c++", "g++", "clang++") if shutil.which(c))
    for header in headers:
        source.write_text(f'#include "noise2music/{header.name}"\n')
        run(compiler, "-std=c++17", "-Wall", "-Wextra", "-fsyntax-only", f"-I{include}", source)
