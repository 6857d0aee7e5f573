"""The ops with clips split in time, and conv1d_block with split channels, on four devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from noise2music.attention import attention, ring_attention
from noise2music.kernels import ancestral_step, combine_film, conv1d_block
from noise2music.kernels.ancestral_step import sharded
from rooms import IMPLEMENTATIONS, error

pytestmark = pytest.mark.usefixtures("quick_compiler")

MESH = Mesh(np.array(jax.devices()[:4]), ("time",))
ROWS, SAME_EVERYWHERE = P(None, "time"), P()
SENT = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)[-s(]")


def split(function, ins, outs):
    """The function of arrays that are split over four devices."""
    return jax.jit(
        jax.shard_map(function, mesh=MESH, in_specs=ins, out_specs=outs, check_vma=False)
    )


def run_and_read(function, *args):
    """(result, kinds of what the program sends)."""
    program = function.lower(*args).compile()
    return program(*args), set(SENT.findall(program.as_text()))


def normal(name, *shape):
    return jnp.asarray(np.random.default_rng(len(name)).standard_normal(shape), jnp.float32)


# (taps, stride, rows of a device, with norm, residual and sums). Pieces of one and two rows are
# shorter than the halo: rows come from the second and third neighbour.
CONVOLUTIONS = [
    (3, 1, 8, False),
    (9, 1, 16, True),
    (9, 1, 2, True),
    (7, 1, 1, True),
    (4, 1, 6, False),
    (5, 4, 8, True),
    (7, 4, 16, False),
    (9, 4, 4, True),
    (2, 3, 9, False),
]


def convolution(taps, stride, rows, normed):
    """(x, residual) split in time, the rest of the operands, and the function of both."""
    x, weight = 2 + normal("x", 2, 4 * rows, 8), normal("weight", taps, 8, 12) / 4
    bias = normal("bias", 12)
    if not normed:
        return (x,), (weight, bias), lambda x, w, b, **how: conv1d_block(x, w, b, **how)
    residual, fc = normal("residual", 2, 4 * rows // stride, 6), normal("fc", 6, 12)
    scale, offset = 1 + normal("scale", 8), normal("offset", 8)

    def run(x, residual, weight, bias, scale, offset, fc, **how):
        return conv1d_block(
            x, weight, bias, scale=scale, offset=offset, groups=4, residual=residual, fc=fc,
            out_groups=3, **how,
        )  # fmt: skip

    return (x, residual), (weight, bias, scale, offset, fc), run


BY = [(*case, IMPLEMENTATIONS[0]) for case in CONVOLUTIONS] + [(*CONVOLUTIONS[1], "reference")]


@pytest.mark.parametrize("taps,stride,rows,normed,implementation", BY)
def test_a_convolution_in_pieces_is_the_whole(taps, stride, rows, normed, implementation):
    pieces, whole, run = convolution(taps, stride, rows, normed)
    how = {"stride": stride, "implementation": implementation}
    want = jax.jit(functools.partial(run, **how))(*pieces, *whole)
    ins = (ROWS,) * len(pieces) + (SAME_EVERYWHERE,) * len(whole)
    outs = (ROWS, SAME_EVERYWHERE) if normed else ROWS
    cut = split(functools.partial(run, time_axis="time", **how), ins, outs)
    got, sent = run_and_read(cut, *pieces, *whole)
    if normed:
        (got, sums), (want, want_sums) = got, want
        np.testing.assert_allclose(4 * sums, want_sums, rtol=2e-5, atol=2e-3)
    limit = tolerances.TOOM_COOK if implementation == "native" else tolerances.VALUE
    assert error(got, want) < limit["float32"]
    reaches_beyond = {"collective-permute"} if taps > stride else set()
    assert sent == reaches_beyond | ({"all-reduce"} if normed else set())


@pytest.mark.parametrize("stride", [1, 4])
def test_many_channels_in_pieces_are_the_whole(stride):
    """From 128 channels on, the neighbours' products are made by a convolution."""
    x, weight = normal("x", 1, 4 * 8, 128), normal("weight", 9, 128, 128) / 32
    how = {"stride": stride, "implementation": "reference"}
    cut = functools.partial(conv1d_block, time_axis="time", **how)
    got = split(cut, (ROWS, SAME_EVERYWHERE, SAME_EVERYWHERE), ROWS)(x, weight, x[0, 0])
    want = conv1d_block(x, weight, x[0, 0], **how)
    assert error(got, want) < tolerances.VALUE["float32"]


