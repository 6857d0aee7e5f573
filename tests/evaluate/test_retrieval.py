"""Retrieval and zero-shot accuracy: by hand, at chance where nothing is known, from the command."""

import json

import numpy as np
import pytest
import soundfile
from fake_encoder import RATE, FakeEncoder, tone
from noise2music.cli import main
from noise2music.data.corpus.vocabulary import FAMILIES, TONICS
from noise2music.evaluate import attributes
from noise2music.evaluate.retrieval import classify, find, others, ranks, unseen_texts
from noise2music.evaluate.sounds import Item


class HearsOnly(FakeEncoder):
    """Has no embed_text."""

    embed_text = None


class Reads:
    """embed_text is the indicator of the words that a text holds."""

    def __init__(self, words):
        self.words = words

    def embed_text(self, texts):
        return np.array([[w in t for w in self.words] + [1] for t in texts], np.float32)


def test_ranks_by_hand():
    cosines = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.7, 0.7]])
    assert ranks(cosines).tolist() == [1, 2, 3]  # equal ones count against it


def test_a_perfect_encoder_and_one_that_hears_nothing():
    perfect = find(np.eye(40))
    assert perfect.recall[1].mean == 1.0 and perfect.median_rank == 1
    assert perfect.shuffled[1] == 0.0
    deaf = find(np.ones((40, 40)))
    assert deaf.recall[10].mean == 0.0 and deaf.median_rank == 40


def test_an_encoder_that_guesses_is_at_chance():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 500, 16))
    found = find(a @ b.T)
    assert abs(found.recall[10].mean - 10 / 500) < 0.02
    assert abs(found.shuffled[10] - 10 / 500) < 0.01


@pytest.mark.parametrize("count", [2, 3, 50])
def test_others_gives_each_clip_another(count):
    for seed in range(5):
        partner = others(count, seed)
        assert sorted(partner) == list(range(count))
        assert (partner != np.arange(count)).all()


def clips_of(families):
    same = {"genre": "rock", "key": "D", "mode": "minor", "drums": False, "metre": "3/4"}
    same |= {"register": "low", "dynamics": "soft"}
    return [
        {**same, "family": f, "instruments": [FAMILIES[f].voices[0].name], "tempo_bpm": 60 + i}
        for i, f in enumerate(families)
    ]


def test_zero_shot_accuracy():
    families = [name for name in FAMILIES if name not in ("flute", "choir")] * 10
    words = [FAMILIES[name].words[0] for name in FAMILIES]
    encoder, clips = Reads(words), clips_of(families)
    knows = np.array([[w == FAMILIES[f].words[0] for w in words] + [0] for f in families], float)
    found = classify(knows, clips, "family", encoder)
    assert (found.classes, found.clips) == (7, 70)  # of nine, those that are there
    assert found.accuracy.mean == 1.0
    assert abs(found.shuffled - 1 / 7) < 0.05
    assert found.commonest == pytest.approx(1 / 7)
    guesses = np.random.default_rng(0).standard_normal(knows.shape)
    found = classify(guesses, clips, "family", encoder)
    assert found.accuracy.low < 1 / 7 < found.accuracy.high
    assert classify(knows, clips, "mode", encoder) is None  # all minor: nothing to tell


def test_every_value_that_the_corpus_can_state_has_captions():
    clip = clips_of(["guitar"])[0]
    for name in attributes.ATTRIBUTES:
        named = attributes.captions_of(name)
        value = attributes.value_of(name, clip)
        assert name == "bpm" or value in named
        assert all(texts and len(set(texts)) == len(texts) for texts in named.values())
    assert len(attributes.captions_of("key")) == len(TONICS["major"]) + len(TONICS["minor"])
    assert "organ, D minor" in attributes.captions_of("key")["D minor"]
    bpm = [int(value) for value in attributes.captions_of("bpm")]
    for tempo in range(60, 181):  # a right answer exists for every tempo
        assert any(attributes.is_right("bpm", str(b), str(tempo)) for b in bpm)
    assert not attributes.is_right("bpm", "60", "120")
    assert attributes.value_of("key", {"key": "D"}) is None


def test_captions_that_were_trained_on_are_not_asked_for(tmp_path):
    rows = {"a": {"captions": ["x", "y"]}, "b": {"captions": ["x"]}, "c": {"prompt": "z"}}
    items = [Item(name, tmp_path / name) for name in rows]
    found, left_out = unseen_texts(items, rows, {"x"})
    assert [(i.id, i.text) for i in found] == [("a", "y"), ("c", "z")] and left_out == 1


@pytest.fixture
def tones(tmp_path):
    rows = []
    for i in range(12):
        soundfile.write(tmp_path / f"{i}.wav", tone(120 + 330 * i), RATE)
        rows.append({"audio": f"{i}.wav", "id": i, "captions": ["400", str(120 + 330 * i)]})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(*args):
    return main(["evaluate", "retrieval", *map(str, args), "--workers", "1"])


def test_from_the_command_line(tones, tmp_path, capfd):
    seen = tmp_path / "seen.jsonl"
    seen.write_text(json.dumps({"audio": "a.wav", "captions": ["400"]}))
    out = tmp_path / "out.json"
    command = (tones, "--encoder", "fake_encoder:FakeEncoder", "--unseen", seen, "--json", out)
    assert run(*command) == 0
    text, _ = capfd.readouterr()
    assert "text to audio" in text and "attribute" not in text
    found = json.loads(out.read_text())["retrieval"][0]
    assert found["clips"] == 12
    # Eight bands tell most of twelve tones apart, those of a band not.
    assert found["text_to_audio"]["recall"]["10"]["mean"] == 1.0
    assert found["text_to_audio"]["recall"]["1"]["mean"] >= 0.5
    assert found["text_to_audio"]["shuffled"]["1"] < 0.2


def test_what_cannot_be_judged_is_said(tones, capfd):
    (tones / "3.wav").write_bytes(b"no sound")
    assert run(tones, "--encoder", "fake_encoder:FakeEncoder") == 1
    assert "3  corrupt" in capfd.readouterr().err
    assert run(tones, "--encoder", "test_retrieval:HearsOnly") == 2
    assert "must read text" in capfd.readouterr().err
    assert run(tones, "--encoder", "fake_encoder:FakeEncoder", "--limit", "1") == 2
    assert "at least 2 clips" in capfd.readouterr().err
