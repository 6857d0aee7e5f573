"""Embeddings in advance: the encoder's own, cut and masked like tokens, never another encoder's."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from draws import numpy_draws
from nano import nano_config
from noise2music.cli import main
from noise2music.data.prepare import prepare
from noise2music.data.prepare.records import Prepared
from noise2music.data.prepare.text_cache import TextCache, embed_texts, encoder_hash, find_cache
from noise2music.text.released import load_text_encoder, save_untrained_text_encoder
from noise2music.text.tempo import stated_tempo
from noise2music.train import TrainOptions, train
from noise2music.train.checkpoint import ForeignRunError
from noise2music.train.export import export
from noise2music.train.loader import open_batches
from sound_files import small_folder
from tolerances import SAME

LENGTH = 24


@pytest.fixture(scope="module", autouse=True)
def drawn_by_numpy(quick_compiler):
    with numpy_draws():
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_untrained_text_encoder(folder, 0)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("cache")
    how = {"seconds": 1.0, "shard_clips": 7, "progress": False, "token_lengths": (LENGTH,)}
    prepare([small_folder(folder / "songs", 4)], folder / "out", **how)
    # Added to a folder that is complete: nothing is decoded again.
    report = prepare([folder / "songs"], folder / "out", text_encoder=str(encoder), **how)
    assert report.made == 0
    return folder / "out"


@pytest.fixture(scope="module")
def cache(prepared):
    return find_cache(prepared, LENGTH, 128)


def test_an_embedding_is_what_the_encoder_gives(encoder, cache):
    tokenizer, model = load_text_encoder(encoder)
    texts = ["a tone at 60 BPM", "tone, calm", "", "tone number 3"]
    tokens, mask, _ = tokenizer.encode(texts, LENGTH)
    expected = np.asarray(model(tokens, mask))
    for text, row, m in zip(texts, expected, mask, strict=True):
        assert len(cache(text)) == m.sum()
        np.testing.assert_allclose(cache(text), row[m], **SAME)
    with pytest.raises(ValueError, match="every text must be in .* 'never said' is not"):
        cache("never said")


def test_batches_carry_embeddings_where_no_tokenizer_is_given(prepared, cache):
    config = dataclasses.replace(
        nano_config("waveform_generator"), train_seconds=0.96, token_length=LENGTH
    )
    clips = Prepared(prepared)
    batch = next(open_batches(prepared, config, None, 8, threads=0))
    assert batch["text"].shape == (8, LENGTH, 128) and batch["text"].dtype == np.float32
    said = {t for i in range(len(clips)) for t in clips.meta(i)["captions"]} | {"tone, calm"}
    for text, mask, beat in zip(batch["text"], batch["mask"], batch["beat"], strict=True):
        assert not text[~mask].any()
        (found,) = [s for s in said if np.array_equal(cache(s), text[mask])]
        assert beat == np.float32(stated_tempo(found) / 60)
    with pytest.raises(ValueError, match="one cache of embeddings of 64 tokens.* got none"):
        open_batches(prepared, dataclasses.replace(config, token_length=64), None, 8)
    wide = dataclasses.replace(config, unet=dataclasses.replace(config.unet, text_dim=64))
    with pytest.raises(ValueError, match="text_dim must be 128"):
        open_batches(prepared, wide, None, 8)


def test_another_encoder_or_format_is_another_cache(prepared, encoder, tmp_path):
    (tmp_path / "other").mkdir()
    save_untrained_text_encoder(tmp_path / "other", 1)
    assert encoder_hash(tmp_path / "other") != encoder_hash(encoder)
    (half,) = embed_texts(prepared, encoder, [12], "bfloat16", progress=False)
    assert half.folder.name == f"{encoder_hash(encoder)}-bfloat16-12"
    (full,) = embed_texts(prepared, encoder, [12], "float32", progress=False)
    a, b = half("tone number 3").astype(np.float32), full("tone number 3")
    assert a.shape == b.shape and 0 < np.abs(a - b).max() < 0.1 * np.abs(b).max()
    with pytest.raises(ValueError, match="one cache of embeddings of 12 tokens.*bfloat16-12, .*"):
        find_cache(prepared, 12, 128)
    with pytest.raises(ValueError, match="text_encoder must be a folder with a T5"):
        embed_texts(prepared, tmp_path, [12], progress=False)
    with pytest.raises(ValueError, match="must be float32 or bfloat16"):
        embed_texts(prepared, encoder, [13], "float16", progress=False)


def test_it_goes_on_where_it_stopped_and_names_damage(prepared, encoder, monkeypatch):
    from noise2music.data.prepare import text_cache

    monkeypatch.setattr(text_cache, "_FILE_TEXTS", 3)
    (whole,) = embed_texts(prepared, encoder, [10], progress=False)
    before = {p.name: p.read_bytes() for p in whole.folder.iterdir()}
    assert sum(name.startswith("embeddings") for name in before) > 2
    (whole.folder / "cache.json").unlink()
    (whole.folder / "embeddings-00001.array_record").unlink()
    (again,) = embed_texts(prepared, encoder, [10], progress=False)
    assert {p.name: p.read_bytes() for p in again.folder.iterdir()} == before
    (again.folder / "cache.json").write_text(json.dumps({"encoder": "x"}))
    with pytest.raises(ValueError, match="must be a whole cache of embeddings"):
        TextCache(again.folder)


EMBEDDED = dataclasses.replace(
    nano_config("waveform_cascader"), train_seconds=0.128, token_length=LENGTH
)


def trained(prepared, run, steps):
    how = {"batch_size": 4, "peak_lr": 3e-3, "warmup": 2, "lr_end_step": 40, "mesh": "data=1"}
    how |= {"log_every": 2, "validate_every": 4, "checkpoint_every": 4, "corpus": str(prepared)}
    train(EMBEDDED.name, TrainOptions(run=str(run), steps=steps, **how), EMBEDDED)
    return run


def test_a_run_on_embeddings_is_exported_with_its_encoder(prepared, encoder, tmp_path, capsys):
    embed_texts(prepared, encoder, [LENGTH], progress=False)
    run, out = trained(prepared, tmp_path / "run", 2), tmp_path / "model"
    command = ["export", str(run), "--out", str(out)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert encoder_hash(encoder) in said and "--text-encoder FOLDER" in said
    other = tmp_path / "other"
    other.mkdir()
    save_untrained_text_encoder(other, 1)
    with pytest.raises(ValueError, match=f"must be the encoder {encoder_hash(encoder)}"):
        export([run], out, text_encoder=other)
    assert main([*command, "--text-encoder", str(encoder)]) == 0
    assert encoder_hash(out) == encoder_hash(encoder)
    assert export([run], out) == [EMBEDDED.name]  # it is there now
    again = shutil.copytree(prepared, tmp_path / "again")
    (again / "text" / f"{encoder_hash(encoder)}-float32-{LENGTH}").rename(
        again / "text" / f"another-float32-{LENGTH}"
    )
    with pytest.raises(ForeignRunError, match="embedded is .* there and 'another-float32-24' here"):
        trained(again, run, 4)


@pytest.mark.slow
def test_a_run_on_embeddings_resumes_to_the_bit(prepared, encoder, tmp_path):
    embed_texts(prepared, encoder, [LENGTH], progress=False)
    trained(prepared, tmp_path / "parts", 4)
    trained(prepared, tmp_path / "parts", 8)
    trained(prepared, tmp_path / "whole", 8)
    parts, whole = (tmp_path / run / f"{EMBEDDED.name}.safetensors" for run in ("parts", "whole"))
    assert parts.read_bytes() == whole.read_bytes()
