"""`noise2music evaluate` from files to figures: values, tables, the page, exit codes."""

import json
import re

import numpy as np
import pytest
import soundfile
from fake_encoder import FAULTS, RATE, FakeEncoder, tone
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.evaluate import datasets
from noise2music.evaluate.embedding import embed_set
from noise2music.evaluate.similarity import matched_and_shuffled, pair, similarity
from noise2music.evaluate.sounds import Item, read_set

FAKE = ["--encoder", "fake_encoder:FakeEncoder", "--workers", "1"]


@pytest.fixture
def run(capfd):
    def call(*args):
        code = main(["evaluate", *map(str, args)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def tones(tmp_path):
    """Ten tones named by their pitch, and the same with a little noise, both with their texts."""
    rng = np.random.default_rng(0)
    for name, noise in (("truth", 0.0), ("made", 0.02)):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for i in range(10):
            hz = 300 + 350 * i
            sound = tone(hz, level=0.3) + noise * rng.standard_normal(2 * RATE)
            soundfile.write(folder / f"{i}.wav", sound, RATE)
            rows.append({"audio": f"{i}.wav", "id": i, "prompt": str(hz)})
        (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_fad_of_a_set_and_itself_and_another(run, noise_folder, tmp_path):
    a, b, c = noise_folder("a", 12), noise_folder("b", 12, seed=1), noise_folder("c", 12, tilt=2)
    found = {}
    for name, reference in (("itself", a), ("same kind", b), ("other", c)):
        out = tmp_path / "out.json"
        code, text, _ = run("fad", a, reference, *FAKE, "--draws", 20, "--json", out)
        assert code == 0 and "FAD-inf" in text
        found[name] = json.loads(out.read_text())["fad"][0]
    assert found["itself"]["fad"] < 1e-10
    assert found["itself"]["fad"] < found["same kind"]["fad"] < found["other"]["fad"] / 5
    assert found["other"]["low"] > found["same kind"]["high"]
    assert (found["other"]["rows"], found["other"]["d"]) == (48, 8)
    assert list(found["other"]["per_clip"]) == [f"{i:03d}" for i in range(12)]


def test_a_failed_file_fails_the_run_unless_told_otherwise(run, noise_folder):
    a, b = noise_folder("a", 8), noise_folder("b", 8, seed=1)
    (a / "zz.wav").write_bytes(b"no sound")
    command = ("fad", a, b, *FAKE, "--draws", 10)
    code, out, err = run(*command)
    assert code == 1 and re.search(r"generated +zz +corrupt", out)
    assert "1 clips are not in these figures" in err
    assert run(*command, "--allow-failed")[0] == 0


def test_every_fault_is_in_the_tables_the_json_and_the_page(run, faulty, noise_folder, tmp_path):
    for i in range(4):  # enough good ones for a figure
        soundfile.write(faulty / f"more{i}.wav", tone(1000 + 300 * i), RATE)
    with (faulty / "manifest.jsonl").open("a") as file:
        file.writelines(f'\n{{"audio": "more{i}.wav"}}' for i in range(4))
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    options = (*FAKE, "--draws", 10, "--json", out, "--report", page)
    code, text, err = run("fad", faulty, noise_folder("b", 8), *options)
    assert code == 1 and f"{len(FAULTS)} clips are not in these figures" in err
    found = json.loads(out.read_text())
    assert {f["id"]: f["reason"] for f in found["failures"]["generated"]} == FAULTS
    assert found["fad"][0]["clips"] == 6
    written = page.read_text()
    for name, reason in FAULTS.items():
        assert re.search(rf"generated +{name} +{reason} ", text)
        assert f"<td>{name}</td><td>{reason}</td>" in written
    assert "<li>2 x duplicate: " in written and f"{len(FAULTS)} clips:" in written


def test_too_few_clips_are_refused(run, noise_folder):
    a, b = noise_folder("a", 4), noise_folder("b", 3)
    code, _, err = run("fad", a, b, *FAKE)
    assert code == 2 and "the reference must have at least 4 clips, got 3" in err
    code, _, err = run("fad", a, a, *FAKE, "--middle", "1.5")
    assert code == 2 and "needs at least 16 rows in each set, got 12" in err
    assert run("fad", a, a, *FAKE, "--middle", "1.5", "--force", "--draws", 10)[0] == 0


def test_similarity_has_the_rows_of_table_6(run, tones, tmp_path):
    out = tmp_path / "out.json"
    command = ("similarity", tones / "made", tones / "truth", *FAKE, "--json", out)
    assert run(*command)[0] == 0
    rows = json.loads(out.read_text())["similarity"][0]["rows"]
    assert rows["ground truth"]["audio"]["mean"] == pytest.approx(1.0)
    for kind in ("text", "audio"):
        shuffled, made = rows["shuffled ground truth"][kind], rows["generated"][kind]
        assert shuffled["high"] < made["low"] <= made["mean"] <= made["high"] <= 1.0
    first = out.read_text()
    run(*command)
    assert out.read_text() == first


def test_similarity_by_hand():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    matched, shuffled = matched_and_shuffled(a, b)
    assert matched.mean == pytest.approx((np.sqrt(0.5) + 1) / 2)
    assert shuffled.mean == pytest.approx((0 + np.sqrt(0.5)) / 2)


def test_windows_are_averaged(tmp_path):
    """A clip of two halves lies between them (section 3.5)."""
    soundfile.write(tmp_path / "a.wav", np.concatenate([tone(300, 0.5), tone(2000, 0.5)]), RATE)
    for name, hz in (("b", 300), ("c", 2000)):
        soundfile.write(tmp_path / f"{name}.wav", tone(hz, 0.5), RATE)
    a, b, c = embed_set(read_set(tmp_path), FakeEncoder()).means
    np.testing.assert_allclose(a, (b + c) / 2, rtol=0.05, atol=0.05)


def test_a_broken_clip_takes_its_pair_out(run, tones, tmp_path):
    (tones / "made" / "3.wav").write_bytes(b"")
    out = tmp_path / "out.json"
    code, text, _ = run("similarity", tones / "made", tones / "truth", *FAKE, "--json", out)
    assert code == 1 and re.search(r"generated +3 +corrupt", text)
    assert json.loads(out.read_text())["similarity"][0]["pairs"] == 9


def test_pairs(tmp_path):
    a, b = [Item("x", tmp_path), Item("y", tmp_path)], [Item("y", tmp_path), Item("z", tmp_path)]
    ours, theirs, alone = pair(a, b)
    assert ([i.id for i in ours], [i.id for i in theirs]) == (["y"], ["y"])
    assert [(f.id, f.reason) for f in alone] == [("x", "unpaired"), ("z", "unpaired")]
    assert pair(a[:1], b[1:])[2] == []
    with pytest.raises(UserError, match="2 clips cannot be paired in order with 1"):
        pair(a, b[1:])


def test_an_encoder_without_text_has_no_text_column(noise_folder):
    class Deaf(FakeEncoder):
        embed_text = None

    heard = embed_set(read_set(noise_folder("a", 4)), FakeEncoder())
    assert similarity(heard, heard, Deaf()).rows["generated"]["text"] is None


def test_the_report_is_one_page(run, tones, tmp_path):
    name = "<script>alert(1)</script>"
    row = {"audio": "x.wav", "id": name, "prompt": name}
    soundfile.write(tones / "made" / "x.wav", tone(1234), RATE)
    for folder in ("made", "truth"):
        with (tones / folder / "manifest.jsonl").open("a") as file:
            file.write("\n" + json.dumps(row))
    page = tmp_path / "r.html"
    options = (*FAKE, "--draws", 10, "--report", page)
    code, text, _ = run("report", tones / "made", tones / "truth", *options)
    assert code == 1 and re.search("reference .*missing", text)  # truth has no x.wav
    written = page.read_text()
    assert name not in written and "&lt;script&gt;" in written
    assert written.count("<audio") == 12 and written.count("<img") == 13
    assert not re.search(r'(?:src|href)="(?!data:)', written)  # nothing is loaded from elsewhere
    assert "noise2music" in written and "there is no such file" in written


def test_magnatagatune(run, tmp_path):
    text = '"clip_id"\t"guitar"\t"slow"\t"mp3_path"\n"2"\t"1"\t"1"\t"f/a.mp3"\n"6"\t"1"\t"0"\t"b"\n'
    (tmp_path / "annotations_final.csv").write_text(text)
    out = tmp_path / "m.jsonl"
    code, told, _ = run("protocol", "magnatagatune", tmp_path, "--out", out)
    assert code == 0 and "1 clips, 0 of them with their sound file; generate 29 s" in told
    (item,) = read_set(out)
    assert (item.id, item.text, item.path.name) == ("2", "guitar, slow", "a.mp3")
    assert out.with_suffix(".txt").read_text() == "guitar, slow\n"


def test_audioset(run, tmp_path):
    lines = [
        "# YTID, start_seconds, end_seconds, positive_labels",
        '-abcdefghij, 30.000, 40.000, "/m/09x0r,/m/05148p4,/m/05r5c"',
        'Ybcdefghijk, 0.000, 10.000, "/m/09x0r"',
    ]
    (tmp_path / "eval_segments.csv").write_text("\n".join(lines))
    soundfile.write(tmp_path / "Y-abcdefghij.wav", tone(200), RATE)
    out = tmp_path / "m.jsonl"
    code, told, _ = run("protocol", "audioset", tmp_path, "--out", out)
    assert code == 0 and "1 clips, 1 of them" in told and "--middle 10" in told
    (item,) = read_set(out)
    assert item.text == "Keyboard (musical), Piano" and item.path.is_file()


def test_appendix_d():
    labels = datasets.music_labels()
    assert len(labels) == 130
    assert labels["/m/0z9c"] == "A capella" and labels["/m/0jtg0"] == "Sitar"
    assert "/m/04rlf" not in labels  # Music itself is the trivial part


def test_musiccaps(run, tmp_path):
    (tmp_path / "musiccaps-public.csv").write_text(
        'ytid,start_s,caption\nabcdefghijk,3,"a, ""b"""\n'
    )
    out = tmp_path / "m.jsonl"
    assert run("protocol", "musiccaps", tmp_path, "--out", out)[0] == 0
    assert read_set(out)[0].text == 'a, "b"'
    (tmp_path / "musiccaps-public.csv").write_text("other,columns\n1,2\n")
    code, _, err = run("protocol", "musiccaps", tmp_path, "--out", out)
    assert code == 2 and "is not as musiccaps publishes it" in err
    code, _, err = run("protocol", "musicaps", tmp_path, "--out", out)
    assert code == 2 and "Did you mean 'musiccaps'" in err
