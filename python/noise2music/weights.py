"""Released weights: safetensors with the config inside.

Parameters are named by their place in the module.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from noise2music.quantize import dequantize, quantize


def flatten(state: Any) -> dict[str, Any]:
    """An nnx state as {"down.0.weight": array}, sorted by name."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", "")))) for p in path]
    return ".".join(p for p in parts if p not in ("", "value"))


def save_state(
    path: str | os.PathLike[str], state: Any, config: dict[str, Any], dtype: Any = np.float16
) -> None:
    """Writes a state with its config as metadata. dtype: float16, float32 or int8 (quantize.py)."""
    tensors = {n: np.asarray(a) for n, a in flatten(state).items()}
    if np.dtype(dtype) == np.int8:
        save_tensors(path, quantize(tensors), config)
    else:
        save_tensors(path, {n: a.astype(dtype) for n, a in tensors.items()}, config)


def save_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Any], config: dict[str, Any]
) -> None:
    """Writes named tensors with the config as metadata, to a temporary name first."""
    path = Path(path)
    bad = [n for n, a in tensors.items() if not np.isfinite(a).all()]
    if bad:
        raise ValueError(
            f"n2m.weights: every weight must be finite as stored, got NaN or Inf in {bad[:3]}"
        )
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"format": "noise2music", "config": json.dumps(config)})
    part.chmod(0o644)  # safetensors writes files that only their owner may read
    os.replace(part, path)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config inside a file of released weights."""
    with _open(path) as f:
        metadata = f.metadata() or {}
    if "config" not in metadata:
        raise ValueError(f"n2m.weights: {path} must be made by noise2music (no config inside)")
    return json.loads(metadata["config"])


def load_state(path: str | os.PathLike[str], target: Any) -> Any:
    """`target` (arrays or shapes) filled from a file, float32.

    Missing, extra and misshapen tensors are named.
    """
    want = flatten(target)
    with _open(path) as f:
        have = dequantize({n: f.get_tensor(n) for n in f.keys()}, path)
    problems = [f"missing {n}" for n in want if n not in have]
    problems += [f"extra {n}" for n in have if n not in want]
    problems += [
        f"{n} must be {tuple(want[n].shape)}, got {tuple(have[n].shape)}"
        for n in want
        if n in have and tuple(have[n].shape) != tuple(want[n].shape)
    ]
    problems += [f"{n} has NaN or Inf" for n, a in have.items() if not np.isfinite(a).all()]
    if problems:
        shown = "; ".join(problems[:5]) + (
            f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        )
        raise ValueError(f"n2m.weights: {path} does not fit the model: {shown}")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(target)
    return jax.tree.unflatten(
        treedef, [jnp.asarray(have[_name(p)], jnp.float32) for p, _ in leaves]
    )


def file_hash(paths: list[Path]) -> str:
    """sha256 over the files' bytes, first 16 hex digits: the identity of a model."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _open(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"n2m.weights: {path} must be a safetensors file, found none")
    try:
        return safe_open(os.fspath(path), framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"n2m.weights: {path} is corrupt or truncated ({error})") from error
