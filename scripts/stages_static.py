"""Whole stages, sampler loop inside, compiled ahead of time for four TPU v4. Nothing runs.

    python scripts/stages_static.py --json docs/benchmarks/stages_static.jsonl [--markdown FILE]

compiles the plans that the file lacks, each in a process of its own, and prints the table: whether
the compiler takes it, its memory, what it sends, and an estimate of one step beside Table 4 of the
paper: our kernels by docs/benchmarks/tpu_static.md, the rest by the cycles that XLA writes beside
each operation, reshapes by the bandwidth of memory, what is sent by that of a link. A static
estimate, not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from noise2music.bench import shapes, tpu_static
from noise2music.config import STAGES, StageConfig, load_preset
from noise2music.kernels.common.cases import Case
from noise2music.mesh import (
    CLIPS,
    PIECES,
    check_length,
    make_mesh,
    parse_sizes,
    place,
    target_length,
)
from noise2music.stage import Stage
from noise2music.train.fit import _ALONE, collectives, topology_devices
from noise2music.unet1d import abstract_unet

TABLE_4 = {  # milliseconds a step, four clips of 30 s on four TPU v4
    "waveform_generator": 25.0,
    "waveform_cascader": 75.0,
    "spectrogram_generator": 8.3,
    "spectrogram_vocoder": 29.9,
    "super_resolution_cascader": 71.7,
}
CLOCK = 1.05e9  # Hz, from 275 TFLOP/s of two cores with four 128 x 128 units each
KERNELS = pathlib.Path(__file__).parents[1] / "docs/benchmarks/tpu_static.md"
LINK = 50e9  # bytes a second of one of the links between neighbours, each way
TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """clips of a stage on a mesh of four chips; seconds that its time axis divides."""

    stage: str
    mesh: str = "data=4"
    clips: int = 4
    seconds: float = 30.0
    effort: float = 0.0  # of the compiler on speed; -1 lays memory out and schedules quickly

    @property
    def config(self) -> StageConfig:
        return load_preset(self.stage)

    @property
    def split(self) -> dict[str, int]:
        return {"data": 1, "time": 1} | parse_sizes(self.mesh, ("data", "time"), ValueError, "")


# The paper's four clips on four chips: a clip on each, as `generate --devices 4` chooses, and two
# on each pair of chips, split in time; 30.08 s where half a clip of 30 s would not be whole units.
PLANS = [
    *(Plan(stage) for stage in TABLE_4),
    *(
        Plan(stage, "data=2,time=2", seconds=30.08 if "cascader" in stage else 30.0)
        for stage in TABLE_4
    ),
]


def lower(plan: Plan) -> Any:
    """The stage's sampler with our kernels, bfloat16, guided where there is text."""
    config = plan.config
    _, state = nnx.split(abstract_unet(config.unet))
    stage = Stage(config, state, dtype="bfloat16")
    mesh = make_mesh(plan.mesh, topology_devices("v4:2x2x1"))
    length = target_length(config, plan.seconds)
    check_length(mesh, config, length)
    padded = config.legal_length(length)

    def array(spec: Any, *shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place(mesh, spec))

    everywhere = jax.sharding.PartitionSpec()
    shape, table = config.unet, stage.coefficients()
    x = array(PIECES, plan.clips, padded, shape.in_channels)
    rows = tuple(array(everywhere, *a.shape) for a in (table.t, table.step, table.c_p))
    bound = array(everywhere, dtype=jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    inputs = {}
    if config.condition == "stacked":
        inputs["stacked"] = array(PIECES, plan.clips, padded, shape.stacked_channels)
    if shape.aligned_channels:
        frames = padded // shape.compression
        inputs["aligned"] = array(PIECES, plan.clips, frames, shape.aligned_channels)
    if shape.has_text:
        both = 2 * plan.clips
        inputs["text"] = array(CLIPS, both, TOKENS, shape.text_dim)
        inputs["mask"] = array(CLIPS, both, TOKENS, dtype=jnp.bool_)
        inputs["keep"] = inputs["beat"] = array(CLIPS, both)
    weights = jax.tree.map(lambda a: array(everywhere, *a.shape, dtype=a.dtype), state)
    keys = array(CLIPS, plan.clips, dtype=key)
    return stage._run.lower(
        weights, x, x, keys, rows, bound, bound, inputs,
        guided=shape.has_text, dtype="bfloat16", mesh=mesh,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One of ours on one chip: its layer, how often a step runs it, its operations and bytes."""

    op: str
    layer: str
    times: int
    flops: int
    bytes: int


def kernels_of(plan: Plan) -> list[Kernel]:
    config, unet = plan.config, plan.config.unet
    clips = plan.clips // plan.split["data"]
    batch = clips * (2 if unet.has_text else 1)
    length = config.legal_length(target_length(config, plan.seconds)) // plan.split["time"]
    found: list[Kernel] = []

    def add(
        op: str, layer: str, times: int, dtype: str, options: dict[str, Any], **shape: int
    ) -> None:
        case = Case("given_sums", shape, options)
        cost = shapes.room(op).cost(case, dtype)
        found.append(Kernel(op, layer, times, cost.flops, cost.bytes))

    if plan.split["time"] == 1:
        clip = {"B": clips, "T": length, "C": unet.in_channels}
        layer = "spectrogram" if unet.in_channels > 1 else "waveform"
        if plan.stage == "super_resolution_cascader":
            layer = "super_resolution"
        add("ancestral_step", layer, 1, "float32", {}, **clip)
    above, k = unet.base_dim, unet.kernel_size
    normed = {"groups": unet.norm_groups}
    levels = zip(unet.strides, unet.channels, unet.blocks, strict=True)
    for depth, (stride, c, blocks) in enumerate(levels, start=1):
        here, of = length // stride, f"{plan.stage}.{depth}"

        def conv(layer: str, times: int, options: dict[str, Any], **shape: int) -> None:
            layer = f"{of}.{layer}"  # noqa: B023 (called at once)
            add("conv1d_block", layer, times, "bfloat16", options, B=batch, K=k, **shape)

        sizes = {"B": batch, "T": here, "C": c, "E": unet.base_dim}
        add("combine_film", f"{of}.film", 2 * blocks, "bfloat16", normed, **sizes)
        conv("down", 1, {"stride": stride}, T=length, C=above, D=c, R=0)
        conv("block", 2 * blocks, normed, T=here, C=c, D=c, R=0)
        conv("block", 2 * blocks, normed, T=here, C=c, D=c, R=c)
        conv("up", 1, {}, T=here, C=c, D=stride * above, R=0)
        length, above = here, c
    return found


def read_table(path: pathlib.Path) -> dict[str, tuple[float, float]]:
    """layer -> (cycles, operations) of each row of docs/benchmarks/tpu_static.md; layers that were
    left out there, since another has their shape, are found by it."""
    rows: dict[str, tuple[float, float]] = {}
    by_shape: dict[str, tuple[float, float]] = {}
    cases = {op: {c.name: c for c in shapes.cases_of(op)} for op in shapes.OPS}
    op = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            op = line[3:]
        cells = [cell.strip() for cell in line.split("|")]
        first = re.fullmatch(r"([\w.]+) \((.*)\)", cells[1]) if len(cells) > 8 else None
        wanted = "float32" if op == "ancestral_step" else "bfloat16"
        if first is None or cells[2] != wanted or op == "fft_upsample":
            continue
        shape = {axis: int(n) for axis, n in (part.split(" ") for part in first[2].split(", "))}
        case = dataclasses.replace(cases[op][first[1]], name="given_sums")
        cost = shapes.room(op).cost(case, wanted)
        rows[first[1]] = by_shape[str(shape)] = float(cells[7]), cost.flops
    for op in ("conv1d_block", "combine_film"):
        for stage in TABLE_4:
            for case in shapes.layers_of(op, stage):
                shape = {axis: n for axis, n in case.shape.items() if n}
                if case.name not in rows and str(shape) in by_shape:
                    rows[case.name] = by_shape[str(shape)]
    return rows


def seconds_of_kernels(plan: Plan, rows: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Seconds a step, by op: of each kernel the longest of the cycles of its layer in the table in
    proportion to its operations, of these at the peak, and of its bytes."""
    seconds: dict[str, float] = {}
    for kernel in kernels_of(plan):
        cycles, flops = rows[kernel.layer]
        parts = [cycles / CLOCK * kernel.flops / flops, kernel.bytes / tpu_static.BYTES_PER_SECOND]
        if kernel.op == "conv1d_block":
            parts.append(kernel.flops / tpu_static.FLOPS_PER_SECOND)
        seconds[kernel.op] = seconds.get(kernel.op, 0.0) + kernel.times * max(parts)
    return seconds


def in_a_step(hlo: str, value: Callable[[str], float]) -> float:
    """The sum of value(instruction) over the body of the loop over the steps, that of loops inside
    by their known trip counts."""

    def trips(condition: str) -> int:
        """The constant that the counter is compared with; 1 for a bound given at run time."""
        text = re.search(rf"^%?{re.escape(condition)} \(.*?^}}", hlo, re.M | re.S)
        bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", text[0]) if text else []
        return max(map(int, bounds), default=1)

    own: dict[str, float] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    name = ""
    for line in hlo.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[1]
            own[name], calls[name] = 0, []
            continue
        own[name] = own.get(name, 0) + value(line)
        loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
        if loop:
            calls[name].append((loop[2], trips(loop[1])))
        for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
            # Clipping, not "nothing": the dearer branch.
            calls[name].append(("|".join(b.strip().lstrip("%") for b in branches.split(",")), 1))

    def total(one: str) -> float:
        if "|" in one:
            return max(total(branch) for branch in one.split("|"))
        return own.get(one, 0) + sum(n * total(called) for called, n in calls.get(one, []))

    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.M)
    assert entry is not None
    bodies = [body for body, _ in calls[entry[1]] if "|" not in body]
    return max(total(body) for body in bodies)


def xla_cycles(line: str) -> int:
    """Of an instruction; none for collectives, some copies and our kernels."""
    return sum(int(n) for n in re.findall(r'"estimated_cycles":"?(\d+)', line))


def bytes_reshaped(line: str) -> int:
    """Read and written by a `reshape` that moves data (else XLA calls it a bitcast), to which XLA
    gives no cycles: depth to time after each up-sampling convolution."""
    found = re.search(r" = (bf16|f32|s32|u32)\[([\d,]+)\]\S* reshape\(", line)
    if found is None or xla_cycles(line):
        return 0
    return 2 * math.prod(map(int, found[2].split(","))) * (2 if found[1] == "bf16" else 4)


def bytes_sent(line: str) -> int:
    return sum(size for _, size in collectives(line).values())


def kernels_run(line: str) -> int:
    return bool(re.search(r"%n2m_\w+?(?:\.\d+)* = .*custom-call", line))


def compiled(plan: Plan) -> dict[str, Any]:
    start = time.monotonic()
    program = lower(plan).compile(compiler_options={"exec_time_optimization_effort": plan.effort})
    hlo, memory = program.as_text(), program.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes + memory.output_size_in_bytes,
        "cycles": in_a_step(hlo, xla_cycles),
        "reshaped": in_a_step(hlo, bytes_reshaped),
        "sent": in_a_step(hlo, bytes_sent),
        "messages": in_a_step(hlo, lambda line: len(collectives(line))),
        "kernels_run": in_a_step(hlo, kernels_run),
        "collectives": collectives(hlo),
        "compile_seconds": round(time.monotonic() - start, 1),
    }


