"""A training step: micro-batches, dtypes, rematerialisation, the recipe of section 4.1."""

import jax
import numpy as np
import pytest
import tolerances
from nano import nano_config
from training import after, compiled, nano_batch, nano_training

TEXT, STACKED = "spectrogram_generator", "super_resolution_cascader"


def assert_close(got, want, tolerance=tolerances.STEP):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, 0, tolerance * np.abs(b).max(), err_msg=where)


def run(config, batch, **changes):
    step, state = nano_training(config, **changes)
    return after(compiled(step, state, batch), state, batch)


@pytest.mark.parametrize("name", [TEXT, STACKED])
def test_micro_batches_add_up_to_the_batch(name):
    config = nano_config(name)
    batch = nano_batch(config, 12)
    assert_close(run(config, batch, accumulate=3), run(config, batch))
