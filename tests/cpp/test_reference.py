"""The C++ interface is documented: every public symbol, and examples that compile."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_consumer import cmake, cmake_dir, run  # noqa: F401

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(cpp|c)\n(.*?)^```$", re.M | re.S)
DOCUMENTS = [
    path
    for path in sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
    if BLOCK.search(path.read_text("utf-8"))
]

pytestmark = pytest.mark.cpp


def test_every_public_symbol_is_described(tmp_path):
    """Doxygen renders the headers; a symbol without a description, or a dead link, is an error."""
    if shutil.which("doxygen") is None:
        pytest.skip("no doxygen")
    build = tmp_path / "build"
    off = ["-DN2M_XLA=OFF", "-DN2M_PYTHON=OFF", "-DN2M_PIPELINE=OFF"]
    run(cmake(), "-S", ROOT, "-B", build, *off)
    run(cmake(), "--build", build, "--target", "docs")
    pages = "".join(path.read_text() for path in (build / "docs" / "html").glob("*.html"))
    for name in ("CombineFilmFwd", "n2m_generate", "MakeThreadPool", "RegisterXlaHandlers"):
        assert name in pages
    # The examples of examples/cpp are in it.
    assert "a sine of 440 Hz" in pages and "pipeline MODEL_FOLDER" in pages


def test_every_declaration_has_a_comment():
    """The same, roughly, without Doxygen: a comment ends on the line before."""
    declaration = re.compile(
        r"(struct|class|enum|using|typedef|N2M_API)\b|(int64_t|Status|std::string) \w+\("
    )
    bare = []
    for path in sorted((ROOT / "csrc" / "include" / "noise2music").glob("*.h")):
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if declaration.match(line) and line != "struct XLA_FFI_Api;":
                before = lines[number - 1]
                if not (before.startswith("///") or before.endswith("*/")):
                    bare.append(f"{path.name}:{number + 1}: {line}")
    assert bare == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_examples_of_the_documents_compile(document, cmake_dir, tmp_path):  # noqa: F811
    """A whole program as it stands; other lines as the body of a function."""
    for number, (language, code) in enumerate(BLOCK.findall(document.read_text("utf-8"))):
        if " main(" not in code:
            head = [line for line in code.splitlines() if line.startswith("#include")]
            body = [line for line in code.splitlines() if not line.startswith("#include")]
            code = "\n".join([*head, "#include <cstdio>", "void Example() {", *body, "}", ""])
        source = tmp_path / f"{number}.{'c' if language == 'c' else 'cc'}"
        source.write_text(code)
        compiler = next(c for c in ("c++", "g++", "clang++") if shutil.which(c))
        include = Path(cmake_dir).parents[2] / "include"
        standard = ["-x", "c", "-std=c99"] if language == "c" else ["-std=c++17"]
        flags = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        result = subprocess.run(
            [compiler, *standard, *flags, f"-I{include}", str(source)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
