"""The T5 encoder: parity with transformers by golden files, isolation of masked positions."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from noise2music.text import t5
from noise2music.text.load import load_t5
from safetensors.numpy import load_file

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"
FAMILIES = ("v1_0", "v1_1", "flan")
# Outputs are of order 1. Golden parity is the bound; rounding is for the same sum in
# another order; bfloat16 keeps 8 bits, over two blocks.
GOLDEN_ATOL, ROUNDING_ATOL, BFLOAT16_ATOL = 1e-5, 1e-5, 0.15
SMALL = t5.T5Config(vocab_size=64, d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=1)

encode = nnx.jit(lambda encoder, tokens, mask: encoder(tokens, mask))


@pytest.fixture(scope="module")
def small() -> t5.T5Encoder:
    return t5.T5Encoder(SMALL, rngs=nnx.Rngs(0))


def batch(lengths: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    tokens = np.random.default_rng(0).integers(2, SMALL.vocab_size, mask.shape, np.int32)
    return np.where(mask, tokens, 0), mask


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family: str) -> None:
    encoder, _, config = load_t5(GOLDEN / family)
    assert config.feed_forward == ("relu" if family == "v1_0" else "gated-gelu")
    golden = load_file(GOLDEN / family / "expected.safetensors")
    output = np.asarray(encode(encoder, golden["tokens"], golden["mask"]))
    assert output.dtype == np.float32
    np.testing.assert_allclose(output[golden["mask"]], golden["live"], rtol=0, atol=GOLDEN_ATOL)
    assert not output[~golden["mask"]].any()


def test_bfloat16_is_near() -> None:
    encoder, _, _ = load_t5(GOLDEN / "v1_1", jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(encoder))} == {jnp.dtype("bfloat16")}
    golden = load_file(GOLDEN / "v1_1" / "expected.safetensors")
    output = encode(encoder, golden["tokens"], golden["mask"])
    assert output.dtype == jnp.bfloat16
    live = np.asarray(output.astype(jnp.float32))[golden["mask"]]
    np.testing.assert_allclose(live, golden["live"], rtol=0, atol=BFLOAT16_ATOL)


def test_position_buckets_equal_transformers() -> None:
    golden = load_file(GOLDEN / "positions.safetensors")
    reach = int(golden["relative"].max())
    table = t5.relative_position_buckets(reach + 1, 32, 128)
    by_distance = np.concatenate([table[reach, :reach], table[0]])
    np.testing.assert_array_equal(by_distance, golden["buckets"])
    assert t5.relative_position_buckets(0, 32, 128).shape == (0, 0)


def test_masked_positions_do_not_leak(small: t5.T5Encoder) -> None:
    tokens, mask = batch([30, 7, 1], 30)
    output = encode(small, tokens, mask)
    beyond = np.where(mask, tokens, SMALL.vocab_size + 3)  # NaN, were it read
    np.testing.assert_array_equal(encode(small, beyond, mask), output)
    assert not np.asarray(output)[~mask].any()


def test_padding_and_batch_change_nothing_but_rounding(small: t5.T5Encoder) -> None:
    tokens, mask = batch([30, 7, 1], 30)
    output = encode(small, tokens, mask)
    alone = encode(small, tokens[1:2, :7], mask[1:2, :7])
    np.testing.assert_allclose(alone[0], output[1, :7], rtol=0, atol=ROUNDING_ATOL)


def test_mask_may_have_holes(small: t5.T5Encoder) -> None:
    tokens, mask = batch([30, 7, 1], 30)
    mask = mask & (np.arange(30) != 4)
    other = np.where(mask, tokens, 9)
    np.testing.assert_array_equal(encode(small, tokens, mask), encode(small, other, mask))


def test_a_row_without_tokens_is_zero_with_finite_gradients(
    small: t5.T5Encoder,
) -> None:
    tokens, mask = batch([30, 7, 0], 30)
    assert not np.asarray(encode(small, tokens, mask))[2].any()
    loss = nnx.jit(nnx.grad(lambda encoder: (encoder(tokens, mask) ** 3).sum()))
    leaves = jax.tree.leaves(loss(small))
    assert len(leaves) == len(jax.tree.leaves(nnx.state(small)))
    for leaf in leaves:
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
def test_small_shapes(small: t5.T5Encoder, shape: tuple[int, int]) -> None:
    output = encode(small, np.ones(shape, np.int32), np.ones(shape, bool))
    assert output.shape == (*shape, SMALL.d_model)


def test_an_id_past_the_vocabulary_is_loud(small: t5.T5Encoder) -> None:
    tokens, mask = batch([30, 7, 1], 30)
    tokens[0, 1] = SMALL.vocab_size
    assert np.isnan(encode(small, tokens, mask)).any()


def test_initial_weights_are_t5s() -> None:
    config = dataclasses.replace(t5.TINY, d_kv=16, num_layers=1)
    encoder = t5.T5Encoder(config, rngs=nnx.Rngs(1))
    d, inner = config.d_model, config.num_heads * config.d_kv
    block = encoder.blocks[0]
    spread = {
        "embedding": (encoder.embedding, 1.0),
        "q": (block.q, (d * config.d_kv) ** -0.5),
        "k": (block.k, d**-0.5),
        "v": (block.v, d**-0.5),
        "o": (block.o, inner**-0.5),
        "wi": (block.wi, d**-0.5),
        "wi_linear": (block.wi_linear, d**-0.5),
        "wo": (block.wo, config.d_ff**-0.5),
    }
    for name, (parameter, deviation) in spread.items():
        values = np.asarray(parameter[...])
        # Five standard errors of a sample deviation, 1 / sqrt(2 n).
        assert abs(values.std() / deviation - 1) < 5 / (2 * values.size) ** 0.5, name
    np.testing.assert_array_equal(block.attention_norm[...], 1.0)


def test_a_seed_repeats() -> None:
    one, two = (nnx.state(t5.T5Encoder(SMALL, rngs=nnx.Rngs(3))) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
def test_float16_is_refused_with_the_reason(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"n2m\.T5Encoder: {argument} .*float16.*overflow"):
        t5.T5Encoder(SMALL, rngs=nnx.Rngs(0), **{argument: jnp.float16})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float8_e4m3fn, "loud"])
def test_other_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match="must be float32 or bfloat16"):
        t5.T5Encoder(SMALL, rngs=nnx.Rngs(0), dtype=dtype)


@pytest.mark.parametrize(
    ("tokens", "mask", "error", "message"),
    [
        (np.ones(4, np.int32), np.ones(4, bool), ValueError, "tokens must be"),
        (
            np.ones((2, 4), np.int32),
            np.ones((2, 3), bool),
            ValueError,
            "mask must have the shape",
        ),
        (
            np.ones((2, 4), np.float32),
            np.ones((2, 4), bool),
            TypeError,
            "tokens must be integers",
        ),
        (
            np.ones((2, 4), np.int32),
            np.ones((2, 4), np.int32),
            TypeError,
            "mask must be bool",
        ),
    ],
)
def test_bad_arguments(
    small: t5.T5Encoder, tokens: np.ndarray, mask: np.ndarray, error: type, message: str
) -> None:
    with pytest.raises(error, match=rf"n2m\.T5Encoder: {message}"):
        small(tokens, mask)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 0),
        ("d_model", 12.5),
        ("num_heads", True),
        ("relative_attention_num_buckets", 31),
        ("relative_attention_max_distance", 8),
        ("layer_norm_epsilon", 0.0),
        ("layer_norm_epsilon", float("nan")),
        ("feed_forward", "gated-silu"),
    ],
)
def test_bad_config(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"n2m\.T5Config: {field} must .*got"):
        dataclasses.replace(SMALL, **{field: value})
