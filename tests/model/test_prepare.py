"""Preparing: right samples, every bad input named, the same files whatever interrupts it."""

import errno
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from noise2music.cli import main
from noise2music.data.prepare import PrepareOptions, prepare
from noise2music.data.prepare.clips import starts
from noise2music.data.prepare.records import INDEX, Prepared, WriteError
from noise2music.data.prepare.sources import split_of
from noise2music.data.prepare.text_batch import elements
from noise2music.mel import log_mel
from noise2music.text.tokenizer import train_tokenizer
from sound_files import small_folder, tone, write
from tolerances import RESAMPLED


def made(sources, out, **changes):
    values = {"seconds": 1.0, "progress": False, "validation": 0.0} | changes
    return prepare(sources if isinstance(sources, list) else [sources], out, **values)


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_clips_do_not_overlap_and_have_equal_gaps():
    assert starts(100, 30, 6) == [1, 35, 68]
    assert starts(60, 30, 6) == [0, 30] and starts(29, 30, 6) == [] and starts(30, 30, 6) == [0]
    many = starts(1000, 30, 6)
    assert len(many) == 6 and min(np.diff(many)) >= 30 and many[-1] + 30 <= 1000


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_is_resampled_to_the_samples_that_the_sine_has(tmp_path, rate, channels):
    write(tmp_path / "in" / "a.wav", tone(3.5, rate, 440, channels=channels), rate, subtype="FLOAT")
    made(tmp_path / "in", tmp_path / "out")
    clips = Prepared(tmp_path / "out")
    assert len(clips) == 3
    for i in range(3):
        begin = starts(round(3.5 * rate), rate, 6)[i] / rate
        assert clips.meta(i)["source_rate"] == rate
        for to in (24_000, 16_000, 3_200):
            t = begin + np.arange(to) / to
            expected = 0.4 * np.sin(2 * np.pi * 440 * t)
            inner = slice(to // 10, -to // 10)  # a file's own end has no samples behind it
            got = clips.column(f"audio{to}", i) / 32768
            np.testing.assert_allclose(got[inner], expected[inner], atol=RESAMPLED)
        sound = clips.column("audio16000", i) / np.float32(32768)
        np.testing.assert_array_equal(clips.column("mel", i), log_mel(sound).astype(np.float16))


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3", "wav"])
def test_formats(tmp_path, kind):
    write(tmp_path / "in" / f"a.{kind}", tone(2.0, 48_000), 48_000, {"caption": "a tone"})
    report = made(tmp_path / "in", tmp_path / "out")
    assert report.clips["train"] >= 1 and not report.dropped
    assert Prepared(tmp_path / "out").meta(0)["captions"] == ["a tone"]


def test_what_cannot_be_used_is_dropped_and_named(tmp_path):
    folder = tmp_path / "in"
    rng = np.random.default_rng(0)
    whole = write(folder / "good.flac", 0.3 * rng.standard_normal(48_000))
    write(folder / "silent.wav", np.zeros(48_000))
    write(folder / "mostly_silent.wav", np.r_[tone(0.1, 24_000), np.zeros(24_000 * 9 // 10)])
    write(folder / "short.wav", tone(0.5, 24_000))
    broken = tone(2.0, 24_000)
    broken[30_000] = np.nan
    write(folder / "half_nan.wav", broken, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.mp3").write_bytes(rng.bytes(5000))
    (folder / "cut.flac").write_bytes(whole.read_bytes()[:50_000])
    (folder / "zero.wav").write_bytes(_wav_without_samples())
    opposite = tone(1.0, 24_000)
    write(folder / "opposite.wav", np.stack([opposite, -opposite], 1))
    write(folder / "bad_sidecar.wav", tone(1.0, 24_000))
    (folder / "bad_sidecar.json").write_text("{")
    write(folder / "number.wav", tone(1.0, 24_000), sidecar={"caption": 5})
    write(folder / "split.wav", tone(1.0, 24_000), sidecar={"split": "training"})
    report = made(folder, tmp_path / "out")
    said = {id.removeprefix("in/"): reason for id, reason in report.dropped}
    expected = {
        "silent.wav#0": "silent: -200 dBFS",
        "silent.wav#1": "silent: -200 dBFS",
        "mostly_silent.wav#0": "silent: 90 % of it",
        "short.wav": "too short: 0.50 s",
        "half_nan.wav#1": "not finite: 1 samples",
        "empty.wav": "empty: 0 bytes",
        "noise.mp3": "unreadable: ",
        "cut.flac": "unreadable: ",
        "zero.wav": "too short: 0.00 s",
        "opposite.wav#0": "silent: ",
        "bad_sidecar.wav": "bad_sidecar.json must be JSON",
        "number.wav": "caption must be text or a list of texts, got 5",
        "split.wav": "split must be one of train, validation, test, got 'training'",
    }
    assert said.keys() == expected.keys()
    for id, reason in expected.items():
        assert said[id].startswith(reason), (id, said[id])
    kept = [Prepared(tmp_path / "out").meta(i)["id"] for i in range(report.clips["train"])]
    assert kept == ["in/good.flac#0", "in/good.flac#1", "in/half_nan.wav#0"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["tracks"] == 13


def _wav_without_samples():
    out = io.BytesIO()
    soundfile.write(out, np.zeros(0), 24_000, format="WAV")
    return out.getvalue()


def test_a_peak_above_full_scale_is_scaled_for_all_rates_alike(tmp_path):
    write(tmp_path / "in" / "loud.wav", tone(1.0, 24_000, level=2.0), subtype="FLOAT")
    made(tmp_path / "in", tmp_path / "out")
    clips = Prepared(tmp_path / "out")
    gain = clips.meta(0)["gain"]
    assert gain == pytest.approx(0.5, abs=0.01)
    for rate in (24_000, 16_000):
        peak = np.abs(clips.column(f"audio{rate}", 0).astype(int)).max()
        assert 32_000 <= peak <= 32_767


def test_a_manifest_says_texts_splits_and_duplicates(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.wav", tone(1.0, 24_000))
    scripts = ["琴と笛の静かな曲", "спокойная мелодия", "موسيقى هادئة", "ελεύθερο 🎵"]
    lines = [
        {"id": "1", "audio": "a.wav", "captions": [*scripts, "  ", ""], "labels": ["calm", ""]},
        {"id": "1", "audio": "b.wav", "captions": ["again"]},
        {"id": "2", "audio": "missing.wav", "caption": "gone"},
        {"id": "3", "audio": "c.wav", "caption": "kept", "split": "test", "genre": "rock"},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "manifest.jsonl").write_text(text, encoding="utf-8")
    report = made(tmp_path / "manifest.jsonl", tmp_path / "out")
    assert dict(report.dropped) == {
        "1": "duplicate id: '1' was there before",
        "2": "missing: there is no such file",
    }
    assert report.clips == {"train": 1, "validation": 0, "test": 1}
    assert report.empty_texts == 3 and report.extra_prompts == 1 and report.untexted == 0
    meta = Prepared(tmp_path / "out").meta(0)
    assert meta["captions"] == scripts[:3] and meta["labels"] == ["calm"]
    assert Prepared(tmp_path / "out", "test").meta(0)["labels"] == ["rock"]
    # A folder with a manifest is that manifest.
    made(tmp_path, tmp_path / "out2")
    assert files(tmp_path / "out2")[INDEX] == files(tmp_path / "out")[INDEX]


@pytest.mark.parametrize(
    "line,match",
    [
        ("{not json", "manifest.jsonl line 3 must be JSON"),
        ('["a.wav"]', "manifest.jsonl line 3 must be a JSON object, got a list"),
        ('{"id": "x"}', "manifest.jsonl line 3 must name a sound file under 'audio', got None"),
        ('{"audio": "a.wav", "caption": [1]}', "line 3: caption must be text or a list"),
        ('{"audio": "a.wav", "start": -1}', "line 3: start must be seconds, at least 0, got -1"),
        ('{"audio": "a.wav", "excerpt": "x"}', "line 3: excerpt must be seconds above 0, got 'x'"),
        ('{"audio": "a.wav", "span": [1]}', "line 3: span must be .offset, bytes. inside the file"),
    ],
)
def test_a_bad_line_of_a_manifest_stops_the_run_by_its_number(tmp_path, line, match):
    write(tmp_path / "a.wav", tone(1.0, 24_000))
    good = json.dumps({"id": "a", "audio": "a.wav"})
    (tmp_path / "manifest.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(ValueError, match=match):
        made(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"songs-{shard}.tar", "w") as tar:
            for i in range(2):
                sound = io.BytesIO()
                soundfile.write(sound, tone(1.0, 24_000, 300 + 100 * i), 24_000, format="FLAC")
                _add(tar, f"{i:04d}.flac", sound.getvalue())
                _add(tar, f"{i:04d}.json", json.dumps({"text": f"{shard} {i}"}).encode())
            _add(tar, "0009.txt", b"a text without sound")
            _add(tar, "0010.wav", b"")
    report = made(tmp_path, tmp_path / "out")
    assert report.dropped == [(f"songs-{s}/0010", "empty: 0 bytes") for s in range(2)]
    clips = Prepared(tmp_path / "out")
    found = {clips.meta(i)["id"]: clips.meta(i)["captions"] for i in range(len(clips))}
    assert found == {f"songs-{s}/000{i}#0": [f"{s} {i}"] for s in range(2) for i in range(2)}
    whole = (tmp_path / "songs-0.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a whole, uncompressed .tar"):
        made(tmp_path / "cut.tar", tmp_path / "other")


def _add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_files_depend_on_sources_and_options_alone(tmp_path, workers):
    songs = small_folder(tmp_path / "songs")
    made(songs, tmp_path / "a", shard_clips=5)
    report = made(songs, tmp_path / "b", shard_clips=5, workers=workers)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert report.made == 24 and report.clips == {"train": 20, "validation": 4, "test": 0}
    again = made(songs, tmp_path / "b", shard_clips=5)
    assert again.made == 0 and again.clips == report.clips


# The n-th rename of the run becomes a kill -9: in the middle of a shard, between two, at the end.
_KILLED = """
import os, signal, sys
from noise2music.data.prepare import prepare
count, replace = 0, os.replace
def deadly(*args):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
os.replace = deadly
prepare([sys.argv[1]], sys.argv[2], seconds=1.0, shard_clips=7, progress=False, validation=0.0)
"""


def test_killed_and_started_again_gives_the_same_files(tmp_path):
    songs = small_folder(tmp_path / "songs")
    write(songs / "3b.wav", np.zeros(96_000))  # dropped clips are told once, too
    made(songs, tmp_path / "whole", shard_clips=7)
    out = tmp_path / "parts"
    for moment in (3, 9, 4, 1):  # the claim is the first, five columns a shard
        died = subprocess.run([sys.executable, "-c", _KILLED, songs, out, str(moment)])
        assert died.returncode == -9 and not (out / INDEX).exists()
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('{"split": "tra')  # a line that the kill cut short
    made(songs, out, shard_clips=7)
    assert files(out) == files(tmp_path / "whole")


# No file can grow beyond so many bytes: to whoever writes it is a full disk.
_FULL = """
import resource, sys
from noise2music.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
sys.exit(main(["data", "prepare", sys.argv[1], "--out", sys.argv[2], "--seconds", "1"]))
"""


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path):
    songs, out = small_folder(tmp_path / "songs"), tmp_path / "out"
    made(songs, tmp_path / "undisturbed", validation=0.01)
    for limit, name in ((100, "prepare.json"), (500_000, "train-00000.audio24000.array_record")):
        arguments = [sys.executable, "-c", _FULL, songs, out, str(limit)]
        child = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
        assert child.returncode == 1
        assert f"error: n2m.data: {name} could not be written to" in child.stderr
        assert "File too large" in child.stderr and "Traceback" not in child.stderr
        assert {p.name for p in out.iterdir()} <= {"prepare.json", "journal.jsonl"}
    made(songs, out, validation=0.01)
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_shard_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    songs, out = small_folder(tmp_path / "songs"), tmp_path / "out"
    fsync, calls = os.fsync, itertools.count(1)

    def full(number):
        if next(calls) == 4:  # prepare.json, the journal, the first column, the second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"audio16000.* \(No space left on device\); make"):
        made(songs, out)
    assert {p.name for p in out.iterdir()} == {"prepare.json", "journal.jsonl"}
    assert made(songs, out).made == 24


def test_the_output_folder_is_refused_where_it_is_not_ours(tmp_path):
    songs = small_folder(tmp_path / "songs", tracks=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="empty or new folder, got .*something else"):
        made(songs, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    made(songs, tmp_path / "out")
    with pytest.raises(ValueError, match=r"differs in seconds \(1.0, not 2.0\)"):
        made(songs, tmp_path / "out", seconds=2.0)
    write(songs / "new.wav", tone(1.0, 24_000))
    with pytest.raises(ValueError, match=r"differs in tracks \(2, not 3\)"):
        made(songs, tmp_path / "out")
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        made(songs, tmp_path / "full" / "thesis.txt" / "out")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="must be a folder that can be written"):
            made(songs, tmp_path / "locked" / "out")


@pytest.mark.parametrize(
    "change,match",
    [
        ({"seconds": 0.333}, "seconds must be between 0.5 and 600 and a multiple of 0.02"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"clips": 0}, "clips must be at least 1, got 0"),
        ({"validation": 1.5}, "validation must be between 0 and 1"),
        ({"silence_db": 3.0}, "silence_db must be below 0"),
    ],
)
def test_bad_options(change, match):
    with pytest.raises(ValueError, match=match):
        PrepareOptions(**change)


def test_sources_that_are_not(tmp_path):
    with pytest.raises(ValueError, match="SRC must exist"):
        made(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="must hold sound files .* got none"):
        made(tmp_path / "void", tmp_path / "out")
    (tmp_path / "list.csv").write_text("a.wav")
    with pytest.raises(ValueError, match="a folder, a .jsonl manifest or a WebDataset"):
        made(tmp_path / "list.csv", tmp_path / "out")
    write(tmp_path / "still" / "a.wav", np.zeros(24_000))
    with pytest.raises(ValueError, match="nothing is left of 1 tracks: silent: -200 dBFS"):
        made(tmp_path / "still", tmp_path / "out")


def test_damaged_records_are_named(tmp_path):
    made(small_folder(tmp_path / "songs", tracks=2), tmp_path / "out")
    index = (tmp_path / "out" / INDEX).read_text()
    mel = tmp_path / "out" / "train-00000.mel.array_record"
    mel.write_bytes(mel.read_bytes()[:1000])
    with pytest.raises(ValueError, match="train-00000.mel.array_record.* must be whole"):
        Prepared(tmp_path / "out").column("mel", 0)
    mel.unlink()
    with pytest.raises(ValueError, match="train-00000.mel.array_record.* must be there"):
        Prepared(tmp_path / "out")
    (tmp_path / "out" / INDEX).write_text(index[:50])
    with pytest.raises(ValueError, match="must be a whole index"):
        Prepared(tmp_path / "out")
    (tmp_path / "out" / INDEX).write_text(index.replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="must be of format 1, got 9"):
        Prepared(tmp_path / "out")


def test_a_split_is_drawn_by_name_and_keeps_tracks_whole():
    drawn = [split_of(f"track {i}", 0.1) for i in range(2000)]
    assert 150 < drawn.count("validation") < 250
    assert [split_of(f"track {i}", 0.1) for i in range(2000)] == drawn
    assert {split_of(f"track {i}", 0.0) for i in range(500)} == {"train"}


def test_labels_are_packed_into_segments_of_the_token_length():
    tokenizer = train_tokenizer(["calm piano"] * 3, 512)
    labels = [f"label {i}" for i in range(12)]
    batch = elements(["one", "two"], labels, tokenizer, 24)
    assert batch[:2] == ["one", "two"] and ", ".join(batch[2:]) == ", ".join(labels)
    assert len(batch) > 3 and not any(tokenizer.encode(batch[2:], 24)[2])
    assert elements([], [], tokenizer, 24) == [""]
    assert elements([], ["x" * 100, "y"], tokenizer, 24) == ["x" * 100, "y"]


def test_the_command_prints_a_table(tmp_path, capsys):
    songs = small_folder(tmp_path / "songs", tracks=3)
    write(songs / "still.wav", np.zeros(24_000))
    args = ["data", "prepare", str(songs), "--out", str(tmp_path / "out"), "--seconds", "1"]
    assert main([*args, "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert "12 clips made now" in out and "dropped, silent" in out and "still.wav#0" in out
    assert main(["data", "prepare", "--out", str(tmp_path / "out")]) == 2
    assert "at least one SRC" in capsys.readouterr().err
    assert main(["data", "prepared"]) == 2
    assert "Did you mean 'prepare'?" in capsys.readouterr().err
