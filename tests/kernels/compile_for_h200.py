"""Compiles programs with our handlers for an H200 that is not there; see test_cuda_aot.py.

    python compile_for_h200.py FOLDER    XLA writes what it made of them there

A process of its own: the CUDA plugin and XLA's flags are read once, when JAX starts.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# Graphs of one kernel too: the programs of the ops are short.
os.environ["XLA_FLAGS"] = f"--xla_dump_to={FOLDER} --xla_gpu_graph_min_graph_size=1"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from noise2music import sampling  # noqa: E402
from noise2music.kernels.combine_film import cases as combine_film  # noqa: E402
from noise2music.kernels.conv1d_block import cases as conv1d_block  # noqa: E402
from noise2music.kernels.fft_upsample import cases as fft_upsample  # noqa: E402
from noise2music.stage import Stage  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from nano import nano_config  # noqa: E402

BATCH, TEXT = 2, 8
TARGET = (Path(__file__).parent / "h200.txtpb").read_text()
H200 = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
PLACE = jax.sharding.SingleDeviceSharding(H200.devices[0])


def abstract(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=PLACE)


def placed(tree):
    return jax.tree.map(lambda a: abstract(a.shape, a.dtype), tree)


def compile_op(cases, name, dtype):
    """Forward and backward of a case of an op, as one program."""
    case = next(c for c in cases.CASES if c.name == name)
    inputs = jax.eval_shape(lambda: cases.make_inputs(case, dtype))

    def both(inputs):
        outputs, pull = jax.vjp(lambda i: cases.FUNCTION(**i, **case.options), inputs)
        return outputs, pull(jax.tree.map(jnp.ones_like, outputs))

    both.__name__ = f"{Path(cases.__file__).parent.name}_{dtype}"
    jax.jit(both).lower(placed(inputs)).compile()


def compile_sampler():
    """The step loop of a guided stage, as `Stage.sample` runs it on a GPU."""
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
    stage._run.lower(*arguments, guided=True, dtype="bfloat16").compile()


if __name__ == "__main__":
    for cases in (combine_film, conv1d_block, fft_upsample):
        for dtype in cases.DTYPES:
            compile_op(cases, "small", dtype)
    compile_sampler()
