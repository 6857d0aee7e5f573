"""What is special about conv1d_block: padding, phases of a stride, chained sums, mixed dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from noise2music.kernels import conv1d_block
from noise2music.kernels.conv1d_block import reference
from rooms import IMPLEMENTATIONS, error

EACH_IMPLEMENTATION = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def by_hand(x, weight, stride):
    """The definition, in float64 numpy, tap by tap."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    kernel, length = weight.shape[0], x.shape[1]
    before, after = reference.same_padding(length, kernel, stride)
    padded = np.pad(x, ((0, 0), (before, after), (0, 0)))
    outs = -(-length // stride)
    return sum(
        padded[:, k : k + (outs - 1) * stride + 1 : stride] @ weight[k] for k in range(kernel)
    )


@EACH_IMPLEMENTATION
@pytest.mark.parametrize(
    ("length", "kernel", "stride"), [(13, 4, 1), (13, 3, 2), (24, 7, 4), (5, 2, 5), (3, 9, 2)]
)
def test_pads_like_same_and_strides(length, kernel, stride, implementation):
    x, weight, dy = draw(0, (2, length, 5), (kernel, 5, 3), (2, -(-length // stride), 3))
    y, pull = jax.vjp(
        lambda x, w: conv1d_block(x, w, stride=stride, implementation=implementation), x, weight
    )
    assert error(y, by_hand(x, weight, stride)) <= tolerances.VALUE["float32"]
    # The op is bilinear: <dy, y(x', w)> = <dx, x'> and <dy, y(x, w')> = <dweight, w'>.
    dx, dweight = pull(dy)
    other_x, other_weight = draw(1, x.shape, weight.shape)
    dy = dy.astype(np.float64)
    for ours, exact in (
        ((dx * other_x).sum(), (dy * by_hand(other_x, weight, stride)).sum()),
        ((dweight * other_weight).sum(), (dy * by_hand(x, other_weight, stride)).sum()),
    ):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e2 * tolerances.VALUE["float32"])


@EACH_IMPLEMENTATION
def test_depth_to_time_is_a_transposed_convolution(implementation):
    """Stride 1 to S D channels, reshaped, equals one convolution over zero-stuffed x."""
    stride, taps = 4, 3
    x, weight = draw(2, (2, 11, 6), (taps, 6, stride * 5))
    y = conv1d_block(x, weight, implementation=implementation).reshape(2, 11 * stride, 5)
    # Tap k of phase p is tap k S + (S - 1 - p) of one long kernel over x with S - 1 zeros between
    # its rows.
    stuffed = np.zeros((2, 11 * stride, 6))
    stuffed[:, ::stride] = x
    long = np.zeros((taps * stride, 6, 5))
    for p in range(stride):
        long[stride - 1 - p :: stride] = weight[:, :, p * 5 : (p + 1) * 5]
    padded = np.pad(stuffed, ((0, 0), (2 * stride - 1, stride), (0, 0)))
    want = sum(padded[:, j : j + 11 * stride] @ long[j] for j in range(taps * stride))
    assert error(y, want) <= tolerances.VALUE["float32"]


@EACH_IMPLEMENTATION
def test_chained_sums_equal_a_pass_over_x(implementation):
    """Sums handed from one block to the next: the same numbers, the same gradient."""
    x, first, second = draw(3, (2, 30, 8), (5, 8, 16), (3, 16, 4))
    scale, offset = 1 + 0.1 * np.arange(16, dtype=np.float32), np.ones(16, np.float32)

    def chain(handed_on):
        def loss(x, first, second):
            y, sums = conv1d_block(x, first, out_groups=4, implementation=implementation)
            norm = {
                "scale": scale,
                "offset": offset,
                "groups": 4,
                "sums": sums if handed_on else None,
            }
            return jnp.sin(conv1d_block(y, second, **norm, implementation=implementation)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, first, second)

    (value, grads), (want, want_grads) = chain(True), chain(False)
    np.testing.assert_allclose(value, want, **tolerances.SAME)
    for got, exact in zip(grads, want_grads, strict=True):
        assert error(got, exact) <= tolerances.GRADIENT["float32"]


@EACH_IMPLEMENTATION
def test_float32_parameters_with_bfloat16_activations(implementation):
    x, weight, bias = draw(4, (2, 20, 8), (3, 8, 6), (6,))
    x = jnp.asarray(x, jnp.bfloat16)

    def loss(weight, bias):
        y = conv1d_block(x, weight, bias, implementation=implementation)
        assert y.dtype == jnp.bfloat16
        return (y.astype(jnp.float32) ** 2).sum()

    dweight, dbias = jax.jit(jax.grad(loss, argnums=(0, 1)))(weight, bias)
    assert dweight.dtype == dbias.dtype == jnp.float32
    y = by_hand(np.asarray(x, np.float32), weight, 1) + bias
    assert error(dbias, 2 * y.sum(axis=(0, 1))) <= tolerances.GRADIENT["bfloat16"]
