"""The K nearest captions are those of float64 brute force, ties and near ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise2music.errors import UserError
from noise2music.label.rows import Rows, round_rows, to_bytes
from noise2music.label.topk import top_k


def brute_force(clips, captions, k):
    a, v = clips.astype(np.float64), captions.astype(np.float64)
    s = a @ v.T / (np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(v, axis=1))
    order = np.stack([np.lexsort((np.arange(len(v)), -row)) for row in s])[:, :k]
    return order, np.take_along_axis(s, order, axis=1)


def stored(tmp_path, captions, parts=1):
    paths = []
    for i, part in enumerate(np.array_split(captions, parts)):
        paths.append(tmp_path / f"part-{i}.npy")
        paths[-1].write_bytes(to_bytes(part))
    return Rows(paths)


def unit(rng, n, d):
    return round_rows(rng.standard_normal((n, d)))


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("n", "v", "d", "k", "block"), [(37, 1000, 64, 10, 128), (5, 12, 7, 12, 5)]
)
def test_random_rows(tmp_path, n, v, d, k, block, on_device):
    rng = np.random.default_rng(0)
    clips, captions = unit(rng, n, d), unit(rng, v, d)
    rows = stored(tmp_path, captions, parts=3)
    index, s = top_k(clips, rows, k, block=block, chunk=16, on_device=on_device)
    expected, similarity = brute_force(clips, captions, k)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(s, similarity, rtol=1e-15)


@pytest.mark.parametrize("on_device", [False, True])
def test_what_float32_cannot_tell_apart(tmp_path, on_device):
    """Captions that differ by one unit in the last place of float16 in few of 512 numbers."""
    rng = np.random.default_rng(1)
    clips = unit(rng, 8, 512)
    captions = np.repeat(clips, 40, axis=0)
    for row in captions:
        for j in rng.integers(0, 512, 2):
            row[j] = np.nextafter(row[j], np.float16(rng.choice([-2, 2])))
    captions = captions[rng.permutation(len(captions))]
    expected, similarity = brute_force(clips, captions, 10)
    assert np.diff(similarity, axis=1).max() <= 0
    # Neighbours are closer than the error of a float32 product, and the order still is right.
    assert np.median(-np.diff(similarity, axis=1)) < 2.0**-20
    index, _ = top_k(clips, stored(tmp_path, captions), 10, block=64, on_device=on_device)
    np.testing.assert_array_equal(index, expected)


@pytest.mark.parametrize("on_device", [False, True])
def test_equal_similarities_go_by_the_captions_number(tmp_path, on_device):
    rng = np.random.default_rng(2)
    few = unit(rng, 5, 32)
    captions = few[rng.integers(0, 5, 300)]
    clips = unit(rng, 9, 32)
    index, s = top_k(clips, stored(tmp_path, captions), 10, block=50, on_device=on_device)
    np.testing.assert_array_equal(index, brute_force(clips, captions, 10)[0])
    assert (np.diff(s, axis=1) == 0).any()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 60), chunk=st.integers(1, 9))
def test_blocks_and_chunks_change_nothing(tmp_path_factory, seed, block, chunk):
    rng = np.random.default_rng(seed)
    clips, captions = unit(rng, 9, 16), unit(rng, 50, 16)
    rows = stored(tmp_path_factory.mktemp("rows"), captions)
    index, s = top_k(clips, rows, 4, block=block, chunk=chunk)
    whole, t = top_k(clips, rows, 4)
    np.testing.assert_array_equal(index, whole)
    np.testing.assert_array_equal(s, t)


def test_what_is_refused(tmp_path):
    rng = np.random.default_rng(3)
    clips, captions = unit(rng, 2, 8), stored(tmp_path, unit(rng, 5, 8))
    with pytest.raises(ValueError, match=r"K must be 1 to the size of the vocabulary \(5\), got 6"):
        top_k(clips, captions, 6)
    with pytest.raises(ValueError, match="clips must be float16"):
        top_k(clips.astype(np.float32), captions, 2)
    with pytest.raises(ValueError, match=r"clips must be float16 \(N, 8\)"):
        top_k(unit(rng, 2, 9), captions, 2)
    with pytest.raises(ValueError, match="clips must be rows of norm 1 within 1 %, got 2 in row 1"):
        top_k(clips * np.array([[1], [2]], np.float16), captions, 2)
    with pytest.raises(ValueError, match="finite"):
        round_rows(np.array([[1.0, np.nan]]))


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "rows.npy"
    content = to_bytes(unit(np.random.default_rng(4), 5, 8))
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match="not whole"):
        Rows([path])
    path.write_bytes(to_bytes(np.zeros((3, 4), np.float32)))
    with pytest.raises(UserError, match=r"must hold \(n, d\) float16"):
        Rows([path])
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        Rows([path])
