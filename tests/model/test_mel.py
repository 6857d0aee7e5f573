"""The log-mel spectrogram: frames, range, what a sine looks like."""

import numpy as np
import pytest
from noise2music.mel import RATE, log_mel, low_pass_in_time, mel_filters


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


@pytest.mark.parametrize("order", [0, 2, 4])
def test_the_low_pass_keeps_what_is_slow_and_has_the_gain_it_says(order):
    frames = np.arange(400)
    for hz in (0.0, 3.0, 13.0, 50.0):
        wave = np.cos(2 * np.pi * hz * frames / 100)[None, :, None] * np.ones((2, 1, 3))
        out = low_pass_in_time(wave, order)
        assert out.shape == wave.shape and out.dtype == np.float32
        gain = np.cos(np.pi * hz / 100) ** order
        np.testing.assert_allclose(out[:, 5:-5], gain * wave[:, 5:-5], atol=1e-6)
    step = (frames >= 200)[None, :, None].astype(np.float32)
    assert low_pass_in_time(step, order)[0, 200, 0] >= 0.5  # no onset moves


def test_one_frame_can_be_smoothed():
    np.testing.assert_array_equal(low_pass_in_time(np.ones((1, 1, 80)), 4), np.ones((1, 1, 80)))
