"""The step loop of a guided stage, with shapes for arguments, to compile for any device."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from noise2music import sampling
from noise2music.stage import Stage

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from nano import nano_config  # noqa: E402

BATCH, TEXT = 2, 8


def sampler_program(place=None):
    """(jitted function, arguments, static options); `place` is a sharding, None this machine's."""

    def abstract(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def placed(tree):
        return jax.tree.map(lambda a: abstract(a.shape, a.dtype), tree)

    stage = Stage.untrained(nano_config("waveform_generator"))
    time, channels = stage.config.legal_length(2048), stage.config.unet.in_channels
    width = stage.config.unet.text_dim
    table = stage.coefficients()
    keys = jax.eval_shape(lambda: sampling.clip_keys(0, jnp.arange(BATCH), 0))
    inputs = {
        "text": abstract((2 * BATCH, TEXT, width)),
        "mask": abstract((2 * BATCH, TEXT), jnp.bool_),
        "keep": abstract((2 * BATCH,)),
        "beat": abstract((2 * BATCH,)),
    }
    x, step = abstract((BATCH, time, channels)), abstract((), jnp.int32)
    rows = placed(tuple(jnp.asarray(a) for a in (table.t, table.step, table.c_p)))
    arguments = (placed(stage.state), x, x, placed(keys), rows, step, step, inputs)
    return stage._run, arguments, {"guided": True, "dtype": "bfloat16", "mesh": None}
