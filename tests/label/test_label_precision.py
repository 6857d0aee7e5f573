"""Precision of assigned captions: what a caption states is read back, and counted rightly."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from noise2music.data.corpus.captions import compose_caption
from noise2music.evaluate import attributes
from noise2music.label import grammar
from noise2music.label.vocabulary import open_vocabulary, write_vocabulary

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "label_precision.py"
_spec = importlib.util.spec_from_file_location("label_precision", _SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

ORGAN = {
    "source": "scores",
    "genre": "chorale",
    "family": "organ",
    "instruments": ["church organ"],
    "drums": False,
    "tempo_bpm": 66,
    "key": "Bb",
    "mode": "minor",
    "metre": "4/4",
    "register": "low",
    "dynamics": "soft",
}
TRUMPET = ORGAN | {"family": "brass", "instruments": ["trumpet"], "key": "C", "mode": "major"}


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        (
            "Very slow, medium-loud folk dance for violins and cello in B flat minor at 71 bpm.",
            {
                "tempo": {"slow"},
                "dynamics": {"medium"},
                "genre": {"folk"},
                "family": {"strings"},
                "instrument": {"string quartet"},
                "key": {"Bb minor"},
                "mode": {"minor"},
                "bpm": {"71"},
            },
        ),
        (
            "choir singing ah singing a reel in 2/4 time",
            {"family": {"choir"}, "instrument": {"choir"}, "genre": {"folk"}, "metre": {"2/4"}},
        ),
        (
            "piano, F# major, bright high register, with a drum beat",
            {
                "family": {"piano"},
                "key": {"F# major"},
                "mode": {"major"},
                "register": {"high"},
                "drums": {"with"},
            },
        ),
        ("electronic dance track for flute", {"genre": {"dance"}, "family": {"flute"}}),
    ],
)
def test_what_a_caption_states(caption, said):
    assert attributes.stated(caption) == said


def test_all_that_the_grammar_says_of_a_clip_is_read_and_true_of_it():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(2000):
        clip = grammar._attributes(rng)
        stated = attributes.stated(caption := compose_caption(clip, rng))
        assert stated, caption
        seen |= set(stated)
        for name, values in stated.items():
            value = attributes.value_of(name, clip)
            assert attributes.is_true(name, values, value), (caption, name, values, value)
    assert seen == set(attributes.ATTRIBUTES)
    assert all(attributes.stated(phrase) for phrase in grammar.phrases())


def test_counting_by_hand():
    clips = {"a": ORGAN, "b": TRUMPET}
    assigned = {"a": ["organ, 68 BPM", "trumpet, C major"], "b": ["trumpet, A major, 90 BPM"]}
    found = script.precision(assigned, clips)
    assert set(found) == {"family", "instrument", "bpm", "key", "mode", "whole caption"}
    counts = {name: (p.stating, round(p.true * p.stating)) for name, p in found.items()}
    assert counts == {
        "family": (3, 2),
        "instrument": (2, 1),  # "organ" is the family's word
        "bpm": (2, 1),  # 68 is within 8 % of 66
        "key": (2, 0),
        "mode": (2, 1),
        "whole caption": (3, 1),
    }
    # Of two clips there is one shuffle: each has the other's captions.
    assert found["family"].shuffled == pytest.approx(1 / 3)
    assert found["key"].shuffled == pytest.approx(1 / 2)
    assert found["family"].chance == pytest.approx(3 / 6)  # of 3 captions x 2 clips
    assert all(p.low <= p.true <= p.high for p in found.values())


def test_a_folder_of_assign_is_read(tmp_path, capsys):
    captions = ["organ, 68 BPM", "trumpet, C major", "trumpet, A major", "brass"]
    write_vocabulary(vocabulary := tmp_path / "lf.txt", captions, {"form": "long"})
    rows = [{"audio": "a.wav", "attributes": ORGAN}, {"audio": "b.wav", "attributes": TRUMPET}]
    (manifest := tmp_path / "manifest.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows)
    )
    (work := tmp_path / "work").mkdir()
    np.savez(work / "top-lf-00000.npz", index=[[0, 1], [3, 2]])
    kept = [{"id": id, "track": i, "start": 0.0, "end": 10.0} for i, id in enumerate("ab")]
    (work / "clips-00000.json").write_text(json.dumps({"clips": kept, "failed": []}))
    labels = [{"clip": "a", "caption": captions[1]}, {"clip": "b", "caption": captions[3]}]
    lines = [json.dumps(label | {"vocabulary": "lf"}) + "\n" for label in labels]
    (tmp_path / "labels.jsonl").write_text("".join(lines))
    about = {"captions": 4, "quota": 1}
    about |= {
        f"{what}_{of}": 2 for what in ("bits", "used") for of in ("before", "nearest", "drawn")
    }
    report = {"clips": 2, "K": 2, "vocabularies": {"lf": about}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    plan = {"vocabularies": {"lf": [open_vocabulary(vocabulary).digest, "long", 1]}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    script.main([str(tmp_path), str(manifest), "--vocab", str(vocabulary)])
    printed = capsys.readouterr().out
    assert "| precision, % | K = 2 | K' = 1 nearest | K' = 1 drawn |" in printed
    assert "| family | 75.0 | 100.0 | 50.0 |" in printed

    vocabulary.write_text("organ\n")
    with pytest.raises(SystemExit):
        script.main([str(tmp_path), str(manifest), "--vocab", str(vocabulary)])
    assert "is not one of the vocabularies" in capsys.readouterr().err
    manifest.write_text('{"audio": "a.wav"}\n')
    with pytest.raises(SystemExit):
        script.main([str(tmp_path), str(manifest), "--vocab", str(vocabulary)])
    assert "must tell the attributes" in capsys.readouterr().err
