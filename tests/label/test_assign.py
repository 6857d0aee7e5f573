"""From sound files to labels, in this process and others, through kills, to `data prepare`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_joint import RATE, FakeJoint, write_tones
from noise2music.cli import main
from noise2music.data.prepare import prepare
from noise2music.data.prepare.records import Prepared
from noise2music.errors import UserError
from noise2music.label import shards
from noise2music.label.assign import AssignOptions, assign

FAKE = AssignOptions(
    encoder="fake_joint:FakeJoint", shard_tracks=4, shard_captions=16, shard_clips=8
)
FILES = ("labels.jsonl", "labels.parquet", "manifest.jsonl", "report.json", "DATA_CARD.md")


def outputs(out):
    return {name: (out / name).read_bytes() for name in FILES}


def rows(out):
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def test_every_clip_gets_its_quota_of_its_nearest_captions(tones, vocabularies, tmp_path):
    report = assign([tones], vocabularies, tmp_path / "out", FAKE)
    found = rows(tmp_path / "out")
    assert report.clips == 20 and report.labels == len(found) == 20 * 9
    encoder = FakeJoint()
    texts = {p.stem: p.read_text().splitlines() for p in vocabularies}
    by_clip = {}
    for row in found:
        by_clip.setdefault(row["clip"], []).append(row)
    assert len(by_clip) == 20
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    counts = json.loads((tmp_path / "out" / "report.json").read_text())["vocabularies"]
    assert counts["lf"]["quota"] == 3 and counts["sf"]["quota"] == 6
    for of_clip in by_clip.values():
        assert [r["vocabulary"] for r in of_clip] == ["lf"] * 3 + ["sf"] * 6
        assert of_clip[0]["start"] == 0 and of_clip[0]["end"] == 1.5
        assert of_clip[0]["model"] == "fake_joint" and of_clip[0]["weights"] == "0"
        import soundfile

        sound, rate = soundfile.read(of_clip[0]["audio"], dtype="float32")
        assert rate == RATE
        clip = unit(encoder.embed(sound).mean(axis=0))
        for row in of_clip:
            all_texts = texts[row["vocabulary"]]
            s = unit(encoder.embed_text(all_texts)) @ clip
            own = s[all_texts.index(row["caption"])]
            assert abs(own - row["similarity"]) < 2e-3  # rounded to float16
            assert abs((s > own + 2e-3).sum() + 1 - row["rank"]) <= 2 and row["rank"] <= 10
            assert row["count"] >= 1


def test_parquet_and_jsonl_hold_the_same(tones, vocabularies, tmp_path):
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    assert pq.read_table(tmp_path / "out" / "labels.parquet").to_pylist() == rows(tmp_path / "out")


def test_counts_are_those_of_all_clips(tones, vocabularies, tmp_path):
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    before, nearest, drawn = np.load(tmp_path / "out" / "counts-lf.npy")
    assert before.sum() == 200 and nearest.sum() == drawn.sum() == 60
    assert (drawn <= before).all() and (nearest <= before).all()
    texts = vocabularies[0].read_text().splitlines()
    for row in rows(tmp_path / "out"):
        if row["vocabulary"] == "lf":
            assert row["count"] == before[texts.index(row["caption"])]


def test_shards_and_processes_change_no_file(tones, vocabularies, tmp_path):
    assign([tones], vocabularies, tmp_path / "one", FAKE)
    with shards.Processes(2) as runner:
        report = assign([tones], vocabularies, tmp_path / "two", FAKE, runner=runner)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")
    assert report.made["clips"] == 5 and report.made["captions-lf"] == 4
    other = AssignOptions(encoder=FAKE.encoder, shard_tracks=7, shard_captions=9, shard_clips=3)
    assign([tones], vocabularies, tmp_path / "three", other)
    for name in ("labels.jsonl", "manifest.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_data_prepare_reads_the_manifest(tmp_path, vocabularies):
    tones = write_tones(tmp_path / "tones", 4, seconds=4.0)
    (tones / "000.json").write_text('{"title": "First", "split": "test", "tags": ["tone"]}')
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    report = prepare([tmp_path / "out"], tmp_path / "records", seconds=2.0, clips=2, progress=False)
    assert report.clips == {"train": 6, "validation": 0, "test": 2}
    meta = Prepared(tmp_path / "records", "test").meta(0)
    mine = [r for r in rows(tmp_path / "out") if r["clip"].endswith("000.wav")]
    assert meta["captions"] == [r["caption"] for r in mine if r["vocabulary"] == "lf"]
    assert meta["labels"] == ["tone", "First"] + [
        r["caption"] for r in mine if r["vocabulary"] == "sf"
    ]


def test_clips_of_a_track_have_their_own_labels_and_part_of_the_file(tmp_path, vocabularies):
    t = np.arange(6 * RATE) / RATE
    sound = np.where(t < 3, np.sin(2 * np.pi * 330 * t), np.sin(2 * np.pi * 2130 * t))
    folder = tmp_path / "tracks"
    folder.mkdir()
    import soundfile

    soundfile.write(folder / "a.wav", 0.5 * sound, RATE)
    options = AssignOptions(encoder=FAKE.encoder, seconds=3.0)
    assign([folder], vocabularies[:1], tmp_path / "out", options, quotas={"lf": 10})
    found = {r["clip"][-1]: r for r in rows(tmp_path / "out") if r["rank"] == 1}
    assert found["0"]["caption"] == "A tone of 330 Hz." and found["0"]["end"] == 3.0
    assert found["1"]["caption"] == "A tone of 2130 Hz." and found["1"]["start"] == 3.0
    report = prepare([tmp_path / "out"], tmp_path / "records", seconds=3.0, progress=False)
    records = Prepared(tmp_path / "records")
    assert report.clips["train"] == 2
    for i, hz in ((0, 330), (1, 2130)):
        sound = records.column("audio16000", i).astype(float)
        heard = np.abs(np.fft.rfft(sound)).argmax() / 3
        assert abs(heard - hz) < 2 and records.meta(i)["start"] == 3.0 * i


def test_what_cannot_be_heard_is_named(tones, vocabularies, tmp_path):
    import soundfile

    soundfile.write(tones / "silent.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(tones / "short.wav", 0.1 * np.ones(100), RATE)
    (tones / "text.wav").write_text("no sound")
    report = assign([tones], vocabularies, tmp_path / "out", FAKE)
    reasons = {Path(id).stem: why.partition(":")[0] for id, why in report.failed}
    assert reasons == {"silent": "silent", "short": "too short", "text": "unreadable"}
    assert report.clips == 20
    assert "1 tracks or clips: silent" in (tmp_path / "out" / "DATA_CARD.md").read_text()


def test_a_shard_that_fails_once_is_tried_again(tones, vocabularies, tmp_path, monkeypatch):
    failures = {"left": 3}
    embed = FakeJoint.embed

    def sometimes(self, samples):
        if failures["left"]:
            failures["left"] -= 1
            raise MemoryError("no room")
        return embed(self, samples)

    monkeypatch.setattr(FakeJoint, "embed", sometimes)
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    monkeypatch.undo()
    assign([tones], vocabularies, tmp_path / "again", FAKE)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "again")


def test_a_shard_that_always_fails_is_reported_and_the_rest_kept(
    tones, vocabularies, tmp_path, monkeypatch
):
    embed, seen = FakeJoint.embed, []

    def never_the_second_shard(self, samples):
        seen.append(1)
        if np.abs(samples - bad[: samples.size]).max() < 1e-3:
            raise RuntimeError("the device is lost")
        return embed(self, samples)

    import soundfile

    bad = soundfile.read(tones / "005.wav", dtype="float32")[0]
    monkeypatch.setattr(FakeJoint, "embed", never_the_second_shard)
    with pytest.raises(shards.ShardError, match=r"1 of 5 .* 3 times: clips shard 1: Run.* lost"):
        assign([tones], vocabularies, tmp_path / "out", FAKE)
    assert len(list((tmp_path / "out" / "work").glob("clips-*.done"))) == 4
    monkeypatch.undo()
    report = assign([tones], vocabularies, tmp_path / "out", FAKE)
    assert report.made["clips"] == 1


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_kill_costs_the_shard_in_flight_alone(tones, vocabularies, tmp_path, workers):
    assign([tones], vocabularies, tmp_path / "whole", FAKE)
    out, work = tmp_path / "out", tmp_path / "out" / "work"
    command = [
        sys.executable,
        "-m",
        "noise2music",
        "label",
        "assign",
        str(tones),
        "--out",
        str(out),
    ]
    command += ["--vocab", *map(str, vocabularies), "--encoder", "slow_joint:SlowJoint"]
    command += ["--shard-tracks", "4", "--shard-captions", "16", "--shard-clips", "8"]
    command += ["--workers", str(workers)]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    kept = {}
    for wanted in ("clips-00001.done", "captions-lf-00001.done"):
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        while not (work / wanted).is_file():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.3)  # the workers notice that their parent is gone
        for name, stamp in kept.items():
            assert (work / name).stat().st_mtime_ns == stamp
        kept = {p.name: p.stat().st_mtime_ns for p in work.glob("[!.]*.done")}
    subprocess.run(command, env=env, check=True, capture_output=True)
    for name, stamp in kept.items():
        assert (work / name).stat().st_mtime_ns == stamp
    # The slow encoder has another name, so the files differ in that alone.
    for name in FILES:
        found = (out / name).read_bytes()
        if name != "labels.parquet":
            assert found.replace(b"slow_joint", b"fake_joint") == outputs(tmp_path / "whole")[name]
    assert not list(work.glob(".n2m-*"))


def test_a_process_that_dies_is_survived(tones, vocabularies, tmp_path, monkeypatch):
    options = AssignOptions(**{**vars(FAKE), "encoder": "dying_joint:DyingJoint"})
    monkeypatch.setenv("DYING_JOINT", str(tmp_path / "died"))
    with shards.Processes(2) as runner:
        assign([tones], vocabularies, tmp_path / "out", options, runner=runner)
    assert (tmp_path / "died").exists()
    assign([tones], vocabularies, tmp_path / "whole", FAKE)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_a_folder_of_something_else_is_refused(tones, vocabularies, tmp_path):
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    with pytest.raises(UserError, match="begun with other seed"):
        assign([tones], vocabularies, tmp_path / "out", AssignOptions(**{**vars(FAKE), "seed": 1}))
    with pytest.raises(UserError, match="begun with other vocabularies"):
        assign([tones], vocabularies[:1], tmp_path / "out", FAKE)
    with pytest.raises(UserError, match="holds something else"):
        assign([tones], vocabularies, tones, FAKE)


def test_the_work_may_be_removed_and_a_kill_may_come_first(tones, vocabularies, tmp_path):
    out = tmp_path / "out"
    assign([tones], vocabularies, out, FAKE)
    before = outputs(out)
    shutil.rmtree(out / "work")
    for path in (*out.glob("labels.*"), *out.glob("*.npy")):
        path.unlink()
    (out / ".n2m-0.json").touch()
    assign([tones], vocabularies, out, FAKE)
    assert outputs(out) == before and not (out / ".n2m-0.json").exists()


def test_bad_quotas_are_refused(tones, vocabularies, tmp_path):
    for quotas, match in (
        ({"lf": 11}, "K' must be 1 to K = 10, got 11 for lf"),
        ({"lf": 0}, "K' must be 1 to K = 10, got 0"),
        ({"xx": 1}, "a quota is for a vocabulary that is given"),
    ):
        with pytest.raises(UserError, match=match):
            assign([tones], vocabularies, tmp_path / "out", FAKE, quotas=quotas)
    with pytest.raises(UserError, match="reads no text"):
        assign([tones], vocabularies, tmp_path / "out", encoder_without_text())
    assert not (tmp_path / "out").exists()


def encoder_without_text():
    return AssignOptions(encoder="fake_joint:Deaf")


def test_the_command(tones, vocabularies, tmp_path, capsys):
    args = ["label", "assign", str(tones), "--vocab", *map(str, vocabularies)]
    args += ["--encoder", "fake_joint:FakeJoint", "--out", str(tmp_path / "out")]
    assert main([*args, "--quota", "lf=2", "sf=4"]) == 0
    said = capsys.readouterr().out
    assert "120 captions of 20 clips" in said and "lf: 2 of K, entropy" in said
    assert main([*args, "--quota", "lf=x"]) == 2
    assert main([*args, "--quota", "lf=11"]) == 2
    assert main(["label", "asign"]) == 2
    assert "Did you mean 'assign'" in capsys.readouterr().err
