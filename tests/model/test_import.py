"""Importing the package is cheap, and what it exports is there."""

import subprocess
import sys

import noise2music
import pytest

# Everything heavy, and every extra, waits until it is used.
HEAVY = set(
    "IPython cmake flax hypothesis jax librosa matplotlib music21 numpy optax orbax pretty_midi "
    "pyarrow pytest scipy soundfile soxr tokenizers tqdm tyro".split()
)


def _modules_after(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert not HEAVY & (_modules_after("import noise2music") - _modules_after("pass"))


def test_the_version_needs_nothing_heavy():
    statement = "import noise2music; noise2music.__version__"
    assert not HEAVY & (_modules_after(statement) - _modules_after("pass"))


@pytest.mark.parametrize("name", noise2music.__all__)
def test_exports(name):
    assert getattr(noise2music, name) is not None
    assert name in dir(noise2music)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'generate_hit'"):
        noise2music.generate_hit  # noqa: B018
