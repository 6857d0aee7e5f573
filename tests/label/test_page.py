"""What is written of a labelled set: the page, and a set in MuLaMCap's form."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_joint import write_tones
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.evaluate.datasets import music_labels
from noise2music.label import mulamcap
from noise2music.label.assign import AssignOptions, assign

FAKE = AssignOptions(encoder="fake_joint:FakeJoint")


def test_the_page_stands_alone_and_shows_what_was_counted(tones, vocabularies, tmp_path):
    assign([tones], vocabularies, tmp_path / "out", FAKE)
    (tones / "003.wav").unlink()
    args = ["label", "report", str(tmp_path / "out"), "--vocab", *map(str, vocabularies)]
    assert main([*args, "-o", str(tmp_path / "p.html"), "--clips", "20"]) == 0
    text = (tmp_path / "p.html").read_text()
    HTMLParser().feed(text)
    assert not re.search(r"(?:src|href)=\"(?!data:)", text) and "<script" not in text
    assert text.count("<audio") == 19 and text.count("The sound file is not there") == 1
    assert text.count("<img") == 4  # frequencies and similarities of two vocabularies
    report = json.loads((tmp_path / "out" / "report.json").read_text())["vocabularies"]["lf"]
    assert f"<td>{report['bits_drawn']:.3f}</td>" in text
    before, nearest, drawn = np.load(tmp_path / "out" / "counts-lf.npy")
    rescued = ((drawn > 0) & (nearest == 0)).sum()
    assert rescued > 0 and f"{rescued} captions are in the set that the K' nearest" in text
    gained = int(np.argmax(drawn - nearest))
    caption = vocabularies[0].read_text().splitlines()[gained]
    assert (
        f"<td>{caption}</td><td>{before[gained]}</td><td>{nearest[gained]}</td>"
        f"<td>{drawn[gained]}</td>" in text
    )
    row = json.loads((tmp_path / "out" / "labels.jsonl").read_text().splitlines()[0])
    assert row["caption"] in text and row["clip"] in text


def test_a_page_of_something_else_is_refused(tones, vocabularies, tmp_path):
    assign([tones], vocabularies[:1], tmp_path / "out", FAKE)
    args = ["label", "report", str(tmp_path / "out"), "-o", str(tmp_path / "p.html"), "--vocab"]
    assert main([*args, str(vocabularies[1])]) == 2
    vocabularies[0].write_text("one\n")
    assert main([*args, str(vocabularies[0])]) == 2
    assert main(["label", "report", str(tones), "--vocab", str(vocabularies[1])]) == 2
    assert not (tmp_path / "p.html").exists()


def test_a_mulamcap_set_holds_music_segments_by_their_ids(tmp_path, vocabularies, capsys):
    tones = write_tones(tmp_path / "tones", 4)
    names = ["abcdefghij1", "Yabcdefghij2_30000", "abcdefghij3", "unknown_vid"]
    for i, name in enumerate(names):
        (tones / f"{i:03d}.wav").rename(tones / f"{name}.wav")
    music, other = sorted(music_labels())[0], "/m/09x0r"
    assert other not in music_labels()
    segments = tmp_path / "segments.csv"
    segments.write_text(
        "# Segments csv\n# YTID, start_seconds, end_seconds, positive_labels\n"
        f'abcdefghij1, 0.000, 10.000, "{other},{music}"\n'
        f'abcdefghij2, 30.000, 40.000, "{music}"\n'
        f'abcdefghij3, 0.000, 10.000, "{other}"\n'
        f'abcdefghij4, 0.000, 10.000, "{music}"\n'
    )
    quotas = {"lf": 3, "sf": 6}
    assign([tones], vocabularies, tmp_path / "out", FAKE, quotas=quotas)
    args = ["label", "mulamcap", str(tmp_path / "out"), "--segments", str(segments)]
    assert main([*args, "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "2 segments; left out: 1 clips of no segment, 1 without a music label; 1 music" in said
    lines = (tmp_path / "set" / "mulamcap.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [r["segment"] for r in rows] == ["abcdefghij1_0", "abcdefghij2_30000"]
    assert rows[0]["labels"] == [{"id": music, "name": music_labels()[music]}]
    assert {name: len(texts) for name, texts in rows[1]["captions"].items()} == quotas
    again = mulamcap.export(
        tmp_path / "out" / "labels.jsonl", tmp_path / "set" / "segments.csv", tmp_path / "two"
    )
    assert again.segments == 2 and again.unlabelled == 0
    (tmp_path / "bad.csv").write_text("x,y\n")
    with pytest.raises(UserError, match="not as AudioSet publishes"):
        mulamcap.export(tmp_path / "out" / "labels.jsonl", tmp_path / "bad.csv", tmp_path / "b")
    with pytest.raises(UserError, match="no labels.jsonl"):
        mulamcap.export(tmp_path / "bad.csv", segments, tmp_path / "b")
