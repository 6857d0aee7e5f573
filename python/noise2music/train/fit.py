"""Where does a training step fit? Compiles it ahead of time for chips that need not be there.

    python -m noise2music.train.fit --json FILE [--gpu h200.txtpb] [--markdown FILE]

compiles the plans of `PLANS` that FILE lacks, each in a process of its own, and writes the table.
The compiler of the target (libtpu for TPU, the CUDA plugin for GPU) lays out the whole step, so its
bytes and its collectives are known; nothing runs, so its speed and numbers are not.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh

from noise2music.config import STAGES, StageConfig, load_preset
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

    @property
    def is_tpu(self) -> bool:
        return ":" in self.topology


# The paper's global batches on the smallest v4 slice that is a host, and on a host of eight H200.
PLANS = (
    Plan("waveform_generator", "v4:2x2x1", "fsdp=4", 2048, 64),
    Plan("waveform_cascader", "v4:2x2x1", "fsdp=4", 2048, 128),
    Plan("spectrogram_generator", "v4:2x2x1", "fsdp=4", 2048, 64),
    Plan("spectrogram_vocoder", "v4:2x2x1", "fsdp=4", 2048, 64),
    Plan("super_resolution_cascader", "v4:2x2x1", "fsdp=4", 4096, 512),
    Plan("waveform_generator", "1x1x8", "fsdp=8", 2048, 32),
    Plan("waveform_cascader", "1x1x8", "fsdp=8", 2048, 16),
    Plan("spectrogram_generator", "1x1x8", "fsdp=8", 2048, 8),
    Plan("spectrogram_vocoder", "1x1x8", "fsdp=8", 2048, 8),
    Plan("super_resolution_cascader", "1x1x8", "fsdp=8", 4096, 32),
)
# Bytes of a chip that a program may use: what libtpu allows on v4; the memory of an H200.
_ROOM = {True: int(30.75 * 2**30), False: 151_397_597_184}
# Triton's tiles are chosen by timing them; untimed ones do not fit the shapes of our attention. The
# kernels' speed is not asked for.
_QUICK_GPU: dict[str, Any] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_backend_optimization_level": 0,
}
# So that libtpu asks no metadata server, and lets other processes load it too.
_ALONE = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_ID": "0",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


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

    @property
    def chips(self) -> int:
        return math.prod(int(n) for n in re.findall(r"=(\d+)", self.plan.mesh))

    @property
    def items(self) -> int:
        """Of a micro-batch on one chip."""
        return self.plan.batch // self.plan.accumulate // self.chips

    def chips_at_once(self) -> int:
        """Chips, a power of two, on which the batch fits without micro-batches: an estimate that
        takes all temporary bytes as those of the items, and the state as split over all chips."""
        an_item = self.temporary / self.items
        of_batch = (self.arguments - self.state) * self.chips
        whole = self.state * self.chips + of_batch + self.plan.batch * an_item
        return 2 ** math.ceil(math.log2(whole / _ROOM[self.plan.is_tpu]))


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
    options = {"exec_time_optimization_effort": -1.0} if gpu is None else _QUICK_GPU
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


def read(path: pathlib.Path) -> dict[Plan, Fit]:
    """What earlier runs found."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        values = json.loads(line)
        plan = Plan(**values.pop("plan"))
        found[plan] = Fit(plan, **values)
    return found


def table(fits: list[Fit]) -> str:
    """The fits as Markdown, TPU first, in the order of the cascade; GiB a chip, collectives as
    instructions and GiB of their results."""
    fits = sorted(fits, key=lambda f: (not f.plan.is_tpu, STAGES.index(f.plan.stage)))
    lines = [
        "| stage | mesh | batch = micro-batches x chips x items | state | batch | temporary | all "
        "| room | collectives | chips without micro-batches (estimate) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for f in fits:
        plan = f.plan
        batch = f"{plan.batch} = {plan.accumulate} x {f.chips} x {f.items}"
        room = _ROOM[plan.is_tpu]
        if f.refused:
            row = [_gib(f.state), "", "", "does not fit", _gib(room), "", ""]
        else:
            row = [_gib(f.state), _gib(f.arguments - f.state), _gib(f.temporary), _gib(f.total)]
            sent = (f"{n} {kind} ({_gib(size)})" for kind, (n, size) in f.collectives.items())
            row += [
                _gib(room),
                ", ".join(sent),
                str(f.chips_at_once()) if plan.accumulate > 1 else "",
            ]
        lines.append(
            " | ".join(["| " + plan.stage, f"{plan.topology} {plan.mesh}", batch, *row]) + " |"
        )
    return "\n".join(lines) + "\n"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--json", type=pathlib.Path, required=True, help="what was found, a line each"
    )
    parser.add_argument("--gpu", type=pathlib.Path, help="XLA's description of the GPU (.txtpb)")
    parser.add_argument("--stage", nargs="*", help="only these stages")
    parser.add_argument("--minutes", type=float, default=10, help="give up on a plan after that")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table here")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the plan of a child, as JSON
    args = parser.parse_args()
    gpu = None if args.gpu is None else args.gpu.read_text(encoding="utf-8")
    if args.one:
        found = fit(Plan(**json.loads(args.one)), gpu)
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    done = read(args.json)
    for plan in PLANS:
        wanted = not args.stage or plan.stage in args.stage
        if plan in done or not wanted or (gpu is None and not plan.is_tpu):
            continue
        command = [sys.executable, "-m", "noise2music.train.fit", "--json", str(args.json)]
        command += ["--one", json.dumps(dataclasses.asdict(plan))]
        command += [] if plan.is_tpu else ["--gpu", str(args.gpu)]
        name = f"{plan.stage} on {plan.topology}"
        try:
            child = subprocess.run(
                command, env=os.environ | _ALONE, stdout=subprocess.PIPE, text=True, check=True,
                timeout=60 * args.minutes,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{name}: {error.__class__.__name__}", file=sys.stderr)
            continue
        with args.json.open("a", encoding="utf-8") as file:
            file.write(child.stdout.splitlines()[-1] + "\n")
        print(f"{name}: done", file=sys.stderr)
    if args.markdown:
        args.markdown.write_text(table(list(read(args.json).values())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
