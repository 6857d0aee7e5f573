"""Published T5 checkpoints (v1.0, v1.1, Flan), read from a local folder and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx

from noise2music.text import t5
from noise2music.text.tokenizer import Tokenizer

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = ("vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_layers")
_OPTIONAL = (
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
)
_EMBEDDING, _EMBEDDING_ALIAS = "shared.weight", "encoder.embed_tokens.weight"
_STORED_DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a parameter comes from: its path in T5Encoder, its stored shape, its orientation."""

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    transpose: bool


@dataclasses.dataclass(frozen=True)
class _Stored:
    """One entry of a safetensors header."""

    name: str
    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: str


def load_t5(
    folder: str | os.PathLike[str], dtype: Any = jnp.float32
) -> tuple[t5.T5Encoder, Tokenizer, t5.T5Config]:
    """Reads encoder, tokenizer and sizes from a folder in Hugging Face's layout.

    The folder holds config.json, tokenizer.json, and model.safetensors or the shards that
    model.safetensors.index.json lists. Tensors of the decoder and the language-model head are
    skipped without being read. Weights may be stored as float64, float32, bfloat16 or float16; they
    are kept, and products are computed, in `dtype`: float32 or bfloat16.

    Errors: ValueError when dtype is float16 (T5 overflows), when a file is missing, truncated or
    corrupt, when an encoder tensor is missing, unknown, misshapen, not floating point or not
    finite (all of them are named), and when the tokenizer has more ids than the embedding rows.
    """
    dtype = t5.check_dtype("load_t5", "dtype", dtype)
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"n2m.load_t5: folder must be an existing folder, got {str(folder)!r}")
    config = _read_config(folder / "config.json")
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.is_file():
        raise ValueError(
            f"n2m.load_t5: folder must hold tokenizer.json, got none in {str(folder)!r}; "
            "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes it"
        )
    tokenizer = Tokenizer.from_file(tokenizer_path)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"n2m.load_t5: tokenizer.json must have at most vocab_size = {config.vocab_size} ids, "
            f"got {tokenizer.vocab_size}; the two files belong to different models"
        )
    return _read_encoder(folder, config, dtype), tokenizer, config


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"n2m.load_t5: folder must hold {path.name}, got: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"n2m.load_t5: {str(path)!r} must be complete JSON, got: {error}"
        ) from error
    kind = type(value).__name__
    if kind != "dict":
        raise ValueError(f"n2m.load_t5: {str(path)!r} must hold a JSON object, got a {kind}")
    return value


def _read_config(path: pathlib.Path) -> t5.T5Config:
    raw = _read_json(path)
    missing = [name for name in _SIZES if name not in raw]
    if missing:
        raise ValueError(
            f"n2m.load_t5: {str(path)!r} must give {', '.join(_SIZES)}; missing: "
            f"{', '.join(missing)}. Is it the config of a T5 model?"
        )
    fields = {name: raw[name] for name in (*_SIZES, *_OPTIONAL) if name in raw}
    # Files written before v1.1 existed do not name the activation; it was relu then.
    fields["feed_forward"] = raw.get("feed_forward_proj", "relu")
    try:
        return t5.T5Config(**fields)
    except ValueError as error:
        raise ValueError(f"n2m.load_t5: {str(path)!r} is refused: {error}") from error


def _sources(config: t5.T5Config) -> dict[str, _Source]:
    d, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    attention, final = "layer.0.SelfAttention", "encoder.final_layer_norm.weight"
    buckets = (config.relative_attention_num_buckets, config.num_heads)
    sources = {
        _EMBEDDING: _Source(("embedding",), (config.vocab_size, d), False),
        f"encoder.block.0.{attention}.relative_attention_bias.weight": _Source(
            ("position_bias",), buckets, False
        ),
        final: _Source(("final_norm",), (d,), False),
    }
    dense = "layer.1.DenseReluDense"
    if config.feed_forward == "gated-gelu":
        feed = {
            "wi": ("wi_0", (ff, d)),
            "wi_linear": ("wi_1", (ff, d)),
            "wo": ("wo", (d, ff)),
        }
    else:
        feed = {"wi": ("wi", (ff, d)), "wo": ("wo", (d, ff))}
    for layer in range(config.num_layers):
        prefix = f"encoder.block.{layer}"
        for name in ("q", "k", "v"):
            sources[f"{prefix}.{attention}.{name}.weight"] = _Source(
                ("blocks", layer, name), (inner, d), True
            )
        sources[f"{prefix}.{attention}.o.weight"] = _Source(
            ("blocks", layer, "o"), (d, inner), True
        )
        for ours, (theirs, shape) in feed.items():
            sources[f"{prefix}.{dense}.{theirs}.weight"] = _Source(
                ("blocks", layer, ours), shape, True
            )
        for index, ours in enumerate(("attention_norm", "feed_forward_norm")):
            sources[f"{prefix}.layer.{index}.layer_norm.weight"] = _Source(
                ("blocks", layer, ours), (d,), False
            )
    return sources


