"""The band that a condition lacks: flat at any loudness, there and back, in stage and data."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
from nano import nano_config, nano_stage
from noise2music import missing_band
from noise2music.config import StageConfig, from_dict, load_preset, to_dict
from noise2music.data.prepare import prepare
from noise2music.data.prepare.records import Prepared
from noise2music.train.loader import Rows
from sound_files import write
from tolerances import MISSING_BAND_BACK, MISSING_BAND_CUT

CASCADERS = ("waveform_cascader", "super_resolution_cascader")


def music(rate: int, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Plucks with harmonics up to the Nyquist frequency, 12 dB an octave down, and hiss."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    x = 1e-5 * rng.standard_normal(len(t))
    for start in np.arange(0.1, seconds, 0.15):
        hz, s = rng.uniform(100, 500), np.maximum(t - start, 0.0)
        harmonics = np.arange(1, int(0.49 * rate / hz))[:, None]
        note = (np.sin(2 * np.pi * hz * harmonics * s) / harmonics**2).sum(0)
        x += 0.2 * note * np.exp(-8.0 * s) * (s > 0)
    return x.astype(np.float32)


def pair(config, **options):
    """x (T,), c (T',) and U c (T,) of the same music."""
    x = music(config.rate, **options)
    up, down = config.up
    c = scipy.signal.resample(x, len(x) * down // up).astype(np.float32)
    return x, c, scipy.signal.resample(c, len(x)).astype(np.float32)


def decibels(part, whole):
    return 10 * np.log10(np.mean(np.square(part)) / np.mean(np.square(whole)))


@pytest.mark.parametrize("name", CASCADERS)
def test_there_and_back(name):
    config = load_preset(f"tiny_{name}")
    x, c, up = pair(config)
    _, level = missing_band.levelled(c, config)
    r = missing_band.extract(x, up, level, config)
    back = missing_band.complete(r, up, level, config)
    assert back.dtype == r.dtype == np.float32
    # What is lost lies just below the condition's Nyquist frequency, where the equaliser rises.
    assert decibels(back - x, x - up) < MISSING_BAND_BACK


@pytest.mark.parametrize("name", CASCADERS)
def test_loudness_is_gone(name):
    config = load_preset(f"tiny_{name}")
    x, c, up = (100.0 * s for s in pair(config))
    shown, level = missing_band.levelled(c, config)
    quiet_shown, quiet_level = missing_band.levelled(0.1 * c, config)
    r = missing_band.extract(x, up, level, config)
    quiet = missing_band.extract(0.1 * x, 0.1 * up, quiet_level, config)
    loud = quiet_level > 5 * missing_band.FLOOR
    assert loud.mean() > 0.3
    assert decibels((quiet - r)[loud], r[loud]) < -25
    assert 0.7 < shown.std() < 1.1 and 0.6 < quiet_shown.std() < 1.1


@pytest.mark.parametrize("name", CASCADERS)
def test_what_a_stage_adds_stays_above_the_condition(name):
    stage = nano_stage(name)
    _, c, up = pair(stage.config, seconds=1.0)
    made = stage.sample(len(up), np.arange(1), seed=0, condition=c[None, :, None])[0, :, 0]
    added = np.abs(np.fft.rfft(made - up * np.dot(made, up) / np.dot(up, up))) ** 2
    hz = np.fft.rfftfreq(len(up), 1 / stage.config.rate)
    below = hz < 0.8 * stage.config.condition_rate / 2
    assert added[~below].sum() > 1e3 * added[below].sum()


def test_silence_stays_silence():
    config = load_preset("tiny_super_resolution_cascader")
    c = np.zeros(3200, np.float32)
    shown, level = missing_band.levelled(c, config)
    assert not shown.any() and np.allclose(level, missing_band.FLOOR)


@pytest.mark.parametrize("samples", [2, 3, 320])
def test_the_shortest_conditions(samples):
    config = load_preset("tiny_waveform_cascader")
    shown, level = missing_band.levelled(np.ones(samples, np.float32), config)
    r = np.ones(5 * samples, np.float32)
    out = missing_band.complete(r, r, level, config)
    assert shown.shape == (samples,) and out.shape == r.shape and np.isfinite(out).all()


@pytest.mark.parametrize("name", CASCADERS)
def test_a_snippet_is_a_cut_of_the_whole_clip(name, tmp_path):
    (tmp_path / "songs").mkdir()
    write(tmp_path / "songs" / "a.wav", music(24_000, 3.0), 24_000)
    prepare([tmp_path / "songs"], tmp_path / "out", seconds=3.0, progress=False)
    clips = Prepared(tmp_path / "out", "train")
    config = dataclasses.replace(
        nano_config(name), train_seconds=0.512, unet=without_text(nano_config(name).unet)
    )
    rows = Rows(clips, config, None)
    whole = dataclasses.replace(config, train_seconds=3.0)
    reference = Rows(clips, whole, None)(0, np.random.default_rng(0))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        start = int(np.random.default_rng(seed).integers(rows.cuts.places)) * rows.cuts.unit
        row = rows(0, rng)
        up, down = config.up
        x = reference["x"][start:][: len(row["x"])]
        low = reference["low"][start // up * down :][: len(row["low"])]
        edge = start < 0.2 * config.rate or start > 2.2 * config.rate  # the clip's own are faded
        if not edge:
            assert decibels(row["x"] - x, x) < MISSING_BAND_CUT
            assert decibels(row["low"] - low, low) < MISSING_BAND_CUT


def without_text(unet):
    depth = unet.depth
    return dataclasses.replace(unet, cross_attention=(False,) * depth)


@pytest.mark.parametrize(
    "points", [((100.0, -20.0),), ((100.0, -20.0), (100.0, -30.0)), ((200.0, 0.0), (100.0, 0.0))]
)
def test_points_must_grow(points):
    config = to_dict(load_preset("tiny_waveform_cascader")) | {"missing_band": points}
    with pytest.raises(ValueError, match="missing_band must be two or more points"):
        from_dict(StageConfig, config)


def test_only_a_stage_with_a_stacked_condition_has_a_missing_band():
    config = to_dict(load_preset("tiny_waveform_generator"))
    with pytest.raises(ValueError, match="with a stacked condition"):
        from_dict(StageConfig, config | {"missing_band": ((0.0, 0.0), (100.0, -20.0))})
