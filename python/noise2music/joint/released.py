"""A trained joint model in a folder: joint.safetensors (config inside) and tokenizer.json."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from noise2music import weights
from noise2music.config import from_dict, to_dict
from noise2music.joint.towers import JointConfig, Towers
from noise2music.text.t5 import T5Encoder
from noise2music.text.tokenizer import Tokenizer

FILE = "joint.safetensors"
TOKENIZER = "tokenizer.json"


class Joint(NamedTuple):
    """A joint model, ready to hear and read."""

    config: JointConfig
    towers: Towers
    t5: T5Encoder
    tokenizer: Tokenizer


def shipped() -> Path:
    """The folder of the model that comes with the package."""
    return Path(str(resources.files("noise2music") / "presets" / "joint"))


def abstract_modules(config: JointConfig) -> tuple[Towers, T5Encoder]:
    """Both modules with shapes for arrays."""
    towers: Towers = nnx.eval_shape(lambda: Towers(config, rngs=nnx.Rngs(0)))
    t5: T5Encoder = nnx.eval_shape(lambda: T5Encoder(config.text, rngs=nnx.Rngs(0)))
    return towers, t5


def save_joint(folder: Path, config: JointConfig, towers: Any, t5: Any, tok: Tokenizer) -> None:
    """Writes the states of both modules, as float16, and the tokenizer."""
    state = {"text": jax.device_get(t5), "towers": jax.device_get(towers)}
    tok.save(folder / TOKENIZER)
    weights.save_state(folder / FILE, state, to_dict(config))


def load_joint(folder: Path) -> Joint:
    """Reads a folder of `save_joint`. ValueError names what is missing or does not fit."""
    path = Path(folder) / FILE
    config = from_dict(JointConfig, weights.read_config(path))
    abstract_towers, abstract_t5 = abstract_modules(config)
    towers_graph, towers = nnx.split(abstract_towers)
    t5_graph, t5 = nnx.split(abstract_t5)
    state = weights.load_state(path, {"text": t5, "towers": towers})
    return Joint(
        config,
        nnx.merge(towers_graph, state["towers"]),
        nnx.merge(t5_graph, state["text"]),
        Tokenizer.from_file(Path(folder) / TOKENIZER),
    )
