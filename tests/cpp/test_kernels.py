"""The C++ tests: under sanitizers, cross-compiled for Arm, and of the CUDA kernels, emulated."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_consumer import cmake

ROOT = Path(__file__).parents[2]
SANITIZERS = {"sanitize": "address,undefined", "sanitize-threads": "thread"}

pytestmark = pytest.mark.cpp


def run(*command: str | Path) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, (result.stdout + result.stderr)[-8000:]
    return result.stdout


def ninja() -> str:
    """pip's Ninja, else the one on the path."""
    if importlib.util.find_spec("ninja"):
        from ninja import BIN_DIR

        return str(Path(BIN_DIR) / "ninja")
    found = shutil.which("ninja")
    if found is None:
        pytest.skip("no Ninja")
    return found


def need_sanitizer(flags: str, folder: Path) -> None:
    """Skips where the compiler has no such sanitizer, or the system does not let it run."""
    compiler = os.environ.get("CXX") or next(
        (c for c in ("c++", "g++", "clang++") if shutil.which(c)), None
    )
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, program = folder / "empty.cc", folder / "empty"
    source.write_text("int main() {}\n")
    for command in ([compiler, f"-fsanitize={flags}", source, "-o", program], [program]):
        if subprocess.run([str(c) for c in command], capture_output=True).returncode:
            pytest.skip(f"{compiler} has no working -fsanitize={flags}")


def need_arm() -> None:
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


def build_and_test(preset: str, build: Path, *options: str) -> None:
    run(cmake(), "--preset", preset, "-B", build, f"-DCMAKE_MAKE_PROGRAM={ninja()}", *options)
    run(cmake(), "--build", build)
    ctest = Path(cmake()).with_name("ctest")
    out = run(ctest, "--test-dir", build, "--output-on-failure", "--parallel", "2")
    assert "100% tests passed" in out


def need(preset: str, folder: Path) -> None:
    if preset == "arm":
        need_arm()
    elif preset in SANITIZERS:
        need_sanitizer(SANITIZERS[preset], folder)


@pytest.mark.rebuild
@pytest.mark.parametrize("preset", [*SANITIZERS, "arm"])
def test_launchers(preset, tmp_path):
    need(preset, tmp_path)
    build_and_test(preset, tmp_path / "build", "-DN2M_PIPELINE=OFF", "-DN2M_EMULATION=OFF")


@pytest.mark.rebuild
def test_cuda_kernels_on_the_processor(tmp_path):
    build_and_test("tests", tmp_path / "build", "-DN2M_PIPELINE=OFF", "-DN2M_BASELINE_ONLY=ON")


@pytest.mark.slow
@pytest.mark.parametrize("preset", SANITIZERS)
def test_all_under_sanitizers(preset, tmp_path):
    """Two pipelines in two threads, the fuzzers' corpus, the CUDA kernels on the processor too."""
    need(preset, tmp_path)
    build_and_test(preset, tmp_path / "build")