def test_the_rows_at_the_cuts_are_what_is_tested():
    """Without the neighbours' rows the result is far off."""
    pieces, whole, run = convolution(7, 1, 16, False)
    want = run(*pieces, *whole)
    alone = split(run, (ROWS, SAME_EVERYWHERE, SAME_EVERYWHERE), ROWS)(*pieces, *whole)
    assert error(alone, want) > 0.1


def test_a_convolution_of_bfloat16_in_pieces():
    pieces, whole, run = convolution(7, 1, 16, True)
    pieces = tuple(a.astype(jnp.bfloat16) for a in pieces)
    want, _ = jax.jit(run)(*pieces, *whole)
    ins = (ROWS,) * 2 + (SAME_EVERYWHERE,) * 5
    got, _ = split(functools.partial(run, time_axis="time"), ins, (ROWS, SAME_EVERYWHERE))(
        *pieces, *whole
    )
    assert got.dtype == jnp.bfloat16 and error(got, want) < 2 * tolerances.VALUE["bfloat16"]


def test_gradients_cross_the_cuts():
    pieces, whole, run = convolution(7, 1, 4, True)
    ins, outs = (ROWS,) * 2 + (SAME_EVERYWHERE,) * 5, (ROWS, SAME_EVERYWHERE)
    cut = jax.shard_map(
        functools.partial(run, time_axis="time"), mesh=MESH, in_specs=ins, out_specs=outs,
        check_vma=False,
    )  # fmt: skip

    def loss(function, pieces, *args):
        y, sums = function(*args)  # of the pieces, the mean of their sums
        return jnp.sin(y).sum() + jnp.sin(1e-2 * pieces * sums).sum()

    every = tuple(range(7))
    want = jax.jit(jax.grad(functools.partial(loss, run, 1), every))(*pieces, *whole)
    got = jax.jit(jax.grad(functools.partial(loss, cut, 4), every))(*pieces, *whole)
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < 5 * tolerances.GRADIENT["float32"]


def test_a_block_with_split_channels_sends_one_sum():
    """Columns of the first weight, rows of the second: nothing is sent in between."""
    x, first, second = 2 + normal("x", 2, 24, 8), normal("a", 5, 8, 16), normal("bb", 5, 16, 8)
    bias, bias2, fc = normal("c", 16), normal("dd", 8), normal("eee", 8, 8)
    scale, offset = 1 + normal("scale", 16), normal("offset", 16)

    def run(x, first, bias, scale, offset, second, bias2, residual, fc, groups, **how):
        h, sums = conv1d_block(x, first, bias, out_groups=groups)
        return conv1d_block(
            h, second, bias2, scale=scale, offset=offset, groups=groups, sums=sums, out_groups=4,
            residual=residual, fc=fc, **how,
        )  # fmt: skip

    args = (x, first, bias, scale, offset, second, bias2, x, fc)
    want, want_sums = jax.jit(functools.partial(run, groups=8))(*args)
    columns, rows = P(None, None, "time"), P(None, "time")
    ins = (P(), columns, P("time"), P("time"), P("time"), rows, P(), columns, P("time"))
    cut = split(functools.partial(run, groups=2, channel_axis="time"), ins, (P(), P()))
    (got, sums), sent = run_and_read(cut, *args)
    assert error(got, want) < tolerances.TOOM_COOK["float32"]
    np.testing.assert_allclose(sums, want_sums, rtol=1e-4, atol=1e-2)
    assert sent == {"all-reduce"}


