"""Damage raises FAD in the order of its strength, for every encoder offered by default."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_encoder import RATE, FakeEncoder
from noise2music.errors import UserError
from noise2music.evaluate.encoders import load_encoder, musicnn
from noise2music.evaluate.encoders.protocol import OFFLINE_ENCODERS
from noise2music.evaluate.monotone import DAMAGE, damage, hear_damage, table
from noise2music.evaluate.sounds import Item, read_set

CORPUS = os.environ.get("NOISE2MUSIC_TEST_CORPUS", "")


def song(seed, seconds=6.2):
    """A plucked progression with a bass, a tune and a clicking beat; key and tempo by the seed."""
    rng = np.random.default_rng(seed)
    beat = 60 / rng.uniform(80, 150)
    t = np.arange(round(beat * RATE)) / RATE
    out = np.zeros(round(seconds * RATE) + t.size)
    root = 110 * 2 ** (rng.integers(12) / 12)
    chords = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16))
    for k in range(int(seconds / beat)):
        steps = (*chords[k % 4], -12, 12 + rng.choice([0, 2, 4, 7, 9]))
        for step in steps:
            hz = root * 2 ** (step / 12)
            note = sum(np.sin(2 * np.pi * h * hz * t) / h**1.2 for h in (1, 2, 3, 5, 8))
            at = round(k * beat * RATE)
            out[at : at + t.size] += 0.06 * note * np.exp(-t * rng.uniform(2, 6))
        out[at : at + 400] += 0.1 * rng.standard_normal(400) * np.exp(-np.arange(400) / 80)
    return out[: round(seconds * RATE)].astype(np.float32)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for i in range(16):
        soundfile.write(folder / f"{i:02d}.wav", song(i), RATE)
    return [Item(p.stem, p) for p in sorted(folder.glob("*.wav"))]


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS, reason="NOISE2MUSIC_TEST_CORPUS: no `noise2music data corpus`")
@pytest.mark.parametrize("name", OFFLINE_ENCODERS)
def test_every_default_encoder_hears_damage(name):
    """What `noise2music evaluate monotone CORPUS --split test --limit 400 --components 32` does.

    The weakest noise is hardly heard: with a hundred damaged clips it came out below none.
    """
    if name.startswith("musicnn") and musicnn.wheel_folder() is None:
        pytest.skip("pip install --no-deps musicnn==0.1.0")
    items = read_set(Path(CORPUS), "test")[:400]
    found = hear_damage(items, load_encoder(name), components=32)
    assert found.wrong == [], table([found])


def test_the_check_can_fail(songs):
    found = hear_damage(songs, FakeEncoder())
    assert "noise" not in found.wrong
    deaf = FakeEncoder()
    object.__setattr__(deaf, "embed", lambda samples: np.ones((12, 8), np.float32))
    found = hear_damage(songs, deaf)
    assert found.wrong == list(DAMAGE)
    assert {row[-1] for row in table([found])[1:]} == {"no"}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_keeps_the_length(kind):
    sound = song(0)
    for strength in DAMAGE[kind]:
        made = damage(sound, kind, strength, np.random.default_rng(0))
        assert made.shape == sound.shape and np.isfinite(made).all() and (made != sound).any()


def test_too_few_clips(songs):
    with pytest.raises(UserError, match="at least 8 clips are needed, got 4"):
        hear_damage(songs[:4], FakeEncoder())
