"""What is special to fft_upsample: scipy, signals with a known answer, and the adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import tolerances
from noise2music.kernels import fft_upsample
from noise2music.kernels.fft_upsample import reference
from rooms import HAS_NATIVE, IMPLEMENTATIONS, error

EACH = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

# T, up, down: every butterfly and path of the transform.
SHAPES = [
    (1, 5, 1),
    (2, 3, 2),
    (7, 5, 1),  # a generic radix alone
    (64, 5, 1),  # the shortest split transform
    (72, 3, 2),  # split, nine blocks in the last step
    (81, 2, 1),  # odd, one phase alone
    (96, 2, 1),
    (101, 3, 1),  # Bluestein
    (202, 3, 2),  # Bluestein of the half, and of the whole
    (360, 5, 3),
    (441, 1, 1),
    (736, 5, 1),
    (1009, 5, 1),
    (1200, 6, 4),
    (1473, 5, 1),
    (2310, 7, 5),
    (4096, 3, 2),
    (23552, 5, 1),  # radix 23 over long strides
    (45, 1, 3),  # down to odd
    (72, 2, 3),  # down to even: the Nyquist bins add up
    (90, 1, 2),  # down to odd from even
]


def signal(length, batch=2, channels=2):
    return np.random.default_rng(length).standard_normal((batch, length, channels), np.float32)


@EACH
@pytest.mark.parametrize(("length", "up", "down"), SHAPES)
def test_equals_scipy(implementation, length, up, down):
    x = signal(length)
    want = scipy.signal.resample(x.astype(np.float64), length * up // down, axis=1)
    got = fft_upsample(x, up, down, implementation=implementation)
    assert got.dtype == jnp.float32
    assert error(got, want) < tolerances.RESAMPLE


@pytest.mark.parametrize(("length", "up", "down"), [(94208, 5, 1), (94207, 5, 1), (58880, 3, 2)])
def test_equals_scipy_at_full_length(length, up, down):
    x = signal(length, 1, 1)
    want = scipy.signal.resample(x.astype(np.float64), length * up // down, axis=1)
    assert error(fft_upsample(x, up, down), want) < tolerances.RESAMPLE


@pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library")
@pytest.mark.parametrize(("length", "up", "down"), SHAPES)
def test_backward_is_the_adjoint(length, up, down):
    x = signal(length)
    y = signal(length * up // down + length)[:, : length * up // down]
    forward, pull = jax.vjp(lambda x: fft_upsample(x, up, down, implementation="native"), x)
    (back,) = pull(jnp.asarray(y))
    left = np.vdot(np.asarray(forward, np.float64), y)
    right = np.vdot(x, np.asarray(back, np.float64))
    scale = np.linalg.norm(forward) * np.linalg.norm(y)
    assert abs(left - right) < tolerances.ADJOINT * scale
    assert error(back, reference.adjoint(jnp.asarray(y), up, down)) < tolerances.SAME["rtol"]


@EACH
def test_a_tone_keeps_its_pitch(implementation):
    length, up, cycles = 600, 5, 7
    x = np.sin(2 * np.pi * cycles * np.arange(length) / length)
    want = np.sin(2 * np.pi * cycles * np.arange(length * up) / (length * up))
    got = fft_upsample(np.float32(x)[None, :, None], up, implementation=implementation)
    assert error(got[0, :, 0], want) < tolerances.RESAMPLE


@EACH
def test_the_nyquist_bin_is_split(implementation):
    """(-1)^t becomes cos(pi t'/up), not twice that."""
    length, up = 64, 3
    x = np.float32((-1.0) ** np.arange(length))[None, :, None]
    got = fft_upsample(x, up, implementation=implementation)
    want = np.cos(np.pi * np.arange(length * up) / up)
    assert error(got[0, :, 0], want) < tolerances.RESAMPLE


@EACH
def test_given_samples_stay(implementation):
    x = signal(120)
    y = fft_upsample(x, 5, implementation=implementation)
    assert error(y[:, ::5], x) < tolerances.RESAMPLE


@EACH
def test_nan_stays_in_its_clip(implementation):
    x = signal(60)
    x[0, 3, 1] = np.nan
    y = np.asarray(fft_upsample(x, 5, implementation=implementation))
    assert np.isnan(y[0, :, 1]).mean() >= 0.8
    assert np.isfinite(y[0, :, 0]).all() and np.isfinite(y[1]).all()


def test_a_plan_is_found_again():
    """More shapes than the cache of plans holds, twice."""
    shapes = [(8 * n, up) for n in range(1, 7) for up in (2, 3)]
    call = jax.jit(fft_upsample, static_argnums=1)
    first = [call(signal(length), up) for length, up in shapes]
    for (length, up), y in zip(shapes, first, strict=True):
        np.testing.assert_array_equal(y, call(signal(length), up))


def test_wrong_types():
    with pytest.raises(ValueError, match="x must be float32 or bfloat16, got int32"):
        fft_upsample(jnp.zeros((1, 4, 1), jnp.int32), 5)
    with pytest.raises(ValueError, match="T must be divisible by down=2, got 5"):
        fft_upsample(jnp.zeros((1, 5, 1)), 3, 2)
