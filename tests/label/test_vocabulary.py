"""Vocabularies of raters and of the grammar, and their files."""

import pytest
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.label.grammar import phrases, sentences
from noise2music.label.raters import split_sentences
from noise2music.label.vocabulary import open_vocabulary, write_vocabulary

CAPS = """ytid,caption,aspect_list
a,"A slow tune. It has 4.5 beats, e.g. claps! ""Yeah"", she sings.","['slow', ""50's pop"", 'slow']"
b,Just drums,"[]"
"""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It is at approx. 120.5 BPM. Fast.", ["It is at approx. 120.5 BPM.", "Fast."]),
        ('He sings "Oh." Then it ends', ['He sings "Oh."', "Then it ends"]),
        ("  \n", []),
        ("no end", ["no end"]),
    ],
)
def test_sentences_of_a_text(text, parts):
    assert split_sentences(text) == parts


def test_both_vocabularies_of_a_raters_file(tmp_path, capsys):
    (tmp_path / "caps.csv").write_text(CAPS)
    for kind in ("rater-lf", "rater-sf"):
        args = ["--csv", str(tmp_path / "caps.csv"), "--out", str(tmp_path / f"{kind}.txt")]
        assert main(["label", "vocab", kind, *args]) == 0
    assert (tmp_path / "rater-lf.txt").read_text().splitlines() == [
        "A slow tune.",
        "It has 4.5 beats, e.g. claps!",
        '"Yeah", she sings.',
        "Just drums",
    ]
    assert (tmp_path / "rater-sf.txt").read_text().splitlines() == ["slow", "50's pop"]
    assert open_vocabulary(tmp_path / "rater-lf.txt").form == "long"
    assert open_vocabulary(tmp_path / "rater-sf.txt").form == "short"
    (tmp_path / "caps.csv").write_text(CAPS.replace('"[]"', "[1]"))
    assert main(["label", "vocab", "rater-sf", *args]) == 2
    assert "line 3: aspect_list must be a list of texts" in capsys.readouterr().err
    assert main(["label", "vocab", "rater-sf", "--out", str(tmp_path / "x.txt")]) == 2


def test_the_grammar_gives_different_captions_and_the_same_for_a_seed(tmp_path):
    found = sentences(2000, seed=1)
    assert len(set(found)) == 2000 and found == sentences(2000, seed=1)
    assert found != sentences(2000, seed=2) and found[:100] == sentences(100, seed=1)
    short = phrases()
    assert {"church organ", "120 BPM", "D minor", "waltz", "without drums", "6/8"} <= set(short)
    assert len(short) == len(set(short)) > 250
    assert (
        main(["label", "vocab", "grammar-lf", "--count", "50", "--out", str(tmp_path / "g.txt")])
        == 0
    )
    assert open_vocabulary(tmp_path / "g.txt").size == 50


def test_captions_are_written_once_and_read_in_parts(tmp_path):
    path = tmp_path / "v.txt"
    assert write_vocabulary(path, ["a  b", "c", "a b", " ", "d\ne"], {"form": "long"}) == 3
    v = open_vocabulary(path)
    assert v.read() == ["a b", "c", "d e"] and v.read(1, 2) == ["c"]
    assert v.pick([2, 0]) == {0: "a b", 2: "d e"}
    with pytest.raises(UserError, match="no usable caption"):
        write_vocabulary(tmp_path / "w.txt", [" "], {})
    assert not (tmp_path / "w.txt").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no caption"),
        (b"a\n\nb\n", "line 2 must be a caption"),
        (b"a\nb\na\n", "line 3: the caption 'a' is there twice"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path, content, match):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(UserError, match=match):
        open_vocabulary(tmp_path / "v.txt")
    with pytest.raises(UserError, match="cannot be read"):
        open_vocabulary(tmp_path / "absent.txt")
