"""The joint model: its loss, what its tower hears, a training that learns and outlives a kill."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from noise2music import weights
from noise2music.cli import main
from noise2music.evaluate.encoders import load_encoder
from noise2music.evaluate.encoders.protocol import JointEncoder, unit_rows
from noise2music.joint.features import features
from noise2music.joint.options import JointOptions, read_joint_config
from noise2music.joint.pairs import Pairs
from noise2music.joint.released import shipped
from noise2music.joint.towers import JointConfig, contrastive_loss
from noise2music.joint.train import augment, train_joint
from noise2music.text.released import load_text_encoder, save_text_encoder
from noise2music.text.t5 import T5Config, T5Encoder
from noise2music.text.tokenizer import train_tokenizer
from noise2music.train.checkpoint import ForeignRunError
from noise2music.train.dataset import Corpus
from noise2music.train.insight import read_log

RATE = 24_000
NAMES = ["organ", "flute", "piano", "choir", "brass", "harp", "drum", "synth"]
SMALL = JointConfig(
    window=2,
    dim=16,
    token_length=12,
    pitch_channels=(4, 8, 4),
    pitch_hidden=16,
    rhythm_channels=(4, 2),
    rhythm_hidden=8,
    hidden=32,
    text_hidden=32,
    dropout=0.0,
    text=T5Config(vocab_size=512, d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=1),
)


def write_corpus(folder, clips=10, seconds=2.0):
    """Chords of two tones that change with the clip, each with two captions of its own name."""
    (folder / "audio").mkdir(parents=True)
    t = np.arange(round(seconds * RATE)) / RATE
    rows = []
    for i in range(clips):
        low, high = 220 * 2 ** (i / 6), 660 * 2 ** (i / 6)
        gate = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * (1 + i / 4) * t))
        sound = 0.3 * gate * (np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t))
        soundfile.write(folder / "audio" / f"{i}.flac", sound, RATE)
        name = NAMES[i % 8]
        rows.append(
            {"id": i, "split": "train" if i < 8 else "validation", "audio": f"audio/{i}.flac",
             "seconds": seconds, "captions": [name, f"a piece for {name}"]}
        )  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, compiled_once):
    """The corpus; beside it, in text/, an untrained text encoder."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "text").mkdir()
    state = nnx.split(T5Encoder(SMALL.text, rngs=nnx.Rngs(1)))[1]
    save_text_encoder(folder / "text", state, SMALL.text, train_tokenizer(NAMES, 512))
    return write_corpus(folder / "corpus")


