"""The library as a product: what it exports, and projects outside the tree that link it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from noise2music import __version__
from parity import ROOT, TINY, compiler, installed_prefix
from test_consumer import cmake

pytestmark = pytest.mark.cpp

ABI = Path(__file__).with_name("abi.txt")
EXAMPLES = ROOT / "examples" / "cpp"
HIDDEN = re.compile(r"python|jaxlib|xla", re.I)


def run(*command: object, **options: object) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def shared_library() -> Path:
    return next(installed_prefix().glob("lib*/libnoise2music.so"))


def test_exports_are_those_of_the_list():
    """A symbol that vanishes breaks programs; one that appears is a promise: both are deliberate.

    nm -D --defined-only --format=posix libnoise2music.so | cut -d' ' -f1 | sort > abi.txt
    """
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    lines = run(nm, "-D", "--defined-only", "--format=posix", shared_library()).splitlines()
    exported = {line.split()[0] for line in lines}
    assert sorted(exported) == ABI.read_text().split()


def test_the_c_header_is_c(tmp_path):
    """Strict C99 without a warning, by itself."""
    source = tmp_path / "header.c"
    source.write_text('#include "noise2music/c_api.h"\nint main(void) { return 0; }\n')
    cc = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if cc is None:
        pytest.skip("no C compiler")
    flags = ["-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    run(cc, *flags, f"-I{installed_prefix() / 'include'}", source)


@pytest.mark.parametrize("shared", ["ON", "OFF"])
def test_examples_build_and_run(shared, tmp_path):
    """examples/cpp copied out of the tree: static and shared, without Python or XLA in sight."""
    compiler()
    source, build = tmp_path / "examples", tmp_path / "build"
    shutil.copytree(EXAMPLES, source, ignore=shutil.ignore_patterns("register_xla.cc"))
    where = next(installed_prefix().glob("lib*/cmake/noise2music"))
    options = [f"-Dnoise2music_DIR={where}", f"-DN2M_SHARED={shared}", "-DCMAKE_BUILD_TYPE=Release"]
    run(cmake(), "-S", source, "-B", build, *options, "-DCMAKE_VERBOSE_MAKEFILE=ON")
    commands = run(cmake(), "--build", build)
    includes = [word for word in commands.split() if word.startswith(("-I", "-isystem"))]
    assert not [i for i in includes if HIDDEN.search(i.replace(str(installed_prefix()), ""))]
    assert "largest error" in run(build / "one_op")
    for program in ("pipeline", "c_api"):
        out = run(build / program, TINY, "dance tune", tmp_path / f"{program}.wav", "0.2")
        assert "super_resolution_cascader: 8 steps" in out
        assert "4800 samples at 24000 Hz" in out
    made = [(tmp_path / f"{program}.wav").read_bytes() for program in ("pipeline", "c_api")]
    assert made[0] == made[1]
    assert __version__ in out


def test_pkg_config(tmp_path):
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    prefix = installed_prefix()
    folder = next(prefix.glob("lib*/pkgconfig"))
    out = run(
        "pkg-config", "--cflags", "--libs", "noise2music", env={"PKG_CONFIG_PATH": str(folder)}
    )
    run(
        compiler(), "-std=c++17", EXAMPLES / "pipeline.cc", *out.split(), "-o", tmp_path / "program"
    )
    environment = {"LD_LIBRARY_PATH": str(folder.parent)}
    out = run(tmp_path / "program", TINY, "x", tmp_path / "x.wav", "0.1", env=environment)
    assert "2400 samples" in out


@pytest.mark.slow
def test_install_prefix_and_subdirectory(tmp_path):
    """`cmake --install` to a prefix serves the same projects; so does add_subdirectory."""
    compiler()
    build, prefix = tmp_path / "core", tmp_path / "prefix"
    off = ["-DN2M_XLA=OFF", "-DN2M_PYTHON=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    run(cmake(), "-S", ROOT, "-B", build, *off)
    run(cmake(), "--build", build, "--parallel", "2")
    run(cmake(), "--install", build, "--prefix", prefix)
    program = prefix / "bin" / "n2m"
    assert program.stat().st_size < 10e6
    run(program, "generate", "-m", TINY, "x", "-o", tmp_path / "n2m.wav", "-s", "0.1")
    where = next(prefix.glob("lib*/cmake/noise2music"))
    for shared in ("ON", "OFF"):
        own = tmp_path / f"examples-{shared}"
        options = [f"-Dnoise2music_DIR={where}", f"-DN2M_SHARED={shared}"]
        run(cmake(), "-S", EXAMPLES, "-B", own, *options)
        run(cmake(), "--build", own)
        run(own / "c_api", TINY, "x", tmp_path / "x.wav", "0.1")
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(parent LANGUAGES CXX)\n"
        f"add_subdirectory({ROOT} noise2music)\n"
        f"add_executable(program {EXAMPLES / 'pipeline.cc'})\n"
        "target_link_libraries(program PRIVATE noise2music::pipeline)\n"
    )
    run(cmake(), "-S", parent, "-B", tmp_path / "sub")
    run(cmake(), "--build", tmp_path / "sub", "--parallel", "2", "--target", "program")
    run(tmp_path / "sub" / "program", TINY, "x", tmp_path / "sub.wav", "0.1")


def test_every_xla_handler_is_registered(tmp_path):
    """Component `xla` in a program without Python: the registry gets what handlers.def lists."""
    import jax

    prefix = installed_prefix()
    library = next(prefix.glob("lib*/libnoise2music_xla.a"), None)
    if library is None:
        pytest.skip("built without XLA's headers")
    run(
        compiler(), "-std=c++17", EXAMPLES / "register_xla.cc", f"-I{prefix / 'include'}",
        "-isystem", jax.ffi.include_dir(), library, library.with_name("libnoise2music_core.a"),
        "-pthread", "-o", tmp_path / "register",
    )  # fmt: skip
    listed = re.findall(
        r"^N2M_HANDLER\((\w+), cpu\)", (ROOT / "csrc/xla/handlers.def").read_text(), re.M
    )
    out = run(tmp_path / "register").splitlines()
    assert [line for line in out if "on Host" in line] == [f"{name} on Host" for name in listed]
