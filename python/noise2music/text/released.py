"""The small T5 that a released model carries.

It lies in the model's folder as text_encoder.safetensors and tokenizer.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flax import nnx

from noise2music import weights
from noise2music.config import from_dict
from noise2music.text.t5 import TINY, T5Config, T5Encoder
from noise2music.text.tokenizer import Tokenizer, train_tokenizer

FILE = "text_encoder.safetensors"
_ALPHABET = [
    "slow church organ chorale in d minor at 70 beats a minute",
    "fast rock band with drums",
]


def load_text_encoder(folder: Path) -> tuple[Tokenizer, T5Encoder]:
    """The tokenizer and T5 encoder of a model folder. ValueError names what does not fit."""
    path = Path(folder) / FILE
    config = from_dict(T5Config, weights.read_config(path))
    graph, abstract = nnx.split(nnx.eval_shape(lambda: T5Encoder(config, rngs=nnx.Rngs(0))))
    encoder = nnx.merge(graph, weights.load_state(path, abstract))
    return Tokenizer.from_file(Path(folder) / "tokenizer.json"), encoder


def save_text_encoder(folder: Path, state: object, config: T5Config, tokenizer: Tokenizer) -> None:
    """Writes both files."""
    weights.save_state(Path(folder) / FILE, state, dataclasses.asdict(config))
    tokenizer.save(Path(folder) / "tokenizer.json")


def save_untrained_text_encoder(folder: Path, seed: int) -> None:
    """Random weights of the tiny encoder with a tokenizer of bytes and a few words."""
    state = nnx.split(T5Encoder(TINY, rngs=nnx.Rngs(seed)))[1]
    save_text_encoder(folder, state, TINY, train_tokenizer(_ALPHABET, 512))
