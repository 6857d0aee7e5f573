"""Five stages so small that they compile in seconds, with random weights that do not vanish."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from draws import numpy_draws
from flax import nnx
from noise2music import weights
from noise2music.config import STAGES, load_preset, to_dict
from noise2music.model_folder import write_model_card
from noise2music.stage import Stage
from noise2music.text.released import save_untrained_text_encoder
from noise2music.unet1d import abstract_unet

STRIDES = {  # few, because compiling a depth takes a second; the vocoder's multiply to its 160
    "waveform_generator": (8,),
    "waveform_cascader": (8,),
    "spectrogram_generator": (2, 2),
    "spectrogram_vocoder": (10, 16),
    "super_resolution_cascader": (4,),
}


def nano_config(name):
    """The tiny preset with eight channels, one block a depth, attention at the last depth alone."""
    config = load_preset(f"tiny_{name}")
    depth = len(STRIDES[name])
    last = (False,) * (depth - 1) + (config.unet.has_text,)
    unet = dataclasses.replace(
        config.unet,
        base_dim=8,
        strides=STRIDES[name],
        channels=(8,) * depth,
        blocks=(1,) * depth,
        heads=2,
        norm_groups=4,
        cross_attention=last,
        self_attention=last,
    )
    return dataclasses.replace(config, unet=unet, steps=3)


def nano_stage(name, seed=0, **options):
    config = dataclasses.replace(nano_config(name), **options)
    with numpy_draws():
        state = Stage.untrained(config, seed).state
    rng = np.random.default_rng(seed)

    def noisy(a):
        return np.asarray(a) + 0.1 * rng.standard_normal(a.shape).astype(np.float32)

    return Stage(config, jax.tree.map(noisy, state))


def drawn_stage(config, seed=0, **options):
    """A stage whose weights NumPy draws: no programs are compiled for that."""
    _, shapes = nnx.split(abstract_unet(config.unet))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        return 0.5 + 0.3 * noise if leaf.ndim < 2 else noise / np.sqrt(np.prod(leaf.shape[:-1]))

    return Stage(config, jax.tree.map(draw, shapes), **options)


def nano_model(folder, make=nano_stage):
    """A whole model folder of such stages."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(STAGES):
        stage = make(name, seed=i)
        weights.save_state(folder / f"{name}.safetensors", stage.state, to_dict(stage.config))
    with numpy_draws():
        save_untrained_text_encoder(folder, 0)
    write_model_card(folder, "nano", STAGES)
    return folder


def read_json(path):
    return json.loads(Path(path).read_text())
