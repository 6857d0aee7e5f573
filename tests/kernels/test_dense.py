"""The products of attention: by our kernel where it pays, the same numbers everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from noise2music.attention import dense
from noise2music.kernels import build_info
from rooms import HAS_NATIVE, error

# A few rows and a large weight: where the kernel pays on every processor. And where it never does.
DEEP, SMALL = (1, 31, 1024, 1056), (2, 5, 24, 16)


def operands(shape, dtype="float32"):
    batch, rows, channels, outs = shape
    rng = np.random.default_rng(3)
    arrays = (
        rng.standard_normal((batch, rows, channels)),
        rng.standard_normal((channels, outs)) / np.sqrt(channels),
        rng.standard_normal(outs),
    )
    return tuple(jnp.asarray(a, dtype) for a in arrays)


@pytest.mark.parametrize("shape", [DEEP, SMALL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients(shape, dtype):
    arrays = operands(shape, dtype)

    def results(implementation):
        y, pull = jax.vjp(lambda *a: dense(*a, implementation), *arrays)
        return y, *pull(jnp.cos(y.astype(jnp.float32)).astype(dtype))

    exact = [np.asarray(a, np.float64) for a in arrays]
    y = exact[0] @ exact[1] + exact[2]
    g = np.asarray(jnp.cos(jnp.asarray(y, jnp.float32)).astype(dtype), np.float64)
    right = (
        y, g @ exact[1].T, np.einsum("btc,btd->cd", exact[0], g), g.sum((0, 1)),
    )  # fmt: skip
    limit = tolerances.RANDOM[dtype]
    for ours, true in zip(jax.jit(lambda: results("auto"))(), right, strict=True):
        assert error(np.asarray(ours, np.float64), true) <= limit


@pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library")
def test_who_makes_the_product():
    def calls(shape, implementation="auto", platform="cpu"):
        traced = jax.jit(lambda *a: dense(*a, implementation)).trace(*operands(shape))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("custom_call @n2m_conv1d_block_fwd"), text.count("dot_general")

    assert calls(DEEP) == (1, 0)
    assert calls(SMALL) == calls(DEEP, "reference") == calls(DEEP, platform="tpu") == (0, 1)
    has_tiles = build_info()["isa"] == "amx"
    assert calls((1, 96, 256, 256)) == ((1, 0) if has_tiles else (0, 1))
