"""A C++ project finds the installed package and computes with it; without Python and XLA."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from noise2music.kernels.common import native

CONSUMER = Path(__file__).parent / "consumer"
ROOT = Path(__file__).parents[2]
COMPONENTS = ["core", "shared"]

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


def build_consumer(component: str, cmake_dir: str | Path, build: Path) -> None:
    """Builds and runs the consumer against an installation, static or shared."""
    options = [f"-Dnoise2music_DIR={cmake_dir}", f"-DN2M_COMPONENT={component}"]
    run(cmake(), "-S", CONSUMER, "-B", build, *options)
    run(cmake(), "--build", build)
    out = run(build / "consumer")
    assert "ok; n2m.combine_film: groups must be a positive divisor of C" in out
    assert "jaxlib" not in (build / "CMakeCache.txt").read_text() + out


@pytest.mark.parametrize("component", COMPONENTS)
def test_consumer_builds_and_computes(component, cmake_dir, tmp_path):
    build_consumer(component, cmake_dir, tmp_path / "build")


@pytest.mark.rebuild
def test_consumer_of_an_installed_prefix(cmake_dir, tmp_path):
    """What `cmake --install` writes without Python and XLA serves it too.

    It compiles the whole library once more: .ci/run does so after the default tests, which build
    the consumer with the library that pip installed.

    Without optimisation and for one instruction set, for time's sake; the whole of it is in
    test_install_prefix_and_subdirectory.
    """
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    parts = [f"-DN2M_{part}=OFF" for part in ("XLA", "PYTHON", "PROGRAM")]
    quick = ["-DN2M_BASELINE_ONLY=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0"]
    run(cmake(), "-S", ROOT, "-B", build, *parts, *quick)
    run(cmake(), "--build", build, "--parallel", "2")
    run(cmake(), "--install", build, "--prefix", prefix)
    where = next(prefix.glob("lib*/cmake/noise2music"))
    for component in COMPONENTS:
        build_consumer(component, where, tmp_path / component)


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
