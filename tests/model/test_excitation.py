"""Audio without its spectral envelope: unit variance, there and back, refusals."""

import numpy as np
import pytest
from noise2music.config import StageConfig, from_dict, load_preset, to_dict
from noise2music.excitation import envelope, flatten, magnitudes, shape
from noise2music.mel import RATE, log_mel, mel_filters


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


def test_magnitudes_have_the_mel_spectrogram_they_were_given():
    mel = log_mel(tune())
    s = magnitudes(mel)
    back = 20 * np.log10((s * 2 / 512) @ mel_filters())
    loud = mel > -0.5
    assert (s >= 0).all() and np.abs(back - 40 * (mel - 1))[loud].mean() < 1.0


def test_pitch_is_sharper_in_the_magnitudes_than_in_the_mel_spectrogram():
    t = np.arange(RATE) / RATE
    for hz in (233.1, 440.0, 932.3):
        s = magnitudes(log_mel(0.1 * np.sin(2 * np.pi * hz * t)))[50]
        assert abs(s.argmax() * RATE / 1024 - hz) < 16.0  # a bin of the STFT


@pytest.mark.parametrize("phases", ["of the music", "of noise"])
def test_shape_gives_audio_of_the_mel_spectrogram(phases):
    x = np.stack([tune(), tune()[::-1]])
    mel = log_mel(x)
    r = (
        flatten(x, mel)
        if phases == "of the music"
        else np.random.default_rng(1).normal(size=x.shape)
    )
    y = shape(r, mel)
    loud = mel > -0.5
    assert y.dtype == np.float32 and 40 * np.abs(log_mel(y) - mel)[loud].mean() < 2.0


def test_clips_of_a_batch_do_not_meet():
    x = np.stack([tune(), tune()[::-1]])
    mel = log_mel(x)
    r = np.random.default_rng(1).standard_normal(x.shape)
    np.testing.assert_array_equal(shape(r, mel)[1], shape(r[1], mel[1]))


def test_silence_stays_finite():
    mel = log_mel(np.zeros(3200))
    assert np.isfinite(envelope(mel)).all() and (envelope(mel) > 0).all()
    assert np.abs(flatten(np.zeros(3200), mel)).max() == 0.0
    assert np.abs(shape(np.ones(3200), mel)).max() < 1e-3
    assert np.isfinite(shape(np.zeros(3200), mel)).all()


def test_frames_and_samples_must_agree():
    with pytest.raises(ValueError, match="160 samples for each of the 10 mel frames"):
        flatten(np.zeros(1601), np.zeros((10, 80)))


def test_only_a_stage_with_a_mel_spectrogram_can_have_an_excitation():
    values = to_dict(load_preset("tiny_waveform_cascader"))
    with pytest.raises(ValueError, match="excitation must be false"):
        from_dict(StageConfig, values | {"excitation": True})
