"""A set of clips: every fault is counted and named, nothing is heard twice, the bits stay."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
from fake_encoder import FAULTS, RATE, FakeEncoder, tone
from noise2music.errors import UserError
from noise2music.evaluate.cache import EmbeddingCache
from noise2music.evaluate.embedding import embed_set
from noise2music.evaluate.encoders import musicnn
from noise2music.evaluate.encoders.protocol import (
    AudioEncoder,
    JointEncoder,
    cut_windows,
    load_encoder,
    unit_rows,
)
from noise2music.evaluate.sounds import Item, middle, read_set


def test_every_fault_is_named(faulty, fake):
    found = embed_set(read_set(faulty), fake)
    assert [item.id for item in found.items] == ["good", "better"]
    assert {f.id: f.reason for f in found.failures} == FAULTS
    assert found.reasons == Counter(FAULTS.values())
    details = {f.id: f.detail for f in found.failures}
    assert details["twin"] == details["flac"] == "of good"
    assert details["rate"] == "8000 Hz, judged at 16000 Hz"
    assert all(clip.shape == (4, 8) for clip in found.clips)


def test_the_cache_gives_the_same_bits_and_hears_nothing_twice(faulty, fake, tmp_path):
    items = read_set(faulty)
    cache = tmp_path / "cache"
    first = embed_set(items, fake, cache=cache)
    again = embed_set(items, fake, cache=cache)
    bare = embed_set(items, fake)
    assert (first.cached, again.cached) == (0, 3)
    for a, b, c in zip(first.clips, again.clips, bare.clips, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()
    other = dataclasses.replace(fake, weights_hash="1")
    assert embed_set(items, other, cache=cache).cached == 0
    assert embed_set(middle(items, 1.0), fake, cache=cache).cached == 0
    # Three whole clips, one of which is a copy, and four middles: the NaN is near the beginning.
    assert len(EmbeddingCache(cache, fake)) == 7


def test_a_moved_file_is_known_and_a_changed_one_is_not(faulty, fake, tmp_path):
    cache = tmp_path / "cache"
    embed_set([Item("a", faulty / "good.wav")], fake, cache=cache)
    (faulty / "good.wav").rename(faulty / "moved.wav")
    soundfile.write(faulty / "good.wav", tone(301), RATE)
    assert embed_set([Item("a", faulty / "moved.wav")], fake, cache=cache).cached == 1
    assert embed_set([Item("a", faulty / "good.wav")], fake, cache=cache).cached == 0


def test_a_broken_part_is_told(faulty, fake, tmp_path):
    cache = tmp_path / "cache"
    embed_set(read_set(faulty), fake, cache=cache)
    (part,) = cache.rglob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match="remove it, and its clips are heard again"):
        embed_set(read_set(faulty), fake, cache=cache)


def test_a_kill_costs_a_part_at_most(tmp_path):
    """kill -9 in the middle; what was written is used, what was half written is not seen."""
    folder, cache = tmp_path / "many", tmp_path / "cache"
    folder.mkdir()
    for i in range(300):
        soundfile.write(folder / f"{i:03d}.wav", tone(100 + i, seconds=1.0), RATE)
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from fake_encoder import FakeEncoder\n"
        "from noise2music.evaluate.embedding import embed_set\n"
        "from noise2music.evaluate.sounds import read_set\n"
        "embed_set(read_set(Path(sys.argv[2])), FakeEncoder(), cache=Path(sys.argv[3]),\n"
        "          progress=lambda *a: time.sleep(0.01))"
    )
    here = os.path.dirname(__file__)
    child = subprocess.Popen([sys.executable, "-c", code, here, str(folder), str(cache)])
    deadline = time.monotonic() + 60
    while not list(cache.rglob("*.parquet")) and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    found = embed_set(read_set(folder), FakeEncoder(), cache=cache)
    assert len(found.clips) == 300 and 48 <= found.cached < 300


@pytest.mark.skipif(musicnn.wheel_folder() is None, reason="pip install --no-deps musicnn==0.1.0")
def test_processes_hear_what_one_hears(noise_folder):
    folder = noise_folder("clips", 8)
    for path in folder.glob("*.wav"):  # musicnn hears three seconds
        sound, rate = soundfile.read(path)
        soundfile.write(path, np.tile(sound, 2), rate)
    encoder, items = load_encoder("musicnn_mtt"), read_set(folder)
    alone = embed_set(items, encoder)
    shared = embed_set(items, encoder, workers=2, load="musicnn_mtt")
    for a, b in zip(alone.clips, shared.clips, strict=True):  # BLAS adds in another order
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    assert alone.clips[0].shape == (1, 200)


def test_rows_of_fad(faulty, fake):
    items = read_set(faulty)
    assert [r.shape for r in embed_set(items, fake).rows] == [(4, 8), (4, 8)]
    clipwise = embed_set(items, dataclasses.replace(fake, framewise=False))
    assert [r.shape for r in clipwise.rows] == [(1, 8), (1, 8)]
    np.testing.assert_allclose(clipwise.rows[0][0], clipwise.clips[0].mean(axis=0), rtol=1e-6)


def test_excerpts(tmp_path, fake):
    sound = np.concatenate([tone(300, 1.0), tone(900, 1.0), tone(1500, 1.0)])
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    inside = embed_set(middle([Item("a", tmp_path / "a.wav")], 1.0), fake)
    by_start = embed_set([Item("a", tmp_path / "a.wav", start=1.0, seconds=1.0)], fake)
    assert inside.clips[0].tobytes() == by_start.clips[0].tobytes()
    beyond = embed_set([Item("a", tmp_path / "a.wav", start=2.5, seconds=1.0)], fake)
    assert beyond.reasons == {"too_short": 1}


def test_manifests_are_checked(tmp_path):
    for text, message in (
        ("{}", "line 1 must be a JSON object with audio"),
        ('{"audio": "a.wav"}\n\n{"audio": "b/a.wav"}', "the id 'a' is there twice"),
        ("", "holds no sound file"),
    ):
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(UserError, match=message):
            read_set(tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="no folder and no manifest"):
        read_set(tmp_path / "absent")


def test_the_protocol(fake):
    assert isinstance(fake, AudioEncoder) and isinstance(fake, JointEncoder)
    assert load_encoder("fake_encoder:FakeEncoder").name == "fake"
    with pytest.raises(UserError, match="unknown encoder 'musicn'. Did you mean"):
        load_encoder("musicn")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder("fake_encoder:Absent")
    with pytest.raises(UserError, match="must have name, sample_rate"):
        load_encoder("collections:OrderedDict")
    with pytest.raises(ValueError, match="n >= 5"):
        cut_windows(np.zeros(4), 5)
    assert cut_windows(np.arange(11), 5).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(ValueError, match="norm above 0"):
        unit_rows(np.zeros((2, 3)))