def _ignored(name: str) -> bool:
    return name.startswith(("decoder.", "lm_head."))


def _read_encoder(folder: pathlib.Path, config: t5.T5Config, dtype: Any) -> t5.T5Encoder:
    sources = _sources(config)
    stored = {piece.name: piece for path in _weight_files(folder) for piece in _header(path)}
    if _EMBEDDING_ALIAS in stored:
        # Two names of one table: some writers store the first, some the second, some both.
        sources[_EMBEDDING_ALIAS] = sources[_EMBEDDING]
        if _EMBEDDING not in stored:
            del sources[_EMBEDDING]
    _check_header(folder, sources, stored)
    weights = _read_weights(folder, sources, stored, dtype)
    abstract = nnx.eval_shape(
        lambda: t5.T5Encoder(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype)
    )
    graph, state = nnx.split(abstract)
    for where, parameter in nnx.to_flat_state(state):
        parameter.set_value(weights[where])
    return nnx.merge(graph, state)


def _check_header(
    folder: pathlib.Path, sources: dict[str, _Source], stored: dict[str, _Stored]
) -> None:
    present = {name: source for name, source in sources.items() if name in stored}
    faults = {
        "missing": [name for name in sources if name not in stored],
        "unknown": [name for name in stored if name not in sources and not _ignored(name)],
        "misshapen": [
            f"{name} {stored[name].shape} instead of {source.shape}"
            for name, source in present.items()
            if stored[name].shape != source.shape
        ],
        "not floating point": [
            f"{name} {stored[name].dtype}"
            for name in present
            if stored[name].dtype not in _STORED_DTYPES
        ],
    }
    _refuse(folder, faults)


def _read_weights(
    folder: pathlib.Path,
    sources: dict[str, _Source],
    stored: dict[str, _Stored],
    dtype: Any,
) -> dict[tuple[Any, ...], jax.Array]:
    weights: dict[tuple[Any, ...], jax.Array] = {}
    not_finite, conflicting = [], []
    for path in dict.fromkeys(stored[name].file for name in sources):
        with _open(path) as file:
            for name in (name for name in sources if stored[name].file == path):
                source, value = sources[name], file.get_tensor(name)
                if not np.isfinite(value).all():
                    not_finite.append(name)
                array = jnp.asarray(value.T if source.transpose else value, dtype)
                if source.path in weights and not (weights[source.path] == array).all():
                    conflicting += [_EMBEDDING, _EMBEDDING_ALIAS]
                weights[source.path] = array
    _refuse(folder, {"not finite": not_finite, "conflicting": conflicting})
    return weights


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        raise ValueError(
            f"n2m.load_t5: folder must hold {_WEIGHTS} or {_INDEX}, got neither in {str(folder)!r}"
            + (
                f"; {pickled[0]} is a pickle, which can run code when opened: save the model again "
                "with transformers' save_pretrained(folder, safe_serialization=True)"
                if pickled
                else ""
            )
        )
    shards = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(
            f"n2m.load_t5: {str(folder / _INDEX)!r} must map tensors to files under 'weight_map'"
        )
    # Shards of the decoder alone need not be there: nothing in them would be read.
    names = sorted({shard for tensor, shard in shards.items() if not _ignored(tensor)})
    outside = [name for name in names if pathlib.PurePath(name).name != name]
    if outside:
        raise ValueError(f"n2m.load_t5: shards must lie in the folder itself, got {outside}")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ValueError(
            f"n2m.load_t5: folder must hold every shard that {_INDEX} lists; missing: "
            f"{', '.join(absent)}"
        )
    return [folder / name for name in names]


def _open(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"n2m.load_t5: {str(path)!r} must be a whole safetensors file, got one that is "
            f"truncated or corrupt ({error}); copy it again"
        ) from error


def _header(path: pathlib.Path) -> Iterator[_Stored]:
    with _open(path) as file:
        names = file.keys()  # the handle itself is not iterable
        for name in names:
            piece = file.get_slice(name)
            yield _Stored(name, path, tuple(piece.get_shape()), piece.get_dtype())


def _refuse(folder: pathlib.Path, faults: dict[str, list[str]]) -> None:
    lines = [
        f"{kind} ({len(names)}): {', '.join(names)}" for kind, names in faults.items() if names
    ]
    if lines:
        raise ValueError(
            f"n2m.load_t5: the tensors in {str(folder)!r} must be those of the encoder that its "
            "config.json describes, got " + "; ".join(lines)
        )
