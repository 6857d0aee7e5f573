"""The distances: golden values, known answers, shards, and what is refused."""

import numpy as np
import pytest
import scipy.linalg
import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from noise2music.errors import UserError
from noise2music.evaluate import Moments, compare, estimate, fad_infinity, frechet_distance
from noise2music.evaluate.frechet import per_clip, principal_axes, quick_distance
from noise2music.evaluate.kernel_distance import kernel_distance, median_distance

# What frechet-audio-distance 0.3.4, fadtk 1.1.0 and fad-pytorch 0.0.6 give for the sets below;
# the first two for 60 and 50 rows; kadtk 1.1.0 in float64 with bandwidth 10, in float32 with the
# median of y.
PUBLISHED = 71.945541771005
PUBLISHED_FEW_ROWS = 137.479916
PUBLISHED_KAD_10 = 1.799086478880
PUBLISHED_KAD_MEDIAN = 1.376795768738

# The same examples on every run.
EXAMPLES = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(1234)
    a = rng.standard_normal((128, 128)) / np.sqrt(128)
    b = rng.standard_normal((128, 128)) / np.sqrt(128)
    x = rng.standard_normal((2000, 128)) @ a
    return x, rng.standard_normal((1500, 128)) @ b + 0.2


def test_equals_the_published_tools(sets):
    x, y = sets
    assert frechet_distance(x, y) == pytest.approx(PUBLISHED, rel=tolerances.FRECHET_SHARDED)
    assert frechet_distance(y, x) == pytest.approx(PUBLISHED, rel=tolerances.FRECHET_SHARDED)
    few = frechet_distance(x[:60], y[:50])
    assert few == pytest.approx(PUBLISHED_FEW_ROWS, rel=tolerances.FRECHET)
    assert quick_distance(Moments.of(x), Moments.of(y)) == pytest.approx(PUBLISHED)


def test_kernel_distance_equals_the_published_tool(sets):
    x, y = sets
    assert kernel_distance(x, y, 10.0) == pytest.approx(PUBLISHED_KAD_10, rel=tolerances.FRECHET)
    assert kernel_distance(x, y) == pytest.approx(PUBLISHED_KAD_MEDIAN, rel=tolerances.FRECHET)


def test_kernel_distance_has_no_bias():
    rng = np.random.default_rng(0)
    drawn = [kernel_distance(*rng.standard_normal((2, 20, 16)), 4.0) for _ in range(300)]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / np.sqrt(300)
    assert min(drawn) < 0  # unbiased: it lies on both sides of the truth


@pytest.mark.parametrize("n", [5, 60, 2000])
def test_distance_to_itself(sets, n):
    x = sets[0][:n]
    assert 0.0 <= frechet_distance(x, x) <= tolerances.FRECHET_SELF
    assert 0.0 <= frechet_distance(x, x[::-1]) <= tolerances.FRECHET_SELF


@EXAMPLES
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_never_negative_symmetric_and_unmoved_by_rotation(n, m, d, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) * rng.uniform(0.1, 10)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    found = frechet_distance(x, y)
    scale = np.square(x).sum() + np.square(y).sum()
    assert found >= 0.0
    assert abs(frechet_distance(y, x) - found) <= tolerances.FRECHET_SHARDED * scale
    assert abs(frechet_distance(x @ rotation, y @ rotation) - found) <= 1e-12 * scale
    assert frechet_distance(x, x + 3.0) == pytest.approx(9.0 * d)


@EXAMPLES
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_shards_merge_in_any_order(shards, seed):
    rng = np.random.default_rng(seed)
    n, d = 120, 16
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 5.0
    y = Moments.of(rng.standard_normal((50, d)))
    cuts = np.sort(rng.integers(0, n + 1, shards - 1))
    parts = [Moments.of(x[rows]) for rows in np.split(rng.permutation(n), cuts) if len(rows)]
    whole, merged = Moments.of(x), Moments.merge_all(parts)
    assert merged.n == n
    expected = frechet_distance(whole, y)
    found = frechet_distance(merged, y)
    assert found == pytest.approx(expected, rel=tolerances.FRECHET_SHARDED)
    assert frechet_distance(merged, whole) <= tolerances.FRECHET_SELF


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 3)), np.zeros((4, 3)), r"x must be \(n >= 1"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "y must be finite"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "one d"),
        (np.zeros(3), np.zeros((4, 3)), "x must be"),
    ],
)
def test_refuses(x, y, message):
    with pytest.raises(ValueError, match=f"n2m.evaluate: .*{message}"):
        frechet_distance(x, y)


