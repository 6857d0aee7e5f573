"""The forward process, the loss and the augmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise2music.diffusion import diffuse, gaussian_blur, loss_weight, to_noise
from noise2music.schedules import alpha_sigma

T = jnp.array([0.02, 0.3, 0.7, 0.98], jnp.float32)


def _pair(seed=0):
    k1, k2 = jax.random.split(jax.random.key(seed))
    return jax.random.normal(k1, (4, 50, 2)) * 0.4, jax.random.normal(k2, (4, 50, 2))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_velocity_is_the_same_noise(schedule):
    x, eps = _pair()
    x_t = diffuse(x, eps, T, schedule)
    alpha, sigma = (a[:, None, None] for a in alpha_sigma(schedule, T))
    v = alpha * eps - sigma * x
    np.testing.assert_allclose(to_noise(v, x_t, T, schedule, "velocity"), eps, atol=2e-6)
    assert to_noise(eps, x_t, T, schedule, "noise") is eps


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_sample_is_the_same_noise(schedule):
    """The output that stands for x, by x = c_skip x_t + c_out F, gives eps back."""
    x, eps = _pair()
    x_t = diffuse(x, eps, T, schedule)
    alpha, sigma = (np.asarray(a, np.float64)[:, None, None] for a in alpha_sigma(schedule, T))
    n = 0.01 * alpha**2 + sigma**2
    output = jnp.asarray((x - 0.01 * alpha / n * x_t) * np.sqrt(n) / sigma, jnp.float32)
    np.testing.assert_allclose(to_noise(output, x_t, T, schedule, "sample"), eps, atol=5e-6)


def test_sample_is_x_in_noise_and_mostly_x_t_without():
    x, eps = _pair()
    t = jnp.array([1e-3, 1e-3, 0.9, 0.9])
    alpha, sigma = (a[:, None, None] for a in alpha_sigma("linear", t))
    x_t = diffuse(x, eps, t, "linear")
    x_0 = (x_t - sigma * to_noise(x, x_t, t, "linear", "sample")) / alpha
    np.testing.assert_allclose(x_0[2:], x[2:], atol=1e-3)
    nothing = (x_t - sigma * to_noise(0.0 * x, x_t, t, "linear", "sample")) / alpha
    np.testing.assert_allclose(nothing[:2], x_t[:2], atol=0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_velocity_weight_makes_the_loss_that_of_the_velocity(schedule):
    x, eps = _pair()
    _, guess = _pair(1)
    alpha, sigma = (a[:, None, None] for a in alpha_sigma(schedule, T))
    x_t = diffuse(x, eps, T, schedule)
    eps_theta = to_noise(guess, x_t, T, schedule, "velocity")
    weighted = loss_weight("velocity", T, schedule) * jnp.square(eps_theta - eps).mean((1, 2))
    direct = jnp.square(guess - (alpha * eps - sigma * x)).mean((1, 2))
    np.testing.assert_allclose(weighted, direct, rtol=2e-3)


def test_weights_of_the_paper():
    _, sigma = alpha_sigma("linear", T)
    np.testing.assert_array_equal(loss_weight("simplified", T, "linear"), np.ones(4))
    np.testing.assert_allclose(loss_weight("sigma", T, "linear"), sigma**2)
    with pytest.raises(ValueError, match="weight must be"):
        loss_weight("snr", T, "linear")


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_blur_moves_no_onset(sigma):
    x = np.zeros((1, 101, 1), np.float32)
    x[0, 50] = 1.0
    y = np.asarray(gaussian_blur(jnp.asarray(x), jnp.array([sigma]), 1))[0, :, 0]
    assert abs((y * np.arange(101)).sum() / y.sum() - 50.0) < 1e-4
    np.testing.assert_allclose(y, y[::-1], atol=1e-7)
    np.testing.assert_allclose(y.sum(), 1.0, rtol=1e-5)
    assert np.count_nonzero(y > 1e-12) <= 11


def test_blur_in_two_dimensions_is_five_by_five_and_keeps_constants():
    x = np.zeros((1, 21, 15, 1), np.float32)[..., 0]
    x[0, 10, 7] = 1.0
    y = np.asarray(gaussian_blur(jnp.asarray(x), jnp.array([1.0]), 2))[0]
    assert np.count_nonzero(y) == 25 and np.unravel_index(y.argmax(), y.shape) == (10, 7)
    flat = gaussian_blur(jnp.full((2, 9, 6), 0.25), jnp.array([0.2, 1.0]), 2)
    np.testing.assert_allclose(flat, 0.25, rtol=1e-5)
