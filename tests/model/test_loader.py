"""Batches of both kinds of folder: the same for every resume and any number of processes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from nano import nano_config
from noise2music.config import STAGES
from noise2music.data.prepare import prepare
from noise2music.data.prepare.records import Prepared
from noise2music.excitation import flatten
from noise2music.text.tokenizer import train_tokenizer
from noise2music.train.cuts import Cuts
from noise2music.train.dataset import Corpus
from noise2music.train.loader import Rows, open_batches, texts_of
from noise2music.train.step import diffusion_loss
from noise2music.unet1d import abstract_unet
from sound_files import small_folder, tone, write
from tolerances import EXCITATION_CUT

SUPER = dataclasses.replace(nano_config("super_resolution_cascader"), train_seconds=0.064)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    out = folder / "records"
    prepare([small_folder(folder / "songs")], out, seconds=1.0, shard_clips=7, progress=False)
    return out


def test_a_folder_of_wavs_becomes_a_training_step(prepared):
    batches = open_batches(prepared, SUPER, None, 4)
    unet = abstract_unet(SUPER.unet)
    unet.implementation = "reference"
    graph, abstract = nnx.split(unet)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape), a.dtype), abstract)

    @jax.jit
    def step(params, batch, key):
        def loss(p):
            return diffusion_loss(nnx.merge(graph, p), None, batch, key, SUPER, 0.1)

        value, grads = jax.value_and_grad(loss)(params)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.01 * g, grads)), value

    batch = jax.tree.map(jnp.asarray, next(batches))
    params, first = step(params, batch, jax.random.key(0))
    params, second = step(params, batch, jax.random.key(0))
    assert np.isfinite(first) and second < first


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Today's corpus folder, of the same songs."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i in range(8):
        write(folder / "audio" / f"{i}.flac", tone(1.0, 24_000, 220 * 2 ** (i / 4)))
        rows.append(
            {"id": i, "split": "validation" if i == 7 else "train", "audio": f"audio/{i}.flac",
             "seconds": 1.0, "captions": [f"tone {i}", f"a tone at {60 + i} BPM"]}
        )  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(params=["prepared", "corpus"])
def folder(request):
    return request.getfixturevalue(request.param)


TOKENIZER = train_tokenizer(["a tone at 60 BPM", "tone number 1", "tone, calm"], 512)


def short(stage):
    seconds = {"waveform_generator": 0.96, "spectrogram_generator": 0.96}.get(stage, 0.32)
    return dataclasses.replace(nano_config(stage), train_seconds=seconds)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("stage", STAGES)
def test_a_resume_gives_the_batches_that_would_have_come(folder, stage):
    config = short(stage)
    whole = open_batches(folder, config, TOKENIZER, 4, seed=3)
    first = [next(whole) for _ in range(2)]
    state = json.loads(json.dumps(whole.get_state()))
    assert len(json.dumps(state)) < 200
    rest = [next(whole) for _ in range(6)]  # across the end of an epoch
    other = open_batches(folder, config, TOKENIZER, 4, seed=3, threads=0)
    assert_equal(next(other), first[0])
    other.set_state(state)
    for batch in rest:
        assert_equal(next(other), batch)
    whole.close()
    assert_equal(next(whole), next(other))
    assert not np.array_equal(rest[0]["x"], first[0]["x"])
    whole.close()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batches_of_one(folder, count):
    config = short("waveform_cascader")
    one = open_batches(folder, config, TOKENIZER, 4, seed=1)
    many = [
        open_batches(folder, config, TOKENIZER, 4 // count, 1, index, count, threads=0)
        for index in range(count)
    ]
    for _ in range(3):
        parts = [next(batches) for batches in many]
        joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        assert_equal(joined, next(one))
    assert all(batches.get_state() == one.get_state() for batches in many)
    one.close()


def test_an_epoch_has_every_clip_once_in_an_order_of_its_own(prepared):
    clips = Prepared(prepared)
    first = {clips.column("audio3200", i).tobytes(): i for i in range(len(clips))}
    config = dataclasses.replace(short("waveform_generator"), train_seconds=1.0)
    batches = open_batches(prepared, config, TOKENIZER, 4, threads=0)
    orders = []
    for _ in range(2):
        rows = np.concatenate([next(batches)["x"] for _ in range(len(clips) // 4)])
        whole = np.round(rows[..., 0] * 32768).astype("<i2")
        orders.append([first[row.tobytes()] for row in whole])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(clips)))
    assert orders[0] != orders[1] and orders[0] != list(range(len(clips)))


def test_condition_and_target_are_cut_at_the_same_moment(folder):
    config = dataclasses.replace(SUPER, missing_band=())
    batch = next(open_batches(folder, config, None, 6, threads=0))
    assert batch["x"].shape == (6, 1536, 1) and batch["low"].shape == (6, 1024, 1)
    # Tones below 8 kHz: the 16 kHz cut is the 24 kHz cut seen at every 3/2 sample.
    grid = np.arange(30, 990)
    for x, low in zip(batch["x"][..., 0], batch["low"][..., 0], strict=True):
        np.testing.assert_allclose(np.interp(grid * 1.5, np.arange(1536), x), low[grid], atol=0.02)


def test_the_excitation_of_a_cut_is_the_cut_of_the_excitation(prepared):
    config = short("spectrogram_vocoder")
    clips = Prepared(prepared)
    rows = Rows(clips, config, None)
    whole = flatten(clips.column("audio16000", 2) / np.float32(32768), clips.column("mel", 2))
    starts = set()
    for seed in range(40):  # both ends of the clip are among them
        start = int(np.random.default_rng(seed).integers(rows.cuts.places)) * rows.cuts.unit
        row = rows(2, np.random.default_rng(seed))
        expected = whole[start : start + rows.cuts.length]
        np.testing.assert_allclose(row["x"][:, 0], expected, atol=EXCITATION_CUT)
        np.testing.assert_array_equal(
            row["aligned"], clips.column("mel", 2)[start // 160 :][: len(row["aligned"])]
        )
        starts.add(start)
    assert min(starts) < 1120 and max(starts) + rows.cuts.length > 16_000 - 1120


def test_every_element_of_the_text_batch_is_drawn_alike(prepared):
    rows = Rows(Prepared(prepared), short("waveform_generator"), TOKENIZER)
    drawn = [rows(0, np.random.default_rng(i)) for i in range(300)]
    texts = [TOKENIZER.decode(row["tokens"]) for row in drawn]
    assert set(texts) == {"a tone at 60 bpm", "tone number 0", "tone, calm"}
    assert all(70 < texts.count(text) < 130 for text in set(texts))
    for row, text in zip(drawn, texts, strict=True):
        assert row["beat"] == (1.0 if "bpm" in text else 0.0)
        assert row["mask"].sum() == (row["tokens"] != 0).sum()


def test_texts_of_either_folder(prepared, corpus):
    assert sorted(set(texts_of(prepared, "validation"))) == sorted(
        ["a tone at 110 BPM", "tone number 5", "tone", "calm"]
    )
    assert list(texts_of(corpus, "validation")) == ["tone 7", "a tone at 67 BPM"]


def test_cuts_fit_into_their_clips():
    for seconds in (1, 2, 12):
        for stage in STAGES:
            cuts = Cuts.of(short(stage), seconds)
            config = short(stage)
            last = (cuts.places - 1) * cuts.unit
            assert last + cuts.length <= seconds * config.rate
            assert cuts.length % config.unet.compression == 0
    with pytest.raises(ValueError, match="clips must be at least 0.04 s .* got 0.02 s"):
        Cuts.of(nano_config("spectrogram_generator"), 0.02)


def test_what_cannot_be_read_is_refused(prepared, corpus, tmp_path):
    with pytest.raises(ValueError, match="manifest.jsonl, found none"):
        open_batches(tmp_path, SUPER, None, 4)
    with pytest.raises(ValueError, match="clips of split 'test', it has train, validation"):
        open_batches(prepared, SUPER, None, 4, split="test")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        open_batches(prepared, SUPER, None, 0)
    with pytest.raises(ValueError, match=r"process_index must be in \[0, 2\), got 2"):
        open_batches(prepared, SUPER, None, 4, 0, 2, 2)
    odd = dataclasses.replace(SUPER, rate=48_000, condition_rate=24_000)
    with pytest.raises(ValueError, match="at one of 24000, 16000, 3200 Hz, got 48000"):
        open_batches(prepared, odd, None, 4)
    batches = open_batches(prepared, SUPER, None, 4)
    with pytest.raises(ValueError, match="clips .*, now .*; seed|seed 5, now 0"):
        batches.set_state(open_batches(corpus, SUPER, None, 4, seed=5).get_state())


def test_a_run_may_go_on_with_another_batch_size(prepared):
    config = short("waveform_generator")
    fours = open_batches(prepared, config, TOKENIZER, 4, threads=0)
    twos = open_batches(prepared, config, TOKENIZER, 2, threads=0)
    next(fours)
    twos.set_state(fours.get_state())
    halves = [next(twos) for _ in range(2)]
    joined = {k: np.concatenate([h[k] for h in halves]) for k in halves[0]}
    assert_equal(joined, next(fours))
    assert twos.get_state() == fours.get_state()


def test_a_corpus_says_what_it_has(corpus):
    clips = Corpus(corpus)
    assert len(clips) == 7 and clips.meta(0)["captions"][0] == "tone 0"
    assert clips.column("mel", 0).shape == (100, 80)
    assert clips.column("audio3200", 6).shape == (3200,)
