"""Where does a training step fit? Compiles it ahead of time for chips that need not be there.

    python -m noise2music.train.fit compile spectrogram_generator --topology v4:2x2x1 \
        --mesh fsdp=4 --batch 2048 --accumulate 512

The compiler of the target (libtpu for TPU, the CUDA plugin for GPU) lays out the whole step, so its
bytes and its collectives are known; nothing runs, so its speed and numbers are not.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh

from noise2music.config import StageConfig, load_preset
from noise2music.train import sharding
from noise2music.train.step import TrainState, make_step
from noise2music.unet1d import abstract_unet

# Of a data type in a compiled program.
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1, "f64": 8}
_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training step of a preset on a mesh.

    topology: "v4:2x2x1", the chips of a TPU slice; or "1x1x8", slices x hosts x GPUs.
    """

    stage: str
    topology: str
    mesh: str
    batch: int
    accumulate: int = 1
    dtype: str = "bfloat16"
    remat: bool = True


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the compiler says of a plan, in bytes a chip.

    state: parameters, EMA and optimiser state; arguments: those and the batch; temporary: all else
    that lives at once. collectives: kind -> (instructions, bytes of their results); one in the loop
    over the micro-batches counts once. refused: why the compiler gave up, "" where it did not.
    """

    plan: Plan
    state: int
    arguments: int
    temporary: int
    collectives: dict[str, tuple[int, int]]
    seconds: float
    refused: str = ""

    @property
    def total(self) -> int:
        return self.arguments + self.temporary


def topology_devices(topology: str, gpu: str | None = None) -> list[Any]:
    """Devices of a TPU slice as "v4:2x2x1", or of GPUs that the file `gpu` describes.

    gpu: text of a target description (.txtpb) as in XLA's backends/gpu/target_config/specs.
    """
    if gpu is not None:
        found = topologies.get_topology_desc(platform="cuda", target_config=gpu, topology=topology)
    else:
        found = topologies.get_topology_desc(topology, platform="tpu", chip_config_name="megacore")
    return list(found.devices)


def batch_shapes(config: StageConfig, size: int) -> dict[str, Any]:
    """Shapes of a batch of the stage's training snippets, its text embedded."""
    unet = config.unet
    length = config.legal_length(round(config.train_seconds * config.rate))

    def floats(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((size, *shape), jnp.float32)

    batch = {"x": floats(length, unet.in_channels)}
    if config.condition == "stacked":
        up, down = config.up
        batch["low"] = floats(-(-length // up) * down, 1)
    if unet.aligned_channels:
        batch["aligned"] = floats(length // unet.compression, unet.aligned_channels)
    if unet.has_text:
        tokens = config.token_length or 1
        batch["text"] = floats(tokens, unet.text_dim)
        batch["mask"] = jax.ShapeDtypeStruct((size, tokens), jnp.bool_)
    return batch


def lower(plan: Plan, mesh: Mesh) -> tuple[Any, int]:
    """(the lowered step, bytes of the state on one device). Plain XLA: `reference` kernels."""
    config = load_preset(plan.stage)
    unet = abstract_unet(config.unet)
    unet.implementation = "reference"
    graph, abstract = nnx.split(unet)
    options = SimpleNamespace(
        seed=0, text_dropout=0.1, ema_decay=0.9999,
        accumulate=plan.accumulate, dtype=plan.dtype, remat=plan.remat,
    )  # fmt: skip
    tx = optax.adam(1e-4, b1=0.9, b2=0.999)
    params = {"unet": abstract}
    count: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(count, params, params, jax.eval_shape(tx.init, params))

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
        )

    kept = sharding.state_shardings(state, mesh)
    batch = batch_shapes(config, plan.batch)
    step = make_step({"unet": graph}, config, options, tx, mesh=mesh)
    lowered = step.lower(placed(state, kept), placed(batch, sharding.batch_shardings(batch, mesh)))
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(kept), strict=True)
    held = sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves)
    return lowered, held


def fit(plan: Plan, gpu: str | None = None) -> Fit:
    """Compiles the plan, with the least effort of the compiler that still lays out all memory."""
    start = time.monotonic()
    mesh = sharding.make_mesh(plan.mesh, topology_devices(plan.topology, gpu))
    lowered, held = lower(plan, mesh)
    options = {} if gpu is not None else {"exec_time_optimization_effort": -1.0}
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        why = " ".join(str(error).split())[:400]
        return Fit(plan, held, 0, 0, {}, time.monotonic() - start, why)
    memory = program.memory_analysis()
    own_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Fit(
        plan,
        held,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + own_outputs,
        collectives(program.as_text()),
        time.monotonic() - start,
    )


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """kind -> (instructions, bytes of their results on one device) of a compiled program."""
    count: dict[str, int] = collections.Counter()
    size: dict[str, int] = collections.Counter()
    for shapes, kind in _COLLECTIVE.findall(hlo):
        count[kind] += 1
        size[kind] += sum(
            _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in _SHAPE.findall(re.sub(r"\{[^}]*\}", "", shapes))
        )
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}