def table(found: list[dict[str, Any]], rows: dict[str, tuple[float, float]]) -> str:
    lines = [
        "| stage | mesh | arguments | temporary | sent a step | conv1d_block | combine_film | "
        "ancestral_step | XLA | reshapes | links | a step | Table 4 | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda r: (r["plan"]["mesh"], STAGES.index(r["plan"]["stage"]))):
        plan = row["plan"]
        ours = seconds_of_kernels(Plan(**plan), rows)
        ops = [1e3 * ours.get(op, 0.0) for op in ("conv1d_block", "combine_film", "ancestral_step")]
        reshapes = row["reshaped"] / tpu_static.BYTES_PER_SECOND
        parts = [*ops, row["cycles"] / CLOCK * 1e3, reshapes * 1e3, row["sent"] / LINK * 1e3]
        measured = TABLE_4[plan["stage"]]
        cells = [
            plan["stage"], plan["mesh"],
            f"{row['arguments'] / 2**30:.2f}", f"{row['temporary'] / 2**30:.2f}",
            f"{row['messages']:.0f} ({row['sent'] / 2**20:.2f} MiB)" if row["messages"] else "-",
            *(f"{part:.2f}" for part in parts),
            f"{sum(parts):.1f}", f"{measured:.1f}", f"{sum(parts) / measured:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="found, a line each")
    parser.add_argument("--stage", nargs="*", help="only these stages")
    parser.add_argument("--mesh", help="only this mesh")
    parser.add_argument("--minutes", type=float, default=10, help="give up on a plan after that")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table here")
    parser.add_argument("--kernels", type=pathlib.Path, default=KERNELS, help="their table")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the plan of a child, as JSON
    args = parser.parse_args()
    if args.one:
        print(json.dumps(compiled(Plan(**json.loads(args.one)))))
        return 0
    text = args.json.read_text(encoding="utf-8") if args.json.exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    done = [Plan(**row["plan"]) for row in found]
    for plan in PLANS:
        wanted = (not args.stage or plan.stage in args.stage) and args.mesh in (None, plan.mesh)
        if plan in done or not wanted:
            continue
        command = [sys.executable, __file__, "--json", str(args.json)]
        command += ["--one", json.dumps(dataclasses.asdict(plan))]
        try:
            child = subprocess.run(
                command, env=os.environ | _ALONE, stdout=subprocess.PIPE, text=True, check=True,
                timeout=60 * args.minutes,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{plan.stage} {plan.mesh}: {error.__class__.__name__}", file=sys.stderr)
            continue
        row = {"plan": dataclasses.asdict(plan), **json.loads(child.stdout.splitlines()[-1])}
        estimated = sum(kernel.times for kernel in kernels_of(plan))
        if estimated != row["kernels_run"]:
            print(f"{plan.stage} {plan.mesh}: {estimated} kernels are estimated, the program runs "
                  f"{row['kernels_run']:.0f} a step", file=sys.stderr)  # fmt: skip
        found.append(row)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{plan.stage} {plan.mesh}: {row['compile_seconds']} s", file=sys.stderr)
    if args.markdown:
        args.markdown.write_text(table(found, read_table(args.kernels)), encoding="utf-8")
    else:
        print(table(found, read_table(args.kernels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
