"""Audio without its spectral envelope: unit variance, there and back, refusals."""

import numpy as np
import pytest
from noise2music.config import StageConfig, from_dict, load_preset, to_dict
from noise2music.excitation import envelope, flatten, shape
from noise2music.mel import RATE, log_mel


def tune(seconds: float = 2.0) -> np.ndarray:
    """Plucked harmonic notes over a little hiss, getting louder by 30 dB, float32 (n,)."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    x = 1e-3 * rng.standard_normal(len(t))
    for start, hz in zip(np.arange(0.0, seconds, 0.25), (220, 277, 330, 440) * 8, strict=False):
        s = np.maximum(t - start, 0.0)
        note = sum(np.sin(2 * np.pi * hz * k * s) / k for k in range(1, 12))
        x += 0.1 * note * np.exp(-6.0 * s) * (s > 0)
    return (x * 10 ** (1.5 * (t / seconds - 1))).astype(np.float32)


def test_excitation_has_unit_variance_whatever_the_level():
    x = tune()
    r = flatten(x, log_mel(x))
    quarters = r.reshape(4, -1).std(1)
    assert ((0.5 < quarters) & (quarters < 1.5)).all()
    assert x.reshape(4, -1).std(1).max() / x.reshape(4, -1).std(1).min() > 8


def test_shape_undoes_flatten():
    x = np.stack([tune(), tune()[::-1]])
    mel = log_mel(x)
    back = shape(flatten(x, mel), mel)
    error = np.square(back - x).sum(1) / np.square(x).sum(1)
    assert back.dtype == np.float32 and (10 * np.log10(error) < -15).all()


def test_shaped_noise_has_the_mel_spectrogram_it_was_given():
    x = tune()
    mel = log_mel(x)
    noise = np.random.default_rng(1).standard_normal(x.shape)
    heard = log_mel(shape(noise, mel))
    untouched = log_mel(0.05 * noise)
    loud = mel > -0.5  # the tilt leaves noise quieter than music in the lowest channels
    assert 40 * np.abs(heard - mel)[loud].mean() < 8.0
    assert 40 * np.abs(untouched - mel)[loud].mean() > 12.0


def test_silence_stays_finite():
    mel = log_mel(np.zeros(3200))
    assert np.isfinite(envelope(mel)).all() and (envelope(mel) > 0).all()
    assert np.abs(flatten(np.zeros(3200), mel)).max() == 0.0
    assert np.abs(shape(np.ones(3200), mel)).max() < 1e-3


def test_frames_and_samples_must_agree():
    with pytest.raises(ValueError, match="160 samples for each of the 10 mel frames"):
        flatten(np.zeros(1601), np.zeros((10, 80)))


def test_only_a_stage_with_a_mel_spectrogram_can_have_an_excitation():
    values = to_dict(load_preset("tiny_waveform_cascader"))
    with pytest.raises(ValueError, match="excitation must be false"):
        from_dict(StageConfig, values | {"excitation": True})
