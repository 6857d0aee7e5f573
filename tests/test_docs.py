"""The documents say what is true of the tree: commands, variables, links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = [
    path
    for folder in ("python", "kernels", "csrc")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".cc", ".h", ".cu", ".cuh")
]
# Read from the environment as os.environ[...], environ.get(...) or getenv(...), and by the build as
# if.env.NAME in pyproject.toml.
READ = re.compile(r"""(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()\s*"([A-Z0-9_]+)\"""")
BUILD = re.compile(r"^if\.env\.([A-Z0-9_]+)", re.M)


def _block(marker):
    """The fenced block right under a marker of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^<!-- {marker} -->\n```bash\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == 1
    return found[0]


def test_the_readme_has_its_two_commands():
    assert _block("run").startswith("pip install . && noise2music generate ")
    assert _block("test") == "pip install '.[test]' && python -m pytest -n 2 --dist loadfile\n"


def test_every_environment_variable_is_documented():
    read = {name for path in SOURCES for name in READ.findall(path.read_text(encoding="utf-8"))}
    read |= set(BUILD.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    table = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)", table, re.M))
    assert read - documented == set()
    ours = {name for name in documented if not name.startswith(("JAX_", "XLA_"))}
    assert ours - read == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    absent = [
        t
        for t in targets
        if not t.startswith(("http://", "https://")) and not (path.parent / t).exists()
    ]
    assert absent == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_in_documents_parses(path):
    for code in re.findall(
        r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S
    ):
        compile(code, str(path), "exec")