def test_a_row_alone_has_no_spread():
    y = np.random.default_rng(0).standard_normal((50, 4))
    expected = np.square(y.mean(axis=0)).sum() + np.cov(y.T).trace()
    assert frechet_distance(np.zeros((1, 4)), y) == pytest.approx(expected)


def _gaussians(d, seed=7):
    """Two roots and a mean, and the closed form of their distance."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, d, d)) / np.sqrt(d)
    mean = 0.2 * rng.standard_normal(d)
    root = scipy.linalg.sqrtm(a.T @ a).real
    cross = np.trace(scipy.linalg.sqrtm(root @ b.T @ b @ root).real)
    truth = np.square(mean).sum() + np.square(a).sum() + np.square(b).sum() - 2 * cross
    return a, b, mean, truth


def test_the_interval_holds_the_known_answer():
    """95 of 100 trials, five more or less; what the sample says itself lies beyond it by far."""
    a, b, mean, truth = _gaussians(8)
    held, plain = 0, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = list((rng.standard_normal((100, 8)) @ a)[:, None])
        y = list((rng.standard_normal((150, 8)) @ b + mean)[:, None])
        found = estimate(x, y, draws=60, seed=seed)
        held += found.low <= truth <= found.high
        plain.append(found.fad)
    assert 90 <= held <= 100
    assert np.mean(plain) > truth


def test_infinity_takes_the_bias_away():
    """1000 rows of one Gaussian, d = 128: 8.46 where the truth is 0."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000, 1, 128))
    found, line = fad_infinity(x, y, repeats=1)
    assert line[-1, 1] == pytest.approx(8.46, abs=0.3)
    assert abs(found) < 0.4
    assert np.all(np.diff(line[::-1, 1]) > 0)  # the fewer clips, the larger


def test_too_few_rows_are_refused_unless_forced():
    rng = np.random.default_rng(0)
    x, y = list(rng.standard_normal((20, 2, 30))), list(rng.standard_normal((40, 2, 30)))
    with pytest.raises(UserError, match="needs at least 60 rows in each set, got 40 and 80"):
        compare(x, y)
    forced = compare(x, y, force=True, draws=20, names=[f"{i}" for i in range(20)])
    assert (forced.forced, forced.clips, forced.rows, forced.d) == (True, 20, 40, 30)
    assert list(forced.per_clip) == [f"{i}" for i in range(20)]
    small = compare(x, y, components=10, draws=20)
    assert (small.forced, small.d, small.components) == (False, 10, 10)
    with pytest.raises(UserError, match="at least 4 clips, got 3"):
        compare(x[:3], y)


def test_the_odd_clip_is_the_farthest():
    rng = np.random.default_rng(0)
    clips = list(rng.standard_normal((6, 4, 8)))
    clips[3] += 4.0
    found = per_clip(clips, rng.standard_normal((200, 8)))
    assert found.argmax() == 3 and found.shape == (6,)


def test_principal_axes():
    rng = np.random.default_rng(0)
    rows = (
        rng.standard_normal((300, 6))
        * [9, 5, 1, 1, 1, 1]
        @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    )
    mean, axes = principal_axes(rows, 2)
    assert axes.shape == (6, 2)
    np.testing.assert_allclose(((rows - mean) @ axes).std(axis=0), [9, 5], rtol=0.1)
    with pytest.raises(ValueError, match=r"components must be in 1\.\.6, got 7"):
        principal_axes(rows, 7)


def test_equal_rows_have_no_bandwidth():
    with pytest.raises(ValueError, match="must differ"):
        median_distance(np.ones((5, 3)))
