"""Samplers against closed forms.

For Gaussian data the best denoiser is known and every step is linear.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise2music.config import STAGES
from noise2music.sampling import clip_keys, coefficients, initial_noise, run_steps
from noise2music.schedules import alpha_sigma, denoising_times, table8

MEAN, DEVIATION = 0.2, 0.3
LISTS = [
    (s, n) for s in STAGES for n in ("front_heavy", "uniform", "back_heavy", "back_heavy_eval")
]
LISTS = [
    (s, n)
    for s, n in LISTS
    if not (n == "back_heavy_eval" and s != "spectrogram_generator")
    and not (n == "uniform" and s == "super_resolution_cascader")
]


def gaussian_x0(schedule, t):
    """E[x | x_t] = slope x_t + shift for x ~ N(MEAN, DEVIATION^2)."""
    alpha, sigma = alpha_sigma(schedule, t)
    slope = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    return slope, MEAN * (1.0 - alpha * slope)


def propagate(times, schedule, **options):
    """Mean and deviation of the sampler's output, exactly.

    Each step is linear in x_t, x_0^prev and z.
    """
    c = coefficients(times, schedule, **options)
    slope, shift = gaussian_x0(schedule, times[:0:-1])
    mean = np.array([0.0, 0.0])  # of (x_t, previous x_0)
    cov = np.diag([1.0, 0.0])
    for n in range(len(c.t)):
        _, _, _, c_x, c_0, c_noise, _, _ = c.step[n].astype(np.float64)
        a = np.array([[c_x + c_0 * slope[n], c.c_p[n]], [slope[n], 0.0]])
        mean = a @ mean + np.array([c_0, 1.0]) * shift[n]
        cov = a @ cov @ a.T
        cov[0, 0] += c_noise**2
    return mean[0], np.sqrt(cov[0, 0])


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("stage,name", LISTS)
def test_oracle_denoiser_samples_its_gaussian(stage, name, schedule, gamma):
    segments = table8(stage, name)
    total = sum(n for _, n in segments)
    error = []
    for doubling in range(8):
        times = denoising_times(segments, total << doubling)
        mean, deviation = propagate(times, schedule, gamma=gamma)
        error.append(max(abs(mean / MEAN - 1.0), abs(deviation / DEVIATION - 1.0)))
        if doubling and error[-1] < 0.03:
            break
    assert error[-1] < error[0] or error[0] < 2e-3, error
    # gamma = 0 with few steps near t = 0 is biased by nature: too little deviation; so is the
    # vocoder's back-heavy list, five steps for half of the time, at gamma = 1
    # (docs/design/paper_faults.md). More steps cure both.
    # Everything else is within 3 % with the list as printed.
    biased = (gamma == 0.0 and name != "front_heavy") or (stage, name) == (
        "spectrogram_vocoder",
        "back_heavy",
    )
    assert error[-1] < 0.03 if biased else error[0] < 0.03, error


@pytest.mark.parametrize("sampler,limit", [("ddim", 0.05), ("dpm++", 0.02)])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_few_step_samplers(sampler, limit, schedule):
    segments = table8("waveform_cascader", "front_heavy")
    errors = []
    for steps in (50, 100):
        mean, deviation = propagate(denoising_times(segments, steps), schedule, sampler=sampler)
        errors.append(max(abs(mean / MEAN - 1.0), abs(deviation / DEVIATION - 1.0)))
    assert errors[0] < limit and errors[1] < max(0.75 * errors[0], 2e-3)


def test_second_order_beats_first_order():
    segments = table8("waveform_cascader", "uniform")
    errors = {
        s: abs(propagate(denoising_times(segments, 40), "cosine", sampler=s)[1] / DEVIATION - 1.0)
        for s in ("ddim", "dpm++")
    }
    assert errors["dpm++"] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_equation_4_as_printed(schedule, gamma):
    """Our coefficients, put back in terms of eps, are Equation 4's.

    At gamma = 0 they are the exact posterior.
    """
    times = denoising_times(table8("waveform_cascader", "front_heavy"), 50)
    c = coefficients(times, schedule, gamma=gamma)
    t, s = times[:0:-1][:-1], times[-2::-1][:-1]  # without the last step, to s = 0
    (a_t, s_t), (a_s, s_s) = alpha_sigma(schedule, t), alpha_sigma(schedule, s)
    ratio = (a_t / s_t * s_s / a_s) ** 2
    rng = np.random.default_rng(0)
    x_t, eps, z = rng.standard_normal((3, 1))
    printed = a_s / a_t * x_t - (1 - ratio) * a_s / a_t * s_t * eps
    noise = (np.sqrt(1 - ratio) * s_s) ** (1 - gamma) * (np.sqrt(1 - ratio) * s_t) ** gamma
    step = c.step[:-1].astype(np.float64)
    x_0 = step[:, 1] * x_t - step[:, 2] * eps
    ours = step[:, 3] * x_t + step[:, 4] * x_0
    np.testing.assert_allclose(ours, printed, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(step[:, 5], noise, rtol=1e-5)
    if gamma == 0.0:  # q(x_s | x_t, x_0): precision adds up
        x0 = (x_t - s_t * eps) / a_t
        s_ts2 = (1 - ratio) * s_t**2
        variance = 1 / (1 / s_s**2 + (a_t / a_s) ** 2 / s_ts2)
        mean = variance * (a_s * x0 / s_s**2 + (a_t / a_s) * x_t / s_ts2)
        np.testing.assert_allclose(noise**2, variance, rtol=1e-6)
        np.testing.assert_allclose(ours, mean, rtol=5e-5, atol=5e-5)


def test_no_noise_at_the_end_and_x0_is_the_answer():
    for gamma in (0.0, 1.0):
        last = coefficients(np.array([0.0, 0.3, 1.0]), "linear", gamma=gamma).step[-1]
        assert last[5] == 0.0 and last[3] == 0.0 and last[4] == 1.0


def test_run_steps_draws_the_gaussian_through_the_op():
    times = denoising_times(table8("spectrogram_vocoder", "front_heavy"))
    c = coefficients(times, "linear", gamma=1.0)
    rows = tuple(jnp.asarray(a) for a in (c.t, c.step, c.c_p))

    def denoiser(x_t, t):
        alpha, sigma = alpha_sigma("linear", t)
        slope = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        x_0 = slope[:, None, None] * (x_t - alpha[:, None, None] * MEAN) + MEAN
        return (x_t - alpha[:, None, None] * x_0) / sigma[:, None, None], None

    keys = clip_keys(0, jnp.arange(4, dtype=jnp.uint32), 3)
    x = initial_noise(keys, 2500, 1)
    run = jax.jit(
        lambda x, first, last: run_steps(denoiser, x, jnp.zeros_like(x), keys, rows, first, last)
    )
    whole, _ = run(x, 0, 100)
    assert (
        abs(float(whole.mean()) / MEAN - 1) < 0.03
        and abs(float(whole.std()) / DEVIATION - 1) < 0.03
    )
    first, previous = run(x, 0, 37)  # in chunks: the same numbers, so progress costs nothing
    pieces, _ = jax.jit(
        lambda x, p: run_steps(denoiser, x, p, keys, rows, jnp.int32(37), jnp.int32(100))
    )(first, previous)
    np.testing.assert_array_equal(np.asarray(pieces), np.asarray(whole))


def test_noise_depends_on_seed_clip_stage_and_step_only():
    one = initial_noise(clip_keys(7, jnp.array([2], jnp.uint32), 1), 100, 3)
    four = initial_noise(clip_keys(7, jnp.arange(4, dtype=jnp.uint32), 1), 100, 3)
    np.testing.assert_array_equal(np.asarray(one[0]), np.asarray(four[2]))
    for other in (
        clip_keys(8, jnp.array([2], jnp.uint32), 1),
        clip_keys(7, jnp.array([2], jnp.uint32), 2),
    ):
        assert not np.array_equal(np.asarray(one), np.asarray(initial_noise(other, 100, 3)))


@pytest.mark.parametrize(
    "options,match", [({"gamma": 1.5}, "gamma"), ({"sampler": "euler"}, "sampler")]
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        coefficients(np.array([0.0, 1.0]), "linear", **options)
