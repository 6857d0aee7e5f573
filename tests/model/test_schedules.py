"""Noise schedules and denoising step lists against the paper's numbers."""

import numpy as np
import pytest
from noise2music.config import STAGES
from noise2music.schedules import alpha_sigma, check_times, denoising_times, table8

TIMES = np.linspace(0.0, 1.0, 1001)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_variance_is_preserved_and_noise_grows(schedule):
    alpha, sigma = alpha_sigma(schedule, TIMES)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-12)
    assert np.all(np.diff(sigma) > 0)
    assert alpha[-1] < 0.01  # x_1 is noise, which Equation 5 as printed is not


def test_cosine_has_the_log_snr_of_the_paper():
    alpha, sigma = alpha_sigma("cosine", np.array([0.0, 1.0]))
    np.testing.assert_allclose(np.log(alpha**2 / sigma**2), [20.0, -20.0], rtol=1e-9)


def test_linear_is_the_ramp_of_ho_et_al():
    # The product of 1 - beta over 1000 discrete steps, which the continuous form approximates.
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha, _ = alpha_sigma("linear", np.array([0.25, 0.5, 1.0]))
    discrete = np.sqrt(np.cumprod(1.0 - beta))[[249, 499, 999]]
    np.testing.assert_allclose(alpha, discrete, rtol=0.06)
    assert alpha_sigma("linear", np.array([0.0]))[1] == 0.0


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'Linear'"):
        alpha_sigma("Linear", TIMES)


@pytest.mark.parametrize("stage", STAGES)
def test_table_8_sums_to_one(stage):
    for name in ("front_heavy", "back_heavy"):
        segments = table8(stage, name)
        t = denoising_times(segments)
        assert t[0] == 0.0 and t[-1] == 1.0 and len(t) == 1 + sum(n for _, n in segments)
        assert np.all(np.diff(t) > 0)
    front, back = (denoising_times(table8(stage, n)) for n in ("front_heavy", "back_heavy"))
    np.testing.assert_allclose(front, 1.0 - back[::-1], atol=1e-12)
    assert np.searchsorted(front, 0.5) > len(front) / 2  # most steps near t = 0


def test_spectrogram_generator_keeps_its_2000_printed_steps():
    assert len(denoising_times(table8("spectrogram_generator", "front_heavy"))) == 2001
    assert len(denoising_times(table8("spectrogram_generator", "back_heavy_eval"))) == 1001


def test_rescaling_keeps_the_curve():
    segments = table8("waveform_generator", "front_heavy")
    full = denoising_times(segments)
    np.testing.assert_allclose(denoising_times(segments, 100), full[::10], atol=1e-12)
    assert len(denoising_times(segments, 1)) == 2


@pytest.mark.parametrize(
    "bad", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.5, 1.0], [1.0], [0.0, np.nan, 1.0]]
)
def test_bad_step_lists_are_refused(bad):
    with pytest.raises(ValueError, match="rise strictly from 0 to 1"):
        check_times(bad)


def test_unknown_denoising_schedule_names_the_known():
    with pytest.raises(ValueError, match="back_heavy, front_heavy, uniform"):
        table8("spectrogram_vocoder", "back_heavy_eval")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        denoising_times([(1.0, 10)], 0)
