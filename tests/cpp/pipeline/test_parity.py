"""The C++ pipeline computes what JAX computes: parts, networks, trajectories, the clip."""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from noise2music import excitation, mel, sampling, weights
from noise2music.cascade import Pipeline
from noise2music.config import STAGES, load_preset
from noise2music.stage import Stage, Text
from noise2music.text.released import load_text_encoder
from noise2music.text.t5 import T5Config, T5Encoder
from noise2music.text.tempo import stated_tempo
from parity import TINY, Probe, build_probe, call_jax, inputs, narrow, random_unet, relative
from tolerances import CPP, CPP_BFLOAT16, CPP_EXCITATION, CPP_WAV_DB

pytestmark = pytest.mark.cpp

PROMPTS = [
    "", "slow church organ chorale in D minor", "Fast ROCK band, 128 BPM (with drums)!",
    "a  piece\tat 96.5 beats per minute", "tempo: 80", "999 bpm 80", "999 bpm, then 80 bpm",
    "techno—128bpm", "bpm 1234", "tempo120 x", "at 40 - bpm", "100 beats / min", "7 bpm",
    "Größe ΣΟΦΟΣ İstanbul ﬁne ① ½ Ⅷ", "日本の音楽、太鼓",
    "e\u0301 \u1112\u1161\u11ab q\u0307\u0323",
    "🎹 piano\u00a0solo\u3000x", "</s> <pad> <0x41> ▁a", "3/4 waltz 12th c.",
    "\ufb03\u2126K \u0958",
]  # fmt: skip


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return Probe(build_probe(folder), folder)


@pytest.mark.parametrize("seed, clip, stage, step, n", [(0, 0, 2, 0, 1001), (7, 3, 0, 5, 40000)])
def test_noise(probe, seed, clip, stage, step, n):
    got = probe("noise", contract=[seed, clip, stage, step, n])["z"]
    key = sampling.clip_keys(seed, jnp.array([clip], jnp.uint32), stage)[0]
    want = np.asarray(jax.random.normal(jax.random.fold_in(key, step), (n,)))
    np.testing.assert_allclose(got, want, **CPP["noise"])


def test_tokens_and_tempo(probe):
    texts = {str(i): np.frombuffer(p.encode(), np.uint8) for i, p in enumerate(PROMPTS)}
    got = probe("tokens", TINY / "tokenizer.json", **texts)
    tokenizer, _ = load_text_encoder(TINY)
    for i, prompt in enumerate(PROMPTS):
        tokens, mask, _ = tokenizer.encode([prompt], 4096)
        assert got[f"ids {i}"].astype(int).tolist() == tokens[0][mask[0]].tolist(), prompt
        assert got[f"tempo {i}"][0] == np.float32(stated_tempo(prompt)), prompt


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_t5(probe, feed_forward, tmp_path):
    config = T5Config(
        vocab_size=50, d_model=40, d_kv=12, num_heads=3, d_ff=72, num_layers=2,
        feed_forward=feed_forward,
    )  # fmt: skip
    encoder = T5Encoder(config, rngs=nnx.Rngs(1))
    path = tmp_path / "t5.safetensors"
    state = nnx.split(encoder)[1]
    weights.save_state(path, state, vars(config), np.float32)
    tokens = np.random.default_rng(2).integers(0, 50, 33)
    want = encoder(jnp.asarray(tokens)[None], jnp.ones((1, 33), bool))[0]
    assert relative(probe("t5", path, tokens=tokens)["y"], want) < CPP["value"]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", STAGES)
def test_every_preset_at_reduced_width(probe, name, frames, tmp_path):
    config, path = narrow(name), tmp_path / "stage.safetensors"
    unet = random_unet(config, path)
    arrays = inputs(config, frames)
    got = probe("unet", path, t=[0.37], **arrays)["y"]
    assert relative(got, call_jax(unet, arrays, 0.37)()) < CPP["value"]


@pytest.mark.parametrize("name", ["tiny_waveform_generator", "tiny_spectrogram_vocoder"])
def test_clock_text_film_and_bfloat16(probe, name, tmp_path):
    config, path = load_preset(name), tmp_path / "stage.safetensors"
    unet = random_unet(config, path, np.float16)
    arrays = inputs(config, 2)
    want = call_jax(unet, arrays, 0.8)()
    assert relative(probe("unet", path, t=[0.8], **arrays)["y"], want) < CPP["value"]
    assert relative(probe("unet_bf16", path, t=[0.8], **arrays)["y"], want) < CPP_BFLOAT16


