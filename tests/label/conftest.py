"""Fixtures of the tests of labelling."""

import pytest
from fake_joint import write_tones
from noise2music.label.vocabulary import write_vocabulary


@pytest.fixture
def tones(tmp_path):
    return write_tones(tmp_path / "tones", 20)


@pytest.fixture
def vocabularies(tmp_path):
    """Two vocabularies: 60 long captions and 30 short ones."""
    long, short = tmp_path / "lf.txt", tmp_path / "sf.txt"
    write_vocabulary(long, [f"A tone of {90 + 60 * i} Hz." for i in range(60)], {"form": "long"})
    write_vocabulary(short, [f"{120 * i + 50} Hz" for i in range(30)], {"form": "short"})
    return [long, short]
