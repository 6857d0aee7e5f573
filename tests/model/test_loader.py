"""Batches from prepared records: the same for every resume and any number of processes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from nano import nano_config
from noise2music.data.prepare import prepare
from noise2music.train.loader import open_batches
from noise2music.train.step import diffusion_loss
from noise2music.unet1d import UNet1D
from sound_files import small_folder

SUPER = dataclasses.replace(nano_config("super_resolution_cascader"), train_seconds=0.064)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    out = folder / "records"
    prepare([small_folder(folder / "songs")], out, seconds=1.0, shard_clips=7, progress=False)
    return out


def test_a_folder_of_wavs_becomes_a_training_step(prepared):
    batches = open_batches(prepared, SUPER, None, 4)
    unet = UNet1D(SUPER.unet, rngs=nnx.Rngs(0), implementation="reference")
    graph, params = nnx.split(unet)

    @jax.jit
    def step(params, batch, key):
        def loss(p):
            return diffusion_loss(nnx.merge(graph, p), None, batch, key, SUPER, 0.1)

        value, grads = jax.value_and_grad(loss)(params)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.01 * g, grads)), value

    batch = jax.tree.map(jnp.asarray, next(batches))
    params, first = step(params, batch, jax.random.key(0))
    params, second = step(params, batch, jax.random.key(0))
    assert np.isfinite(first) and second < first