def test_combine_film_in_pieces():
    args = (normal("x", 2, 12, 8), normal("emb", 2, 5), normal("kernel", 5, 16), normal("b", 16))
    want, sums = combine_film(*args, groups=4)
    run = functools.partial(combine_film, groups=4, time_axis="time")
    got, mean = split(run, (ROWS, P(), P(), P()), (ROWS, P()))(*args)
    np.testing.assert_allclose(got, want, **tolerances.SAME)
    np.testing.assert_allclose(4 * mean, sums, **tolerances.SAME)


def rows_of(kind, count):
    values = np.abs(np.random.default_rng(0).standard_normal((3, count))).astype(np.float32)
    if kind == "ties":
        values = np.round(values)
    elif kind == "zeros":
        values[:, count // 4 :] = 0
    elif kind == "nan":
        values[1, 5] = np.nan
    elif kind == "infinite":
        values[1, 5:9] = np.inf
    return jnp.asarray(values)


@pytest.mark.parametrize("kind", ["plain", "ties", "zeros", "nan", "infinite"])
def test_the_percentile_of_pieces_is_that_of_the_clip_to_the_bit(kind):
    values = rows_of(kind, 4 * 53)
    cut = split(functools.partial(sharded.percentile, axis="time"), (ROWS, P()), P())
    whole = jax.jit(lambda v, p: jnp.percentile(v, p, axis=1))
    for percent in (0.0, 0.3, 50.0, 99.5, 99.9, 100.0):
        np.testing.assert_array_equal(cut(values, percent), whole(values, percent), str(percent))


@pytest.mark.parametrize("clipping,noise", [(99.5, 0.4), (0.0, 0.4), (99.5, 0.0)])
def test_a_step_in_pieces_draws_the_noise_of_its_place(clipping, noise):
    shape = (3, 4 * 10, 5)
    x, cond, uncond = (normal(name, *shape) for name in ("x", "co", "unc"))
    keys = jax.random.split(jax.random.key(1), 3)
    coefficients = jnp.float32([3.0, 1.41, 1.0, 0.9, 0.1, noise, clipping, 1.0])
    want = ancestral_step(x, cond, uncond, keys, coefficients, implementation="reference")
    run = functools.partial(ancestral_step, time_axis="time")
    cut = split(run, (ROWS, ROWS, ROWS, P(), P()), (ROWS, ROWS))
    got, sent = run_and_read(cut, x, cond, uncond, keys, coefficients)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert sent == {"all-reduce"}


def test_attention_in_a_ring():
    q, k, v = (normal(name, 2, 4 * 6, 2, 8) for name in ("q", "kk", "vvv"))
    cut = split(functools.partial(ring_attention, axis="time"), (ROWS,) * 3, ROWS)
    got, sent = run_and_read(cut, q, k, v)
    np.testing.assert_allclose(got, jax.jit(attention)(q, k, v), **tolerances.SAME)
    assert sent == {"collective-permute"}


def test_wrong_axes_are_named():
    x, weight = normal("x", 1, 16, 4), normal("w", 3, 4, 4)
    keys, row = jax.random.split(jax.random.key(0), 1), jnp.ones(8)
    for name, call in (
        ("conv1d_block: time_axis", lambda: conv1d_block(x, weight, time_axis="tiem")),
        ("conv1d_block: channel_axis", lambda: conv1d_block(x, weight, channel_axis="tiem")),
        ("ancestral_step: time_axis", lambda: ancestral_step(x, x, x, keys, row, time_axis="t")),
    ):
        with pytest.raises(
            ValueError, match=f"{name} must be the name of an axis of the shard_map"
        ):
            call()
    cut = split(functools.partial(conv1d_block, stride=3, time_axis="time"), (ROWS, P()), ROWS)
    with pytest.raises(ValueError, match="T must be a multiple of the stride 3 on each device"):
        cut(x, weight)
