"""load_t5: what it accepts from a checkpoint folder, and what it refuses by name."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from noise2music.text.load import load_t5
from safetensors.numpy import load_file, save_file

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"
Q = "encoder.block.1.layer.0.SelfAttention.q.weight"
NORM = "encoder.final_layer_norm.weight"
Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(GOLDEN / "v1_0", tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(GOLDEN / "flan", tmp_path / "model")


def rewrite(folder: pathlib.Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder: pathlib.Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def weights(folder: pathlib.Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(load_t5(folder)[0]))]


def test_never_opens_a_socket(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("load_t5 opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder, tokenizer, config = load_t5(str(folder))
    assert (encoder.config, tokenizer.vocab_size <= config.vocab_size) == (config, True)


def test_every_fault_is_named_at_once(folder: pathlib.Path) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors[Q]
        tensors["encoder.block.7.layer.0.layer_norm.weight"] = np.ones(24, np.float32)
        tensors["surprise"] = np.ones(1, np.float32)
        tensors[NORM] = np.ones(23, np.float32)
        tensors["shared.weight"] = tensors["shared.weight"].astype(np.int8)

    rewrite(folder, spoil)
    with pytest.raises(ValueError, match=r"n2m\.load_t5: the tensors in") as caught:
        load_t5(folder)
    message = str(caught.value)
    assert f"missing (1): {Q}" in message
    assert "unknown (2): encoder.block.7.layer.0.layer_norm.weight, surprise" in message
    assert f"misshapen (1): {NORM} (23,) instead of (24,)" in message
    assert "not floating point (1): shared.weight I8" in message


def test_the_decoder_is_not_needed(folder: pathlib.Path) -> None:
    before = weights(folder)
    rewrite(
        folder,
        lambda tensors: [tensors.pop(name) for name in list(tensors) if "decoder." in name],
    )
    for one, two in zip(before, weights(folder), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_embedding_may_have_its_other_name(folder: pathlib.Path) -> None:
    before = weights(folder)

    def rename(tensors: Tensors) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    rewrite(folder, rename)
    for one, two in zip(before, weights(folder), strict=True):
        np.testing.assert_array_equal(one, two)


def test_two_different_embeddings_are_refused(folder: pathlib.Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1

    rewrite(folder, add)
    with pytest.raises(ValueError, match=r"conflicting \(2\): shared.weight, encoder.embed_tokens"):
        load_t5(folder)


@pytest.mark.parametrize("stored", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_weights_may_be_stored_otherwise(folder: pathlib.Path, stored: type) -> None:
    expected = [leaf.astype(stored).astype(np.float32) for leaf in weights(folder)]
    rewrite(
        folder,
        lambda tensors: tensors.update({k: v.astype(stored) for k, v in tensors.items()}),
    )
    for one, two in zip(expected, weights(folder), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(folder: pathlib.Path, value: float) -> None:
    rewrite(folder, lambda tensors: tensors[Q].__setitem__((0, 0), value))
    with pytest.raises(ValueError, match=rf"not finite \(1\): {Q}"):
        load_t5(folder)


def test_float16_is_refused_with_the_reason(folder: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"n2m\.load_t5: dtype .*float16.*overflow"):
        load_t5(folder, jnp.float16)


@pytest.mark.parametrize("keep", [0, 5, 3000, -1])
def test_a_truncated_file_is_refused(folder: pathlib.Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"n2m\.load_t5: .*model\.safetensors.*truncated or corr"):
        load_t5(folder)


def test_a_corrupt_header_is_refused(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or corrupt"):
        load_t5(folder)


def test_a_missing_shard_is_named(sharded: pathlib.Path) -> None:
    (sharded / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"missing: model-00001-of-00003\.safetensors"):
        load_t5(sharded)


def test_a_truncated_shard_is_named(sharded: pathlib.Path) -> None:
    path = sharded / "model-00001-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"model-00001-of-00003\.safetensors.*truncated"):
        load_t5(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "a/b.safetensors"])
def test_shards_stay_in_the_folder(sharded: pathlib.Path, shard: str) -> None:
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {Q: shard}}))
    with pytest.raises(ValueError, match="shards must lie in the folder itself"):
        load_t5(sharded)


@pytest.mark.parametrize("content", ['{"weight_map": [1]}', "{}", "[]", "{"])
def test_a_malformed_index_is_refused(sharded: pathlib.Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"n2m\.load_t5: .*index\.json"):
        load_t5(sharded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: pathlib.Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"folder must hold {name}"):
        load_t5(folder)


def test_a_missing_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        load_t5(tmp_path / "nowhere")


def test_pickles_are_not_opened(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle"):
        load_t5(folder)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\xff"])
def test_a_malformed_config_is_refused(folder: pathlib.Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"n2m\.load_t5: .*config\.json"):
        load_t5(folder)


def test_a_config_of_another_model_is_refused(folder: pathlib.Path) -> None:
    configure(folder, d_kv=None, d_ff=None)
    with pytest.raises(ValueError, match="missing: d_kv, d_ff"):
        load_t5(folder)


def test_an_unknown_activation_is_refused(folder: pathlib.Path) -> None:
    configure(folder, feed_forward_proj="gated-silu")
    with pytest.raises(ValueError, match=r"refused: .*feed_forward must be one of .*gated-silu"):
        load_t5(folder)


def test_old_configs_leave_out_what_was_fixed_then(folder: pathlib.Path) -> None:
    before = load_t5(folder)[2]
    configure(folder, feed_forward_proj=None, relative_attention_max_distance=None)
    assert load_t5(folder)[2] == before


def test_a_tokenizer_of_another_model_is_refused(folder: pathlib.Path) -> None:
    configure(folder, vocab_size=20)
    with pytest.raises(ValueError, match=r"tokenizer.json must have at most vocab_size = 20 ids"):
        load_t5(folder)
