"""Training of a stage: it learns, it resumes to the bit, what it exports generates."""

import json
import shutil

import numpy as np
import pytest
from noise2music import weights
from noise2music.train import assemble, train
from noise2music.train.dataset import Corpus
from small_corpus import CASCADER, SUPER, TEXT, make_corpus, options, reading


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, quick_compiler):
    return make_corpus(tmp_path_factory.mktemp("small") / "corpus")


def tensors(path):
    with weights._open(path) as f:
        return {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118


def test_resumed_is_bit_equal_to_uninterrupted_and_learns(corpus, tmp_path):
    name = SUPER.name
    train(name, options(corpus, tmp_path / "whole", steps=20), SUPER)
    train(name, options(corpus, tmp_path / "parts", steps=5), SUPER)
    train(name, options(corpus, tmp_path / "parts", steps=20), SUPER)
    whole, parts = (tensors(tmp_path / d / f"{name}.safetensors") for d in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for tensor in whole:
        np.testing.assert_array_equal(whole[tensor], parts[tensor])
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [5, 10, 15, 20]
    assert log[-1]["validation_loss"] < log[0]["validation_loss"]


def test_text_is_trained_with_the_generator_and_frozen_with_the_cascader(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(assemble, "TINY", TEXT)
    generator = reading("spectrogram_generator", 0.96)
    train(generator.name, options(corpus, tmp_path / "g", steps=2), generator)
    encoder = tensors(tmp_path / "g" / "text_encoder.safetensors")
    run = tmp_path / "c"
    train(CASCADER.name, options(corpus, run, steps=2, text_encoder=str(tmp_path / "g")), CASCADER)
    assert encoder and (run / "tokenizer.json").exists()
    for name, tensor in tensors(run / "text_encoder.safetensors").items():
        np.testing.assert_array_equal(tensor, encoder[name])  # a run folder is whole, and frozen


@pytest.mark.parametrize(
    "change,match",
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"peak_lr": float("nan")}, "peak_lr must be positive"),
        ({"text_dropout": 1.5}, "text_dropout must be in"),
    ],
)
def test_bad_options_are_refused(corpus, tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        options(corpus, tmp_path, **change)


def test_bad_corpora_are_named(tmp_path, corpus):
    with pytest.raises(ValueError, match="manifest.jsonl, found none"):
        Corpus(tmp_path)
    with pytest.raises(ValueError, match="clips of split 'test'"):
        Corpus(corpus, "test")


@pytest.mark.parametrize(
    "line,match",
    [
        ('{"id": 3, "spl', 'line 2 of .*manifest.jsonl must be a JSON object, got .{"id": 3, "spl'),
        ("7", "line 2 of .* must be a JSON object, got '7'"),
        ('{"id": 3, "split": "train"}', "line 2 of .* missing: audio, seconds, captions"),
    ],
)
def test_a_bad_line_of_a_corpus_is_named_by_its_number(tmp_path, corpus, line, match):
    good = (corpus / "manifest.jsonl").read_text().splitlines()[0]
    (tmp_path / "manifest.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match="n2m.train: " + match):
        Corpus(tmp_path)


def test_a_clip_of_a_corpus_that_cannot_be_read_is_named(tmp_path, corpus):
    shutil.copyfile(corpus / "manifest.jsonl", tmp_path / "manifest.jsonl")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "0.flac").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="n2m.train: .*0.flac must be a sound file, got: "):
        Corpus(tmp_path).open("audio16000")
    assert not list((tmp_path / "cache").iterdir())


def test_text_encoder_gets_a_head_start(corpus, tmp_path):
    from noise2music.train.text import train_text_encoder

    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    other = tmp_path / "corpus"
    other.mkdir()
    for i, row in enumerate(rows):
        row["split"] = "test" if i % 4 == 3 else "train"
    (other / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    accuracy = train_text_encoder(str(other), str(tmp_path / "text"), steps=30, batch_size=8)
    assert accuracy["family"] == 1.0
    assert (tmp_path / "text" / "text_encoder.safetensors").exists()
