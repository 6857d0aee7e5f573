"""A model that costs next to nothing: the stages of one route, narrow, shallow and untrained."""

import dataclasses
import os

import jax
import numpy as np
import pytest
from flax import nnx
from noise2music import weights
from noise2music.config import ROUTES, load_preset, to_dict
from noise2music.model_folder import write_model_card
from noise2music.text.released import save_text_encoder
from noise2music.text.t5 import T5Encoder
from noise2music.text.tokenizer import train_tokenizer
from noise2music.unet1d import abstract_unet
from small_corpus import TEXT

STRIDES = {  # few, because compiling a depth takes a second; the vocoder's multiply to its 160
    "spectrogram_generator": (2,),
    "spectrogram_vocoder": (10, 16),
    "super_resolution_cascader": (4,),
}
CAPTIONS = ["slow church organ chorale in d minor", "fast rock band with drums"]


@pytest.fixture(scope="session")
def compiled_once():
    """The environment of a test's children: with it a step that many tests train by is compiled
    once (tests/conftest.py)."""
    return dict(os.environ)


def _random(abstract, rng):
    def draw(leaf):
        return (0.05 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, abstract)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory):
    """Folder of an untrained model, "toy": the spectrogram route only, 2 steps a stage."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    names = ROUTES["spectrogram"]
    text = TEXT
    for name in names:
        stage = load_preset(f"tiny_{name}")
        depth = len(STRIDES[name])
        text_here = (name == "spectrogram_generator",) * depth
        narrow = dataclasses.replace(
            stage.unet,
            base_dim=16,
            strides=STRIDES[name],
            channels=(16,) * depth,
            blocks=(1,) * depth,
            self_attention=(False,) * depth,
            cross_attention=text_here,
            heads=2,
            text_dim=text.d_model,
        )
        stage = dataclasses.replace(stage, unet=narrow, steps=2)
        state = _random(nnx.split(abstract_unet(narrow))[1], rng)
        weights.save_state(folder / f"{name}.safetensors", state, to_dict(stage))
    abstract = nnx.split(nnx.eval_shape(lambda: T5Encoder(text, rngs=nnx.Rngs(0))))[1]
    tokenizer = train_tokenizer(CAPTIONS, text.vocab_size)
    save_text_encoder(folder, _random(abstract, rng), text, tokenizer)
    write_model_card(folder, "toy", names)
    return folder