def options(corpus, run, **changes):
    values = {"steps": 40, "batch_size": 8, "peak_lr": 5e-3, "warmup": 2, "ema_decay": 0.8}
    values |= {"log_every": 5, "validate_every": 20, "checkpoint_every": 4}
    values |= {"text_encoder": str(Path(corpus).parent / "text")}
    return JointOptions(corpus=str(corpus), run=str(run), **values | changes)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The folder of a run that no one disturbed."""
    run = tmp_path_factory.mktemp("joint") / "whole"
    train_joint(options(corpus, run), SMALL)
    return run


def tensors(run):
    with weights._open(run / "joint.safetensors") as f:
        return {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118


def logged(run):
    """The log without what a clock says."""
    return [{k: v for k, v in row.items() if k != "time"} for row in read_log(run / "log.jsonl")]


def click_track(hz, seconds=10.0):
    clicks = np.zeros(round(seconds * 16_000), np.float32)
    for start in np.arange(0, seconds, 1 / hz):
        clicks[round(start * 16_000) :][:160] = np.sin(np.arange(160) * 0.7)[: len(clicks)]
    return 0.5 * clicks


def test_the_loss_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 3))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    s = np.exp(1.5) * a @ b.T
    p = np.exp(s)
    rows, columns = p / p.sum(1, keepdims=True), p / p.sum(0, keepdims=True)
    by_hand = -0.5 * np.mean(np.log(np.diag(rows)) + np.log(np.diag(columns)))
    loss = contrastive_loss(jnp.asarray(a), jnp.asarray(b), jnp.float32(1.5))
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_all_alike_is_the_logarithm_of_the_batch():
    same = jnp.ones((6, 4)) / 2
    assert float(contrastive_loss(same, same, jnp.float32(3.0))) == pytest.approx(np.log(6))


@pytest.mark.parametrize("hz", [220.0, 880.0, 3520.0])
def test_a_tone_stands_at_its_half_semitone(hz):
    t = np.arange(16_000) / 16_000
    profile = features(0.5 * np.sin(2 * np.pi * hz * t)).pitch[0, :, 0]
    assert abs(int(profile.argmax()) - 24 * np.log2(hz / 55.0)) <= 1


@pytest.mark.parametrize("hz", [1.0, 2.0, 3.0])
def test_the_beat_of_clicks_is_heard(hz):
    spectrum = features(click_track(hz)).rhythm.mean(-1)
    beat = round(14 * np.log2(hz / 0.4))
    half = round(14 * np.log2(hz / 0.8)) if hz > 1 else 0
    assert spectrum[beat - 1 : beat + 2].max() > 5 * spectrum[half]


def test_it_learns(trained):
    log = read_log(trained / "log.jsonl")
    assert [row["step"] for row in log] == list(range(5, 41, 5))
    assert log[0]["loss"] > 1.5  # log 8 is 2.08
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert np.isfinite(log[-1]["validation_loss"])


CHILD = """
import json, sys
from test_joint import SMALL, options
from noise2music.joint.train import train_joint
train_joint(options(sys.argv[1], sys.argv[2]), SMALL)
"""


def test_a_killed_run_ends_as_if_it_had_not_been(corpus, trained, tmp_path, compiled_once):
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{CHILD}", corpus, run],
        stderr=subprocess.DEVNULL,
        env=compiled_once,
    )
    while child.poll() is None and not (run / "checkpoints" / "8").exists():
        time.sleep(0.002)
    child.kill()
    assert child.wait() != 0, "the run was over before it could be killed"
    train_joint(options(corpus, run), SMALL)
    whole, killed = tensors(trained), tensors(run)
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(tensor, killed[name])
    assert logged(run) == logged(trained)


def test_a_folder_of_another_run_is_refused(corpus, trained):
    with pytest.raises(ForeignRunError, match="batch_size is 8 there and 4 here"):
        train_joint(options(corpus, trained, batch_size=4), SMALL)


def test_a_frozen_text_encoder_stays_as_it_is(corpus, trained):
    exported = tensors(trained)
    given = load_text_encoder(corpus.parent / "text")[1]
    for name, tensor in weights.flatten(nnx.split(given)[1]).items():
        np.testing.assert_array_equal(exported[f"text.{name}"], np.asarray(tensor, np.float16))


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_a_text_encoder_is_trained_along(corpus, tmp_path, given):
    text = str(corpus.parent / "text")
    change = {"text_encoder": None, "text_init": text if given else None}
    train_joint(options(corpus, tmp_path / "run", **change), SMALL)
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    before = weights.flatten(nnx.split(load_text_encoder(corpus.parent / "text")[1])[1])
    after = tensors(tmp_path / "run")
    assert any((after[f"text.{n}"] != np.asarray(a, np.float16)).any() for n, a in before.items())


def test_what_was_trained_is_an_encoder_that_finds_its_clips(corpus, trained):
    encoder = load_encoder(f"joint:{trained}")
    assert isinstance(encoder, JointEncoder)
    rng = np.random.default_rng(0)
    sound = 0.1 * rng.standard_normal(5 * 16_000).astype(np.float32)
    heard = encoder.embed(sound)
    assert heard.shape == (2, 16) and heard.dtype == np.float32
    np.testing.assert_array_equal(heard[1:], encoder.embed(sound[32_000:]))
    alone, together = encoder.embed_text(["flute"]), encoder.embed_text(["a", "flute", ""])
    np.testing.assert_array_equal(alone[0], together[1])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    clips = Corpus(corpus)
    heard = np.concatenate(
        [encoder.embed(clips.column("audio16000", i) / np.float32(32768)) for i in range(8)]
    )
    cosines = heard @ encoder.embed_text(NAMES).T
    assert (cosines.argmax(axis=1) == np.arange(8)).mean() >= 0.75


def test_it_ends_on_the_unit_sphere_even_for_silence(trained):
    encoder = load_encoder(f"joint:{trained}")
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    for sound in (np.zeros(32_000), noise, np.ones(32_000)):
        assert np.linalg.norm(encoder.embed(sound.astype(np.float32))) == pytest.approx(1, rel=1e-5)


def test_a_masked_window_is_silent_in_a_band_and_a_moment_only():
    pitch = jnp.ones((6, 10, 168, 4))
    masked = np.asarray(augment(pitch, jax.random.key(1)))
    silent = (masked == np.array([-1, -1, -1, 0])).all(-1)
    assert (silent | (masked == 1).all(-1)).all()
    assert silent.any() and silent.all(axis=2).sum(axis=1).max() <= 2
    assert silent.all(axis=1).sum(axis=1).max() <= 24


def test_batches_are_a_function_of_the_step(corpus, tmp_path):
    pairs = Pairs(Corpus(corpus), SMALL, tmp_path)
    first = [pairs.draw(step, 4, seed=1) for step in range(4)]
    again = pairs.draw(2, 4, seed=1)
    np.testing.assert_array_equal(first[2][0].rhythm, again[0].rhythm)
    np.testing.assert_array_equal(first[2][1], again[1])
    clips = [np.searchsorted(pairs.first, texts, side="right") - 1 for _, texts in first]
    for epoch in (0, 1):  # every clip once an epoch
        assert sorted(np.concatenate(clips[2 * epoch : 2 * epoch + 2])) == list(range(8))
    for (heard, _), which in zip(first, clips, strict=True):
        np.testing.assert_array_equal(heard.pitch, pairs.heard.pitch[which, 0])


@pytest.mark.parametrize(
    "change,match",
    [
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"peak_lr": float("nan")}, "peak_lr must be positive"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"text_init": "b"}, "got both"),
    ],
)
def test_bad_options_are_refused(corpus, tmp_path, change, match):
    with pytest.raises(ValueError, match=f"n2m.joint: .*{match}"):
        options(corpus, tmp_path, **change)


def test_bad_models_are_refused():
    for change, match in (
        ({"window": 0}, "window must be at least 1"),
        ({"pitch_channels": (4, 0, 4)}, "pitch_channels must be at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
    ):
        with pytest.raises(ValueError, match=match):
            dataclasses.replace(SMALL, **change)


def test_bad_corpora_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="at least a window of 10 s long, got 2 s"):
        train_joint(options(corpus, tmp_path / "a"))
    with pytest.raises(ValueError, match="at most the 8 clips that have a text, got 9"):
        train_joint(options(corpus, tmp_path / "b", batch_size=9), SMALL)
    with pytest.raises(ValueError, match="text_encoder must be a folder with"):
        train_joint(options(corpus, tmp_path / "c", text_encoder="nowhere"), SMALL)
    silent = write_corpus(tmp_path / "silent", clips=2)
    lines = (silent / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"captions": []} for line in lines]
    (silent / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="the clips must have captions"):
        train_joint(options(silent, tmp_path / "d"), SMALL)


def test_from_the_command_line(corpus, tmp_path, capfd):
    file, run = tmp_path / "config.json", tmp_path / "run"
    values = dataclasses.asdict(options(corpus, run)) | {"model": dataclasses.asdict(SMALL)}
    file.write_text(json.dumps({k: v for k, v in values.items() if k not in ("corpus", "run")}))
    command = ["train", "joint", "--config", str(file), "--corpus", str(corpus)]
    assert main([*command, "--run", str(run), "--log-every", "20"]) == 0
    assert "loss" in capfd.readouterr().out
    assert [row["step"] for row in read_log(run / "log.jsonl")] == [20, 40]
    file.write_text(json.dumps({"step": 2}))
    assert main([*command, "--run", str(run)]) == 2
    assert "no option 'step' (did you mean 'steps'?)" in capfd.readouterr().err


def test_the_shipped_recipe_is_read():
    values, model = read_joint_config("tiny")
    assert JointOptions(corpus="c", run="r", **values).text_encoder == "tiny"
    assert model == JointConfig()


def test_the_shipped_model_tells_a_fast_bass_from_a_slow_treble():
    """A sound that no training had: plucked saw waves, low and quick or high and slow."""
    encoder = load_encoder("joint")
    assert sum(p.stat().st_size for p in shipped().iterdir()) < 3.2e6
    assert (encoder.sample_rate, encoder.window, encoder.dim) == (16_000, 10.0, 128)
    assert isinstance(encoder, JointEncoder)

    def plucked(hz, rate):
        t = np.arange(160_000) / 16_000
        decay = np.exp(-8 * (t % (1 / rate)))
        return (0.2 * decay * (2 * ((hz * t) % 1) - 1)).astype(np.float32)

    heard = unit_rows([encoder.embed(plucked(*how))[0] for how in ((82.4, 5.0), (1318.5, 1.1))])
    texts = ["fast guitar in a low register", "slow flute in a high register"]
    cosines = heard @ unit_rows(encoder.embed_text(texts)).T
    assert (cosines.argmax(axis=1) == [0, 1]).all()
    read = unit_rows(encoder.embed_text(["slow organ hymn", "church organ chorale", "rock, loud"]))
    assert read[0] @ read[1] > read[0] @ read[2]
