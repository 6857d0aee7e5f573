"""The draw does what section 3.5 says, for every seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise2music.label import balance

seeds = st.integers(0, 2**31)


def clips(seed, n=6, size=40, k=10):
    rng = np.random.default_rng(seed)
    index = np.stack([rng.choice(size, k, replace=False) for _ in range(n)])
    return balance.clip_keys([f"clip {i}" for i in range(n)], "lf", seed), index


@given(seed=seeds, k=st.integers(1, 10))
def test_each_clip_keeps_k_different_captions(seed, k):
    keys, index = clips(seed)
    places = balance.draw(keys, index, balance.frequency(index, 40), k)
    assert places.shape == (6, k)
    assert (np.diff(places, axis=1) > 0).all() and places.min() >= 0 and places.max() < 10


@given(seed=seeds, caption=st.integers(0, 39), more=st.integers(1, 1000))
def test_a_captions_chance_falls_with_its_count(seed, caption, more):
    """What is drawn with a larger count is drawn with a smaller one by the same random numbers."""
    keys, index = clips(seed)
    counts = balance.frequency(index, 40) + 1
    larger = counts.copy()
    larger[caption] += more
    rare = np.take_along_axis(index, balance.draw(keys, index, counts, 3), axis=1)
    common = np.take_along_axis(index, balance.draw(keys, index, larger, 3), axis=1)
    assert ((common == caption).any(axis=1) <= (rare == caption).any(axis=1)).all()


def test_the_first_draw_is_inverse_to_the_count():
    n = 40_000
    keys = balance.clip_keys([str(i) for i in range(n)], "lf", 0)
    index = np.tile(np.arange(4), (n, 1))
    counts = np.array([1, 2, 4, 8])
    drawn = balance.draw(keys, index, counts, 1)[:, 0]
    share = np.bincount(drawn, minlength=4) / n
    p = (1 / counts) / (1 / counts).sum()
    assert np.abs(share - p).max() < 4 * np.sqrt(0.25 / n)


def test_the_second_draw_is_among_those_that_are_left():
    n = 40_000
    keys = balance.clip_keys([str(i) for i in range(n)], "lf", 1)
    counts = np.array([1, 2, 4])
    pairs = balance.draw(keys, np.tile(np.arange(3), (n, 1)), counts, 2)
    left_out = 3 - pairs.sum(axis=1)
    w = 1 / counts
    for j in range(3):
        a, b = (i for i in range(3) if i != j)
        p = w[a] / w.sum() * w[b] / (w.sum() - w[a]) + w[b] / w.sum() * w[a] / (w.sum() - w[b])
        assert abs((left_out == j).mean() - p) < 4 * np.sqrt(0.25 / n)


@given(seed=seeds, cut=st.integers(1, 5))
def test_a_clip_knows_nothing_of_its_shard(seed, cut):
    keys, index = clips(seed)
    counts = balance.frequency(index, 40)
    whole = balance.draw(keys, index, counts, 3)
    parts = [balance.draw(keys[p], index[p], counts, 3) for p in (slice(cut), slice(cut, None))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(seed).permutation(10)
    again = balance.draw(keys, index[:, order], counts, 3)
    kept = [
        np.sort(np.take_along_axis(i, p, axis=1))
        for i, p in ((index, whole), (index[:, order], again))
    ]
    np.testing.assert_array_equal(*kept)


@given(seed=seeds, cut=st.integers(0, 6))
def test_counts_of_parts_add_up(seed, cut):
    _, index = clips(seed)
    parts = balance.frequency(index[:cut], 40) + balance.frequency(index[cut:], 40)
    np.testing.assert_array_equal(parts, balance.frequency(index, 40))
    assert parts.sum() == index.size


def test_seed_vocabulary_and_clip_change_the_draw():
    ids = [f"{i}" for i in range(500)]
    index = np.tile(np.arange(10), (500, 1))
    counts = np.ones(10, int)

    def drawn(ids, vocabulary, seed):
        return balance.draw(balance.clip_keys(ids, vocabulary, seed), index, counts, 3)

    base = drawn(ids, "lf", 0)
    np.testing.assert_array_equal(base, drawn(ids, "lf", 0))
    for other in (drawn(ids, "lf", 1), drawn(ids, "sf", 0), drawn(ids[::-1], "lf", 0)):
        assert 0.9 < (other != base).any(axis=1).mean() <= 1


def test_balancing_raises_the_entropy_of_a_skewed_set():
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 301)
    index = np.stack([rng.choice(300, 10, replace=False, p=p / p.sum()) for _ in range(2000)])
    counts = balance.frequency(index, 300)
    keys = balance.clip_keys([str(i) for i in range(2000)], "lf", 0)
    drawn = np.take_along_axis(index, balance.draw(keys, index, counts, 3), axis=1)
    after = balance.frequency(drawn, 300)
    assert balance.entropy(after) > balance.entropy(counts) + 0.2


def test_entropy_of_known_distributions():
    assert balance.entropy(np.array([5, 5, 5, 5, 0])) == pytest.approx(2)
    assert balance.entropy(np.array([9, 0])) == 0
    assert balance.entropy(np.zeros(3)) == 0


@pytest.mark.parametrize("k", [0, 11])
def test_more_than_k_cannot_be_drawn(k):
    keys, index = clips(0)
    with pytest.raises(ValueError, match=f"K' must be 1 to K = 10, got {k}"):
        balance.draw(keys, index, balance.frequency(index, 40), k)


def test_counts_of_another_vocabulary_are_refused():
    keys, index = clips(0)
    with pytest.raises(ValueError, match="counts must be at least 1"):
        balance.draw(keys, index, np.zeros(40, int), 3)
    with pytest.raises(ValueError, match="captions must be 0 to 9"):
        balance.frequency(index, 10)
