"""Copies of training clips are found at any level, with noise, cut out or inside other music."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from noise2music.cli import generate, main
from noise2music.clip import Clip
from noise2music.errors import UserError
from noise2music.evaluate.sounds import RATE, Item, read_set
from noise2music.label import duplicates
from noise2music.label.fingerprint import SAME, fingerprint, overlay

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_duplicates.py"
_spec = importlib.util.spec_from_file_location("check_duplicates", _SCRIPT)
planting = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planting)

SECONDS = 8.0


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for i in range(12):
        soundfile.write(folder / f"{i:02d}.wav", planting.song(i, SECONDS), RATE)
    return folder


@pytest.fixture(scope="module")
def index(songs, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.npz"
    assert main(["label", "index", str(songs), "--out", str(path), "--encoder", "none"]) == 0
    return path


@pytest.mark.parametrize("kind", planting.KINDS)
def test_a_planted_copy_is_found(index, kind):
    rng = np.random.default_rng(0)
    loaded = duplicates.Index.load(index)
    for i in range(4):
        x = planting.planted(planting.song(i, SECONDS), kind, rng, planting.song(900 + i, SECONDS))
        match = loaded.search("x", x, None)
        assert match.verdict == "copy" and match.copy_of == f"{i:02d}" and match.r > SAME
        assert match.end - match.begin > 2.4 if kind == "inside" else match.end > 2


def test_other_music_is_new(index):
    loaded = duplicates.Index.load(index)
    for i in range(8):
        match = loaded.search("x", planting.song(500 + i, SECONDS), None)
        assert match.verdict == "new" and match.r < 0.7


def test_where_the_copy_lies_is_said(index):
    x = planting.song(3, SECONDS)
    inside = np.concatenate([planting.song(700, 2.0), x[4 * RATE : 7 * RATE + 1600]])
    match = duplicates.Index.load(index).search("x", inside.astype(np.float32), None)
    assert match.copy_of == "03"
    assert match.begin == pytest.approx(2, abs=0.4) and match.end == pytest.approx(5, abs=0.4)
    assert match.at - match.begin == pytest.approx(2, abs=0.1)


def test_gain_changes_nothing_and_silence_matches_nothing():
    x = planting.song(0, 4.0)
    a, b = fingerprint(x, RATE), fingerprint(x * np.float32(0.125), RATE)
    assert len(np.intersect1d(a.hashes, b.hashes)) > 0.95 * len(np.unique(a.hashes))
    assert overlay(a.picture, b.picture, 0)[0] > 0.995  # whole decibels
    silence = fingerprint(np.zeros(4 * RATE, np.float32), RATE)
    assert silence.hashes.size == 0 and overlay(silence.picture, silence.picture, 0)[0] == 0
    tone = np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE).astype(np.float32)
    steady = fingerprint(tone, RATE).picture
    assert overlay(steady, steady, 0)[0] == 0  # nothing happens in it
    assert fingerprint(x[:100], RATE).hashes.size == 0


def test_embeddings_tell_what_is_near(songs):
    loaded = duplicates.build_index(read_set(songs), "fake_joint:FakeJoint")
    encoder = duplicates.load_index_encoder(loaded)
    x = planting.song(5, SECONDS)
    backwards = np.ascontiguousarray(x[::-1])  # the same spectrum, and no copy
    match = loaded.search("x", backwards, encoder)
    assert match.verdict == "near" and match.nearest == "05" and match.similarity > loaded.near
    # The level is what hardly any training clip exceeds.
    assert 0.5 < loaded.near < 1


def test_the_command(songs, index, tmp_path, capsys):
    made = tmp_path / "made"
    made.mkdir()
    soundfile.write(made / "fresh.wav", planting.song(800, SECONDS), RATE)
    assert main(["label", "duplicates", str(made), str(index)]) == 0
    soundfile.write(made / "stolen.flac", 0.2 * planting.song(7, SECONDS), RATE)
    (made / "broken.wav").write_text("x")
    out = tmp_path / "found.json"
    assert main(["label", "duplicates", str(made), str(index), "--json", str(out)]) == 1
    said = capsys.readouterr().out
    assert "stolen: 0.0 to 7.9 s is a copy of 07 from 0.0 s on" in said
    assert "1 copies, 0 near, 1 new, 1 could not be heard" in said and "broken: corrupt" in said
    value = json.loads(out.read_text())
    assert {m["id"]: m["verdict"] for m in value["matches"]} == {"fresh": "new", "stolen": "copy"}
    args = ["label", "duplicates", str(made), str(songs), "--encoder", "fake_joint:FakeJoint"]
    assert main(args) == 1


def test_what_is_no_index_is_refused(index, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="no index of"):
        duplicates.Index.load(tmp_path / "bad.npz")
    loaded = duplicates.Index.load(index)
    loaded.encoder, loaded.weights = "fake_joint:FakeJoint", "other"
    with pytest.raises(UserError, match="made with other weights"):
        duplicates.load_index_encoder(loaded)
    with pytest.raises(UserError, match="no clip can be heard"):
        duplicates.build_index([Item("x", tmp_path / "absent.wav")])


def test_the_gate_keeps_copies_back(index, tmp_path, monkeypatch, capsys):
    """`generate` with a model that remembers its training set."""

    def remembers(prompts, **settings):
        songs = [planting.song(4 if "old" in p else 850, SECONDS) for p in prompts]
        return [Clip(song, RATE) for song in songs]

    monkeypatch.setattr(generate, "_load", lambda *a, **k: remembers)
    args = ["generate", "an old song", "a new song", "--output", str(tmp_path / "o.wav")]
    assert main([*args, "--check-duplicates", str(index)]) == 1
    assert [p.name for p in tmp_path.glob("*.wav")] == ["o-2.wav"]
    assert "o-1.wav: 0.0 to 7.9 s is a copy of 04" in capsys.readouterr().err
    assert main([*args[:1], "a new song", *args[3:], "--check-duplicates", str(index)]) == 0
    assert main([*args, "--check-duplicates", str(tmp_path / "absent.npz")]) == 2
