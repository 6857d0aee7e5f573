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
from noise2music.kernels.combine_film import cases as combine_film  # noqa: E402
from noise2music.kernels.conv1d_block import cases as conv1d_block  # noqa: E402
from noise2music.kernels.fft_upsample import cases as fft_upsample  # noqa: E402
from sampler_program import sampler_program  # noqa: E402

TARGET = (Path(__file__).parent / "h200.txtpb").read_text()
H200 = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
PLACE = jax.sharding.SingleDeviceSharding(H200.devices[0])


def placed(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=PLACE), tree)


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
    program, arguments, options = sampler_program(PLACE)
    program.lower(*arguments, **options).compile()


if __name__ == "__main__":
    for cases in (combine_film, conv1d_block, fft_upsample):
        for dtype in cases.DTYPES:
            compile_op(cases, "small", dtype)
    compile_sampler()
