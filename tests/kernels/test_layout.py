"""The lists that name the rooms agree, and what is missing is named."""

import re
import shutil
from pathlib import Path

import pytest
from noise2music import kernels
from noise2music.kernels.common import native
from rooms import cases_of

ROOT = Path(__file__).parents[2]
ROOMS = sorted(p.name for p in (ROOT / "kernels").iterdir() if (p / "reference.py").exists())


def handlers(platform: str = "cpu") -> list[str]:
    text = (ROOT / "csrc/xla/handlers.def").read_text()
    return re.findall(rf"^N2M_HANDLER\((\w+), {platform}\)$", text, re.MULTILINE)


def test_there_are_four_rooms():
    assert ROOMS == ["ancestral_step", "combine_film", "conv1d_block", "fft_upsample"]


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_complete(room):
    folder = ROOT / "kernels" / room
    wanted = ["README.md", "reference.py", "op.py", "cases.py", "__init__.py"]
    wanted += [f"{room}_cpu.cc", f"{room}_cuda.cu", f"{room}_ffi.cc"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    assert not missing, f"kernels/{room} lacks {missing}"
    assert (ROOT / f"csrc/include/noise2music/{room}.h").is_file()
    assert (
        f'"noise2music/{room}.h"' in (ROOT / "csrc/include/noise2music/noise2music.h").read_text()
    )


def test_cmake_lists_every_room():
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = re.findall(r"^n2m_add_kernel\((\w+)", text, re.MULTILINE)
    assert sorted(listed) == ROOMS


def test_root_cmake_is_short():
    assert len((ROOT / "CMakeLists.txt").read_text().splitlines()) < 200


def test_handlers_belong_to_rooms():
    names = handlers()
    assert len(set(names)) == len(names)
    owners = {room for room in ROOMS for name in names if name.startswith(f"n2m_{room}_")}
    assert sorted(owners) == ROOMS
    strays = [n for n in names if not any(n.startswith(f"n2m_{room}_") for room in ROOMS)]
    assert not strays, f"handlers.def names {strays}, which no room owns"
    for room in ROOMS:
        source = (ROOT / f"kernels/{room}/{room}_ffi.cc").read_text()
        own = {n for n in names if n.startswith(f"n2m_{room}_")}
        for macro in ("N2M_DEFINE_HANDLER", "N2M_DEFINE_CUDA_HANDLER"):
            assert set(re.findall(rf"{macro}\(\s*(\w+)", source)) == own, macro


def test_every_target_has_both_platforms():
    assert sorted(handlers("CUDA")) == sorted(handlers("cpu"))


def test_python_exports_every_room():
    assert sorted(kernels.OPS) == ROOMS
    for room in ROOMS:
        assert room in kernels.__all__
        assert getattr(kernels, room) is cases_of(room).FUNCTION
        assert kernels.OPS[room].forward.target == f"n2m_{room}_fwd"


def test_readme_table():
    text = (ROOT / "kernels/README.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", text, re.MULTILINE)
    table = {name: [c.strip() for c in cells.split("|")] for name, cells in rows if name in ROOMS}
    assert sorted(table) == ROOMS
    suffixes = ["reference.py", "{room}_cpu.cc", "{room}_cuda.cu", "pallas_tpu.py"]
    for room, cells in table.items():
        for cell, suffix in zip(cells, suffixes, strict=True):
            exists = (ROOT / "kernels" / room / suffix.format(room=room)).exists()
            assert cell in ("yes", "compiled, not run", "-"), f"{room}: {cell}"
            assert (cell != "-") == exists, f"{room}: {suffix} in the table says {cell}"


def test_only_ffi_files_see_xla():
    for path in (ROOT / "kernels").rglob("*"):
        if path.suffix in {".cc", ".h", ".cu"} and "_ffi" not in path.name:
            assert "xla" not in " ".join(re.findall(r"#include .*", path.read_text())), path


def test_no_instruction_set_flags():
    for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").iterdir()]:
        assert not re.search(r"-m(avx|fma|arch|sse|cpu|tune)", path.read_text()), path


def test_native_library_is_there():
    """A failed native build falls back to plain JAX: fine for a user, not for the tests."""
    if native.switched_off() or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("switched off, or no C++ compiler")
    assert native.why_missing() == ""
    info = kernels.build_info()
    platforms = ("cpu", "cuda") if "cuda" in info else ("cpu",)
    registered = [n for n in handlers() if native.platforms_of(n) == platforms]
    assert registered == handlers()
    assert info["isa"] in {"baseline", "avx2", "avx512", "amx", "neon"}