def test_int8_weights(probe, tmp_path):
    """A file of int8 weights is the same network in both."""
    config, path = load_preset("tiny_waveform_generator"), tmp_path / "stage.safetensors"
    unet = random_unet(config, path, np.int8)
    arrays = inputs(config, 2)
    got = probe("unet", path, t=[0.6], **arrays)["y"]
    assert relative(got, call_jax(unet, arrays, 0.6)()) < CPP["value"]


def test_excitation(probe):
    draw = np.random.default_rng(4)
    samples = draw.standard_normal(160 * 37).astype(np.float32)
    spectrogram = mel.log_mel(0.3 * np.sin(np.cumsum(draw.uniform(0.1, 0.2, 160 * 37))))
    got = probe("excitation", samples=samples, mel=spectrogram)
    spectra = excitation._stft(samples)
    assert relative(got["magnitudes"], excitation.magnitudes(spectrogram)) < CPP["value"]
    assert relative(got["re"], spectra.real) < CPP["value"]
    assert relative(got["im"], spectra.imag) < CPP["value"]
    assert relative(got["back"], samples) < CPP["value"]
    assert relative(got["low_pass"], mel.low_pass_in_time(spectrogram[None], 4)[0]) < CPP["value"]
    assert relative(got["shaped"], excitation.shape(samples, spectrogram)) < CPP_EXCITATION


@pytest.mark.parametrize("name", STAGES)
def test_trajectory(probe, name):
    """Every step of a released stage, from its noise to its target."""
    stage = Stage.load(TINY / f"{name}.safetensors")
    config = stage.config
    draw = np.random.default_rng(9)
    length, arrays, condition = 4 * 160, {}, None
    if config.condition == "aligned":
        condition = mel.log_mel(draw.uniform(-0.5, 0.5, length))
    elif config.condition == "stacked":
        condition = draw.uniform(-0.3, 0.3, (length, 1)).astype(np.float32)
        length = length * config.up[0] // config.up[1]
    text = None
    if config.unet.has_text:
        states = draw.standard_normal((1, 5, config.unet.text_dim)).astype(np.float32)
        text = Text(
            states, np.ones((1, 5), bool), np.ones(1, np.float32), np.full(1, 1.5, np.float32)
        )
        arrays = {"text": np.repeat(states, 2, 0), "tokens": [5, 0], "beat": [1.5, 0]}
    if condition is not None:
        arrays["condition"] = condition
    got = probe("stage", TINY / f"{name}.safetensors", contract=[11, 2, length], **arrays)
    table = stage.coefficients()
    want = np.concatenate([table.t[:, None], table.step, table.c_p[:, None]], axis=1)
    np.testing.assert_allclose(got["steps"], want, **CPP["coefficients"])
    made = stage.sample(
        length, np.array([2]), seed=11, text=text,
        condition=None if condition is None else condition[None],
    )[0]  # fmt: skip
    limit = CPP_EXCITATION if config.excitation else CPP["value"]
    assert relative(got["y"], made) < limit


@pytest.mark.parametrize("route", ["spectrogram", "waveform"])
def test_generate_makes_the_clip_of_the_python_program(route, tmp_path, program):
    """Same prompt, same seed: the files differ by less than -60 dB, and so does a replay."""
    prompt = "fast rock band at 120 bpm"
    path = tmp_path / "cpp.wav"
    command = [
        program,
        "generate",
        "-m",
        TINY,
        prompt,
        "-o",
        path,
        "--seconds",
        "1.5",
        "--seed",
        "3",
    ]
    command += ["--route", route]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    clip = Pipeline(TINY)(prompt, seconds=1.5, seed=3, route=route)
    clip.save(tmp_path / "python.wav")
    got, rate = soundfile.read(path)
    want, want_rate = soundfile.read(tmp_path / "python.wav")
    assert (rate, got.shape) == (want_rate, want.shape)
    assert 10 * np.log10(np.square(got - want).sum() / np.square(want).sum()) < CPP_WAV_DB

    from noise2music.audio import read_metadata

    stored = read_metadata(path)
    expected = json.loads(json.dumps({**clip.metadata, "bits": 16, "normalize": False}))
    expected["model"] = stored["model"]
    assert stored == expected
