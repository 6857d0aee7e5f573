"""Configs: the paper's numbers, round trips, refusals."""

import json
from importlib import resources

import pytest
from noise2music.config import STAGES, StageConfig, UNetConfig, from_dict, load_preset, to_dict


@pytest.mark.parametrize("name", [p + s for p in ("", "tiny_") for s in STAGES])
def test_presets_round_trip(name):
    config = load_preset(name)
    assert from_dict(StageConfig, to_dict(config)) == config
    assert config.name == name.removeprefix("tiny_")


@pytest.mark.parametrize("stage", STAGES)
def test_tiny_has_the_structure_of_the_paper(stage):
    full, tiny = load_preset(stage), load_preset(f"tiny_{stage}")
    same = (
        "strides",
        "kernel_size",
        "self_attention",
        "cross_attention",
        "aligned_channels",
        "stacked_channels",
    )
    assert all(getattr(full.unet, f) == getattr(tiny.unet, f) for f in same)
    same = ("target", "rate", "condition", "condition_rate", "noise_schedule")
    assert all(getattr(full, f) == getattr(tiny, f) for f in same)


def test_default_lengths_of_the_paper_are_legal():
    lengths = {s: round(29.44 * load_preset(s).rate) for s in STAGES}
    assert lengths["waveform_generator"] == 94_208
    assert lengths["super_resolution_cascader"] == 706_560
    for stage, length in lengths.items():
        want = 2_976 if stage == "spectrogram_generator" else length
        assert load_preset(stage).legal_length(length) == want
    assert load_preset("waveform_generator").legal_length(0) == 4096


def test_up_sampling_ratios():
    assert load_preset("waveform_cascader").up == (5, 1)
    assert load_preset("super_resolution_cascader").up == (3, 2)
    with pytest.raises(ValueError, match="no stacked condition"):
        _ = load_preset("waveform_generator").up


def _stage():
    path = resources.files("noise2music") / "presets" / "spectrogram_vocoder.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "change,match",
    [
        ({"gama": 0.0}, "no option 'gama' .did you mean 'gamma'"),
        ({"gamma": "much"}, "gamma must be of type float, got 'much'"),
        ({"noise_schedule": "quadratic"}, "noise_schedule must be one of .*got 'quadratic'"),
        ({"denoising": [[0.5, 10, 1]]}, "must have 2 entries"),
        ({"denoising": 3}, "must be a list"),
        ({"unet": 7}, "must be an object"),
    ],
)
def test_bad_values_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        from_dict(StageConfig, _stage() | change)


def test_missing_values_are_named():
    values = _stage()
    del values["rate"], values["gamma"]
    with pytest.raises(ValueError, match="lacks rate, gamma"):
        from_dict(StageConfig, values)


def test_inconsistent_networks_are_refused():
    good = to_dict(load_preset("tiny_spectrogram_vocoder"))["unet"]
    with pytest.raises(ValueError, match="blocks must have one entry a depth"):
        from_dict(UNetConfig, good | {"blocks": [1, 2]})
    with pytest.raises(ValueError, match="multiple of norm_groups = 7, got"):
        from_dict(UNetConfig, good | {"norm_groups": 7})


def test_unknown_preset_suggests():
    with pytest.raises(ValueError, match="did you mean 'tiny_spectrogram_vocoder'"):
        load_preset("tiny_spectrogram_vocorder")


@pytest.mark.parametrize(
    ("stage", "smoothing"),
    [("spectrogram_generator", 3), ("spectrogram_generator", -2), ("waveform_generator", 4)],
)
def test_only_a_spectrogram_is_smoothed_and_by_an_even_order(stage, smoothing):
    values = to_dict(load_preset(f"tiny_{stage}"))
    with pytest.raises(ValueError, match="smoothing must be 0, or even"):
        from_dict(StageConfig, values | {"smoothing": smoothing})
