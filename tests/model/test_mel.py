"""The log-mel spectrogram: frames, range, what a sine looks like."""

import numpy as np
import pytest
from noise2music.mel import RATE, log_mel, mel_filters


def test_ten_milliseconds_a_frame_in_the_normalised_range():
    rng = np.random.default_rng(0)
    mel = log_mel(0.3 * rng.standard_normal((2, RATE)))
    assert mel.shape == (2, 100, 80) and mel.dtype == np.float32
    assert -1.0 <= mel.min() and mel.max() <= 1.0
    assert (log_mel(np.zeros(1600)) == -1.0).all()


@pytest.mark.parametrize("hz", [110.0, 440.0, 1000.0, 5000.0])
def test_a_sine_is_loudest_in_its_channel(hz):
    t = np.arange(RATE) / RATE
    mel = log_mel(np.sin(2 * np.pi * hz * t))[50]
    centre = mel_filters()[:, mel.argmax()]
    heard = (centre * np.arange(513) * RATE / 1024).sum() / centre.sum()
    assert abs(heard - hz) < max(40.0, 0.05 * hz)
    assert abs(mel.max() - 1.0) < 0.12  # full scale is about 0 dB
    quiet = log_mel(0.1 * np.sin(2 * np.pi * hz * t))[50].max()
    np.testing.assert_allclose(mel.max() - quiet, 0.5, atol=0.13)  # 20 dB is 0.5


def test_an_onset_stands_in_its_frame():
    x = np.zeros(RATE, np.float32)
    x[80_00:] = np.random.default_rng(0).standard_normal(RATE - 80_00) * 0.1
    energy = log_mel(x).mean(1)
    assert abs(int(np.argmax(np.diff(energy))) - 50) <= 3  # the logarithm hears half a window ahead


def test_every_channel_hears_something():
    assert mel_filters().shape == (513, 80)
    assert (mel_filters().sum(0) > 0.5).all()


@pytest.mark.parametrize("n", [0, 1, 161])
def test_lengths_must_be_whole_frames(n):
    with pytest.raises(ValueError, match=f"positive multiple of 160, got {n}"):
        log_mel(np.zeros(n))
