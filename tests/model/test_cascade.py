"""The cascade: the seed contract, both routes, lengths, guards, single stages."""

import itertools

import noise2music
import numpy as np
import pytest
from draws import numpy_draws
from nano import nano_model, nano_stage
from noise2music.cascade import Pipeline, load
from noise2music.errors import OutputError, UserError
from noise2music.model_folder import init_model_folder
from noise2music.stage import Sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return nano_model(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def pipe(folder):
    return load(folder)


def quiet_below(a, b, decibels):
    """Whether b differs from a by less than `decibels` of a's level."""
    noise = np.sqrt(np.square(a - b).mean()) + 1e-30
    return 20 * np.log10(noise / np.sqrt(np.square(a).mean())) < decibels


PROMPTS = ["slow organ", "fast drums", "", "a harpsichord waltz"]
SHORT = {"seconds": 0.4, "seed": 5, "guidance": 2.0}


@pytest.fixture(scope="module", params=["spectrogram", "waveform"])
def route(request):
    return request.param


@pytest.fixture(scope="module")
def four(pipe, route):
    return pipe(PROMPTS, route=route, **SHORT)


def test_repeat_and_restart_are_bit_equal(folder, pipe, route, four):
    again = pipe(PROMPTS, route=route, **SHORT)
    restarted = Pipeline(folder)(PROMPTS, route=route, **SHORT)
    for a, b, c in zip(four, again, restarted, strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)
        np.testing.assert_array_equal(a.samples, c.samples)


def test_alone_is_as_in_the_batch(pipe, route, four):
    alone = pipe(PROMPTS[3], route=route, index=3, **SHORT)
    assert quiet_below(four[3].samples, alone.samples, -60)
    assert not quiet_below(four[3].samples, four[1].samples, -60)


def test_four_devices_are_as_one(pipe, route, four):
    spread = pipe(PROMPTS, route=route, devices=4, **SHORT)
    for a, b in zip(four, spread, strict=True):
        assert quiet_below(a.samples, b.samples, -60)


def test_reference_is_as_the_kernels(folder, route, four):
    plain = load(folder, implementation="reference")(PROMPTS, route=route, **SHORT)
    for a, b in zip(four, plain, strict=True):
        assert quiet_below(a.samples, b.samples, -60)


def test_bfloat16_is_nearly_the_same_clip(folder, route, four):
    half = load(folder, dtype="bfloat16")(PROMPTS, route=route, **SHORT)
    for a, b in zip(four, half, strict=True):
        assert quiet_below(a.samples, b.samples, -10)
        assert not quiet_below(a.samples, b.samples, -100)
        assert b.metadata["dtype"] == "bfloat16"
    with pytest.raises(UserError, match="dtype"):
        load(folder, dtype="float16")


def test_stages_and_lengths(four, route):
    clip = four[0]
    assert len(clip) == 9600 and clip.sample_rate == 24_000 and clip.seconds == 0.4
    shapes = {name: data.shape for name, data in clip.stages.items()}
    if route == "spectrogram":
        assert shapes["spectrogram_generator"] == (40, 80)
        assert shapes["spectrogram_vocoder"] == (6400,)
    else:
        assert shapes["waveform_generator"] == (1280,)
        assert shapes["waveform_cascader"] == (6400,)
    assert np.isfinite(clip.samples).all()


def test_metadata_says_how_to_make_it_again(pipe, four, route):
    stored = four[1].metadata
    keys = (
        "seconds",
        "seed",
        "index",
        "route",
        "steps",
        "guidance",
        "sampler",
        "gamma",
        "negative",
        "denoising",
    )
    again = pipe(stored["prompt"], **{k: stored[k] for k in keys})
    assert stored["model_hash"] == pipe.model_hash
    assert quiet_below(four[1].samples, again.samples, -60)


def test_prompt_negative_and_seed_are_heard(pipe):
    base = pipe("slow organ", **SHORT).samples
    for change in (
        {"negative": "drums"},
        {"seed": 6},
        {"guidance": 20.0},
        {"denoising": "uniform"},
        {"denoising": {"spectrogram_generator": "uniform"}},
    ):
        assert not quiet_below(base, pipe("slow organ", **SHORT | change).samples, -60), change


def test_empty_prompt_is_the_unconditional_model(pipe):
    one = pipe("", seconds=0.4, guidance=1.0).samples
    five = pipe("", seconds=0.4, guidance=5.0).samples
    assert quiet_below(one, five, -60)


def test_batch_gives_different_clips(pipe):
    clips = pipe("slow organ", batch=4, **SHORT)
    for a, b in itertools.combinations(clips, 2):
        assert not quiet_below(a.samples, b.samples, -60)
    assert [c.metadata["index"] for c in clips] == [0, 1, 2, 3]


def test_progress_is_told_and_can_cancel(pipe):
    seen = []
    pipe("x", seconds=0.4, progress=lambda *a: seen.append(a))
    assert seen[0] == ("spectrogram_generator", 0, 3) and seen[-1][1] == seen[-1][2]

    class Stop(Exception):
        pass

    def cancel(stage, done, total):
        raise Stop

    with pytest.raises(Stop):
        pipe("x", seconds=0.4, progress=cancel)


@pytest.mark.parametrize(
    "stage,rate",
    [
        ("super_resolution_cascader", 24_000),
        ("waveform_cascader", 16_000),
        ("spectrogram_vocoder", 16_000),
    ],
)
def test_one_stage_alone(pipe, stage, rate):
    audio = 0.3 * np.sin(np.arange(17_640) * 0.05)  # as long as the clips above: nothing compiles
    clip = pipe.run_stage(stage, audio, 44_100, prompt="organ", seed=1)
    assert clip.sample_rate == rate and len(clip) == round(0.4 * rate)
    with pytest.raises(UserError, match="starts from text alone"):
        pipe.run_stage("waveform_generator", audio, 44_100)
    with pytest.raises(UserError, match=r"shape \(n,\)"):
        pipe.run_stage(stage, np.full(1000, np.nan), 44_100)


@pytest.mark.parametrize(
    "options,match",
    [
        ({"seconds": -1.0}, "seconds must be between"),
        ({"seconds": float("nan")}, "seconds must be between"),
        ({"route": "spectogram"}, "Did you mean 'spectrogram'"),
        ({"guidance": float("nan")}, "guidance"),
        ({"steps": 0}, "steps must be between 1"),
        ({"steps": {"vocoder": 3}}, "unknown stage"),
        ({"sampler": "euler"}, "sampler"),
        ({"gamma": 2.0}, "gamma"),
        ({"device": "gqu"}, "unknown device"),
        ({"device": "cpu:99"}, "must be cpu:0 to cpu:3"),
        ({"devices": 99}, "at most 4"),
        ({"seed": -1}, "seed must be between 0"),
    ],
)
def test_bad_arguments_teach(pipe, options, match):
    with pytest.raises(UserError, match=match):
        pipe("x", **options)


def test_models_that_are_not_there(tmp_path, folder):
    with pytest.raises(UserError, match="unknown model"):
        load("tinny")
    with pytest.raises(UserError, match="no model.json"):
        load(tmp_path)
    (tmp_path / "model.json").write_text('{"name": "x", "stages": ["spectrogram_vocoder"]}')
    with pytest.raises(UserError, match="lacks spectrogram_vocoder.safetensors"):
        load(tmp_path)
    whole = (folder / "spectrogram_vocoder.safetensors").read_bytes()
    (tmp_path / "spectrogram_vocoder.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="corrupt or truncated"):
        load(tmp_path).stage("spectrogram_vocoder")


def test_nan_is_an_error_that_names_stage_and_step():
    stage = nano_stage("super_resolution_cascader")
    condition = np.full((1, 6400, 1), np.nan, np.float32)
    with pytest.raises(
        OutputError, match="super_resolution_cascader made NaN or Inf at step 1 of 3"
    ):
        stage.sample(9600, np.array([0]), seed=0, condition=condition)


def test_silence_is_an_error():
    stage = nano_stage("super_resolution_cascader", data_scale=1e9)
    with pytest.raises(OutputError, match="silence"):
        stage.sample(384, np.array([0]), seed=0, condition=np.zeros((1, 256, 1), np.float32))


def test_a_loud_spectrogram_is_turned_down_not_clipped():
    stage = nano_stage("spectrogram_vocoder")
    loud, soft = (np.full((1, 40, 80), level, np.float32) for level in (1.0, 0.2))
    clips = np.array([0])
    out, quiet = (stage.sample(6400, clips, seed=0, condition=c)[0, :, 0] for c in (loud, soft))
    peak = np.abs(out).max()
    assert peak == pytest.approx(10.0 ** (-1.0 / 20.0), rel=1e-5)
    assert np.sum(np.abs(out) > 0.999 * peak) < 3  # one gain for the clip: no flat tops
    assert np.abs(quiet).max() < peak


def test_coefficients_take_a_named_schedule():
    stage = nano_stage("spectrogram_generator")
    named = stage.coefficients(Sampler(steps=10, denoising="uniform"))
    np.testing.assert_allclose(named.t, np.arange(10, 0, -1) / 10, rtol=1e-6)


def test_untrained_folder_is_a_whole_model(tmp_path):
    with numpy_draws():
        folder = init_model_folder(tmp_path, names=("super_resolution_cascader",))
    pipe = load(folder)
    assert pipe.routes == () and list(pipe.stages) == ["super_resolution_cascader"]
    assert noise2music.load is load
