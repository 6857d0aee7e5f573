"""What is special to ancestral_step: the noise, the percentile, NaN, and the Gaussian posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from noise2music.kernels import ancestral_step
from noise2music.kernels.ancestral_step import reference
from rooms import IMPLEMENTATIONS

EACH = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def row(w=1.0, inv_alpha=1.0, sigma=0.0, c_x=0.0, c_0=0.0, c_noise=0.0, percentile=0.0, floor=1.0):
    return jnp.float32([w, inv_alpha, sigma, c_x, c_0, c_noise, percentile, floor])


def drawn(key, length, channels, implementation, **options):
    """The noise an implementation draws: all else is zero."""
    zero = jnp.zeros((key.shape[0], length, channels))
    x_s, _ = ancestral_step(
        zero, zero, None, key, row(c_noise=1.0), implementation=implementation, **options
    )
    return np.asarray(x_s)


@EACH
@pytest.mark.parametrize(("length", "channels"), [(1, 1), (17, 3), (1000, 1), (33, 80)])
def test_noise_is_that_of_jax_random(implementation, length, channels):
    key = jax.random.split(jax.random.key(length), 3)
    z = drawn(key, length, channels, implementation)
    for b in range(3):
        np.testing.assert_array_equal(z[b], jax.random.normal(key[b], (length, channels)))
    np.testing.assert_array_equal(z[1:2], drawn(key[1:2], length, channels, implementation))
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(z, drawn(key, length, channels, implementation))


@EACH
def test_pieces_of_a_clip_draw_its_noise(implementation):
    key = jax.random.split(jax.random.key(1), 2)
    whole = drawn(key, 50, 3, implementation)
    parts = [drawn(key, 19, 3, implementation), drawn(key, 31, 3, implementation, offset=19)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    traced = jax.jit(lambda at: ancestral_step_noise(key, at, implementation))(jnp.int32(19))
    np.testing.assert_array_equal(traced, whole[:, 19:])


def ancestral_step_noise(key, offset, implementation):
    zero = jnp.zeros((2, 31, 3))
    return ancestral_step(
        zero, zero, None, key, row(c_noise=1.0), offset=offset, implementation=implementation
    )[0]


def test_positions_past_32_bits_are_new():
    """The counter carries into its upper word, half way through this piece."""
    key = jax.random.key(5)

    def at(offset, count):
        return reference.normal_at(key, reference.first_counter(offset, 2), count)

    across = at(2**31 - 2, 8)
    np.testing.assert_array_equal(across[4:], at(2**31, 4))
    assert not np.isin(across[4:], at(0, 4)).any()


@EACH
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_without_clipping(implementation, guided, dtype):
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((2, 37, 3), np.float32)
    cond, uncond = (jnp.asarray(rng.standard_normal((2, 37, 3)), dtype) for _ in range(2))
    key = jax.random.split(jax.random.key(0), 2)
    c = row(3.0, 1.25, 0.75, 0.5, 0.25, 0.125)
    x_s, x_0 = ancestral_step(
        x_t, cond, uncond if guided else None, key, c, implementation=implementation
    )
    exact = [np.asarray(v.astype(jnp.float32), np.float64) for v in (cond, uncond)]
    eps = 3 * exact[0] - 2 * exact[1] if guided else exact[0]
    z = np.stack([jax.random.normal(k, (37, 3)) for k in key])
    want = 1.25 * x_t - 0.75 * eps
    np.testing.assert_allclose(x_0, want, rtol=0, atol=tolerances.ROUNDING)
    want = 0.5 * x_t + 0.25 * want + 0.125 * z
    np.testing.assert_allclose(x_s, want, rtol=0, atol=tolerances.ROUNDING)
    assert x_s.dtype == x_0.dtype == jnp.float32


def clipped(x, percentile, floor, implementation):
    """x_0 after dynamic clipping, where x_0 before it is x."""
    key = jax.random.split(jax.random.key(0), len(x))
    c = row(percentile=percentile, floor=floor)
    return np.asarray(
        ancestral_step(x, np.zeros_like(x), None, key, c, implementation=implementation)[1]
    )


VALUES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "wide": lambda rng, n: np.exp(8 * rng.standard_normal(n)),
    "ties": lambda rng, n: rng.integers(-2, 3, n),
    "constant": lambda rng, n: np.full(n, -0.7),
    "zeros": lambda rng, n: np.zeros(n),
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-41,
}


@EACH
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("length", [1, 2, 101, 40000])
def test_percentile_is_that_of_jnp(implementation, name, length):
    x = VALUES[name](np.random.default_rng(length), (2, length, 1)).astype(np.float32)
    for percentile in (0.5, 50.0, 90.0, 99.5, 100.0):
        s = np.asarray(jnp.percentile(jnp.abs(x), percentile, axis=(1, 2)))[:, None, None]
        s = np.maximum(s, np.float32(0.1))
        want = np.clip(x, -s, s) * (np.float32(0.1) / s)
        got = clipped(x, percentile, 0.1, implementation)
        np.testing.assert_allclose(got, want, rtol=tolerances.PERCENTILE, atol=1e-30)


@EACH
def test_clipping_leaves_data_within_the_floor_alone(implementation):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 50, 2)).astype(np.float32)
    np.testing.assert_array_equal(clipped(x, 100.0, 1.0, implementation), x)


@EACH
@pytest.mark.parametrize("place", [0, 37, 149])
def test_nan_is_never_clipped_away(implementation, place):
    x = np.random.default_rng(0).standard_normal((3, 150, 1), np.float32)
    x[1, place] = np.nan
    for percentile in (50.0, 100.0):
        got = clipped(x, percentile, 1.0, implementation)
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[::2]).all()
    got = clipped(x, 0.0, 1.0, implementation)
    assert np.isnan(got).sum() == 1
    key = jax.random.split(jax.random.key(0), 3)
    c = row(c_x=1.0, c_noise=1.0)
    x_s, _ = ancestral_step(x, np.zeros_like(x), None, key, c, implementation=implementation)
    assert np.isnan(x_s).sum() == 1


@EACH
def test_infinity_is_not_hidden(implementation):
    x = np.random.default_rng(0).standard_normal((1, 50, 1), np.float32)
    x[0, 7] = -np.inf
    assert np.isnan(clipped(x, 100.0, 1.0, implementation)).any()
    got = clipped(x, 50.0, 0.1, implementation)[0, 7, 0]
    np.testing.assert_allclose(got, -0.1, rtol=tolerances.ROUNDING)


@EACH
def test_mean_and_variance_are_those_of_the_gaussian_posterior(implementation):
    """Equation 4 against Bayes: x_s given x_0 is N(alpha_s x_0, sigma_s^2), and x_t given x_s is
    N(a x_s, v) with a = alpha_t / alpha_s, v = sigma_t^2 - a^2 sigma_s^2."""
    alpha_t, alpha_s = np.cos(np.pi / 2 * np.array([0.7, 0.6]))
    sigma_t, sigma_s = np.sin(np.pi / 2 * np.array([0.7, 0.6]))
    a = alpha_t / alpha_s
    v = sigma_t**2 - a**2 * sigma_s**2
    variance = 1 / (1 / sigma_s**2 + a**2 / v)
    x_0, x_t = 0.3, -0.8
    mean = variance * (alpha_s * x_0 / sigma_s**2 + a * x_t / v)

    ratio = (alpha_t * sigma_s / (sigma_t * alpha_s)) ** 2  # e^{lambda_t - lambda_s}
    c = row(
        inv_alpha=1 / alpha_t,
        sigma=sigma_t / alpha_t,
        c_x=alpha_s / alpha_t * ratio,
        c_0=(1 - ratio) * alpha_s,
        c_noise=np.sqrt(1 - ratio) * sigma_s,
    )
    shape = (2, 2**17, 1)
    eps = jnp.full(shape, (x_t - alpha_t * x_0) / sigma_t, jnp.float32)
    key = jax.random.split(jax.random.key(0), 2)
    call = jax.jit(
        lambda c: ancestral_step(
            jnp.full(shape, x_t), eps, None, key, c, implementation=implementation
        )
    )
    x_s, estimate = (np.asarray(y, np.float64) for y in call(c))
    np.testing.assert_allclose(estimate, x_0, rtol=0, atol=tolerances.ROUNDING)
    deviation = np.sqrt(variance)
    assert abs(x_s.mean() - mean) < tolerances.SAMPLED * deviation
    assert abs(x_s.std() / deviation - 1) < tolerances.SAMPLED
    quiet, _ = call(c.at[reference.C_NOISE].set(0))
    np.testing.assert_allclose(quiet, mean, rtol=0, atol=tolerances.ROUNDING)


def test_the_reference_gives_the_gradient():
    rng = np.random.default_rng(0)
    x_t, eps = (jnp.asarray(rng.standard_normal((2, 9, 2)), jnp.float32) for _ in range(2))
    key = jax.random.split(jax.random.key(0), 2)
    c = row(1.0, 1.25, 0.75, 0.5, 0.25, 0.125)
    grad = jax.grad(lambda e: ancestral_step(x_t, e, None, key, c)[0].sum())(eps)
    np.testing.assert_allclose(grad, -0.25 * 0.75, rtol=tolerances.ROUNDING)
