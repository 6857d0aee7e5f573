"""ancestral_step on a TPU, in the interpreter: the search for the percentile, its own noise."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from noise2music.kernels import ancestral_step
from noise2music.kernels.ancestral_step import pallas_layout, pallas_noise, pallas_percentile
from scipy import stats

# w, 1 / alpha_t, sigma_t / alpha_t, c_x, c_0, c_noise, p, floor
ROW = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def row(**changes):
    places = {"c_noise": 5, "percentile": 6, "floor": 7}
    values = list(ROW)
    for name, value in changes.items():
        values[places[name]] = value
    return jnp.float32(values)


# The interpreted kernel is a long program: not optimized it is compiled sooner than it runs faster.
pytestmark = pytest.mark.usefixtures("quick_compiler")

reference_step = jax.jit(functools.partial(ancestral_step, implementation="reference"))


@functools.partial(jax.jit, static_argnames="noise")
def step(x, key, coefficients, offset=0, noise="threefry"):
    zero = jnp.zeros_like(x)
    return ancestral_step(
        x, zero, None, key, coefficients, offset=offset, noise=noise, implementation="pallas"
    )


def burst(rng, n):
    """Silence but for the last twentieth: its groups hold more than eight of the largest."""
    quiet = rng.standard_normal(n) * 1e-3
    quiet[-max(1, n // 20) :] *= 1e3
    return quiet


VALUES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "burst": burst,
    "ties": lambda rng, n: rng.integers(-2, 3, n),
    "zeros": lambda rng, n: np.zeros(n),
}


@pytest.mark.parametrize(
    "length", [101, 70_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 40_000))]
)
def test_percentile_is_that_of_jnp(length):
    """One value; part of a step; one tile; two tiles, the second partly past the end."""
    rng = np.random.default_rng(length)
    x = np.stack([values(rng, length) for values in VALUES.values()]).astype(np.float32)[..., None]
    key = jax.random.split(jax.random.key(0), len(x))
    for percentile in (50.0, 99.5, 100.0):
        s = np.asarray(jnp.percentile(jnp.abs(x), percentile, axis=(1, 2)))[:, None, None]
        s = np.maximum(s, np.float32(0.1))
        want = np.clip(x, -s, s) * (np.float32(0.1) / s)
        got = np.asarray(step(x, key, row(percentile=percentile, floor=0.1))[1])
        for name, a, b in zip(VALUES, got, want, strict=True):
            np.testing.assert_allclose(
                a, b, rtol=tolerances.PERCENTILE, atol=1e-30, err_msg=f"{name} {percentile}"
            )


@pytest.mark.parametrize(("length", "channels"), [(200, 72), (20, 66)])
def test_channels_beside_or_under_one_another(length, channels):
    """Turned, the last registers narrow and rows to spare; as it is, all registers narrow."""
    assert pallas_layout.turned(length, channels) == (length == 200)
    x = np.random.default_rng(0).standard_normal((2, length, channels), np.float32)
    key = jax.random.split(jax.random.key(0), 2)
    for percentile in (50.0, 99.5):
        coefficients = row(c_noise=0.5, percentile=percentile)
        for got, want in zip(
            step(x, key, coefficients),
            reference_step(x, x * 0, None, key, coefficients),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, rtol=tolerances.PERCENTILE, atol=1e-6)


def test_nan_is_never_clipped_away():
    x = np.random.default_rng(0).standard_normal((4, 70_000, 1), np.float32)
    x[1, 13_000] = x[2, 69_000] = np.nan  # in the first tile and in the second
    key = jax.random.split(jax.random.key(0), 4)
    for percentile in (50.0, 99.5):
        got = np.asarray(step(x, key, row(percentile=percentile))[1])
        assert np.isnan(got[1:3]).all()
        assert np.isfinite(got[::3]).all()


def test_the_comparisons_sort():
    """All numbers are sorted if all zeros and ones are (Knuth)."""
    ones = np.array(list(itertools.product([0, 1], repeat=pallas_percentile.KEPT)))
    order = pallas_percentile.order
    values = [jnp.asarray(column) for column in ones.T]
    order(values, pallas_percentile.SORT)
    np.testing.assert_array_equal(np.stack(values, 1), np.sort(ones)[:, ::-1])
    # What the greater of a falling and a rising list make.
    falls = ones[(np.diff(ones) <= 0).all(1)]
    first, second = (a.reshape(-1) for a in np.meshgrid(*[np.arange(len(falls))] * 2))
    both = np.maximum(falls[first], falls[second][:, ::-1])
    values = [jnp.asarray(column) for column in both.T]
    order(values, pallas_percentile.MERGE)
    np.testing.assert_array_equal(np.stack(values, 1), np.sort(both)[:, ::-1])


@pytest.mark.parametrize("searched", ["lists", "clip"])
def test_what_is_searched(searched):
    """The lists where the percentile lies above all that they left out, else the clip: right
    although the other of the two holds nothing."""
    rows, lanes = 512, 128
    x = np.abs(np.random.default_rng(0).standard_normal((rows, lanes))).astype(np.float32)
    percent = {"lists": 99.5, "clip": 50.0}[searched]

    def kernel(x_ref, out_ref, lists, found, clip):
        lists[...] = jnp.full(lists.shape, -1, jnp.float32)
        slots = pallas_percentile.slots(rows, lanes)

        def body(i, start, size, carry):
            read = x_ref[pl.ds(start, size), :]
            eights = [read[at : at + 8] for at in range(0, size, 8)]
            pallas_percentile.into_lists(lists, jax.lax.rem(i, slots), eights)
            clip[pl.ds(start, size), :] = read
            return carry

        pallas_percentile.over_rows(rows, body, 0, 64)
        if searched == "lists":
            clip[...] = jnp.full(clip.shape, jnp.nan, jnp.float32)
        else:
            # The eighths stay: they say that the lists do not reach so far down.
            height = lists.shape[0] // pallas_percentile.KEPT
            lists[height : 2 * height] = jnp.full((height, lanes), -1, jnp.float32)
        pallas_percentile.percentile(lists, clip, found, rows * lanes, jnp.float32(percent))
        out_ref[...] = found[...]

    call = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        scratch_shapes=[
            *pallas_percentile.scratch(rows, lanes),
            pltpu.VMEM((rows, lanes), jnp.float32),
        ],
        interpret=True,
    )
    want = np.percentile(x, percent)
    np.testing.assert_allclose(jax.jit(call)(x), want, rtol=tolerances.PERCENTILE)


def test_pairs_of_words_are_normal():
    rng = np.random.default_rng(0)
    words = jnp.asarray(rng.integers(0, 2**32, (2, 200_000), np.uint32))
    pair = np.asarray(jax.jit(pallas_noise.normal_pair)(*words), np.float64)
    for z in (*pair, (pair[0] + pair[1]) / np.sqrt(2), (pair[0] - pair[1]) / np.sqrt(2)):
        assert stats.kstest(z, "norm").pvalue > 1e-3
        assert abs(stats.kurtosis(z)) < 0.05
    assert abs(np.corrcoef(pair**2)[0, 1]) < 0.01


def test_the_ends_of_the_words():
    """Every sign, the longest radius, and no NaN where ln u is nearly 0."""
    ends = jnp.uint32([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    first, second = (a.reshape(-1) for a in jnp.meshgrid(ends, ends))
    pair = np.asarray(jax.jit(pallas_noise.normal_pair)(first, second))
    assert np.isfinite(pair).all()
    largest = np.sqrt(2 * np.log(2.0**24))
    np.testing.assert_allclose(np.hypot(*pair).max(), largest, rtol=1e-5)
    u = (np.asarray(first).astype(np.int64) // 512 + 0.5) / 2**23
    v = np.asarray(second).astype(np.int32) / 2.0**31
    sign = np.where(np.asarray(second) % 2, -1, 1)
    exact = np.sqrt(-2 * np.log(u)) * [sign * np.cos(np.pi / 2 * v), np.sin(np.pi / 2 * v)]
    np.testing.assert_allclose(pair, exact, atol=5e-5, rtol=1e-5)


def test_noise_of_its_own():
    """Normal, other for every value, clip, tile and piece; the same for the same key."""
    key = jax.random.split(jax.random.key(1), 2)
    zero = jnp.zeros((2, 30_000, 1))
    draw = functools.partial(step, zero, coefficients=row(c_noise=1.0), offset=0, noise="hardware")
    z = np.asarray(draw(key)[0])
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(z)) > 0.97 * z.size  # of float32 numbers some are drawn twice
    assert abs(np.corrcoef(z[0, :-1024, 0], z[0, 1024:, 0])[0, 1]) < 0.02
    np.testing.assert_array_equal(z[::-1], draw(key[::-1])[0])
    assert not np.array_equal(z, draw(key, offset=7)[0])


def test_elsewhere_the_noise_is_that_of_jax_random():
    key = jax.random.split(jax.random.key(1), 2)
    zero = jnp.zeros((2, 50, 3))
    for offset in (0, jnp.int32(20)):
        options = {"offset": offset, "implementation": "auto"}
        got, want = (
            ancestral_step(zero, zero, None, key, row(c_noise=1.0), noise=noise, **options)[0]
            for noise in ("hardware", "threefry")
        )
        np.testing.assert_array_equal(got, want)


def test_an_unknown_noise_is_an_error():
    zero = jnp.zeros((1, 5, 1))
    key = jax.random.split(jax.random.key(1), 1)
    with pytest.raises(ValueError, match=r"noise must be threefry or hardware, got 'white'"):
        ancestral_step(zero, zero, None, key, row(), noise="white")
