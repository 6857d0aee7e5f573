"""Whole stages, sampler loop inside, compiled ahead of time for four TPU v4. Nothing runs.

    python scripts/stages_static.py --json docs/benchmarks/stages_static.jsonl [--markdown FILE]

compiles the plans that the file lacks, each in processes of its own, and prints the table: whether
the compiler takes it, its memory, what it sends, and an estimate of one step beside Table 4 of the
paper: our kernels by their instruction words (scripts/tpu_static.py), the rest by the cycles that
XLA writes beside each operation, what is sent by the bandwidth of a link. A static estimate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
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


def kernels_of(plan: Plan) -> list[tuple[str, Case, int]]:
    """(op, shape, times a step) of our kernels on one chip."""
    config, unet = plan.config, plan.config.unet
    clips = plan.clips // plan.split["data"]
    batch = clips * (2 if unet.has_text else 1)
    length = config.legal_length(target_length(config, plan.seconds)) // plan.split["time"]
    groups, k = unet.norm_groups, unet.kernel_size
    found: list[tuple[str, Case, int]] = []

    def add(op: str, times: int, options: dict[str, Any], **shape: int) -> None:
        found.append((op, Case(f"{plan.stage}.{len(found)}", shape, options), times))

    if plan.split["time"] == 1:
        add("ancestral_step", 1, {}, B=clips, T=length, C=unet.in_channels)
    above = unet.base_dim
    for stride, c, blocks in zip(unet.strides, unet.channels, unet.blocks, strict=True):
        here = length // stride
        sizes = {"B": batch, "T": here, "C": c}
        conv = {**sizes, "K": k, "D": c}
        add("conv1d_block", 1, {"stride": stride}, B=batch, T=length, C=above, K=k, D=c, R=0)
        add("combine_film", 2 * blocks, {"groups": groups}, **sizes, E=unet.base_dim)
        add("conv1d_block", 2 * blocks, {"groups": groups, "out_groups": groups}, **conv, R=0)
        add("conv1d_block", 2 * blocks, {"groups": groups}, **conv, R=c)
        add("conv1d_block", 1, {}, **sizes, K=k, D=stride * above, R=0)
        length, above = here, c
    return found


def seconds_of_kernels(plan: Plan) -> dict[str, Any]:
    """Seconds a step, by op, and how many kernels that is. In a process of its own: libtpu is told
    to write instruction words when it loads."""
    import tpu_static

    seconds: dict[str, float] = {}
    kernels: dict[str, int] = {}
    for op, case, times in kernels_of(plan):
        row = tpu_static.row_of(op, case, "float32" if op == "ancestral_step" else "bfloat16")
        if isinstance(row, str):
            continue  # left to XLA, whose estimate has it
        seconds[op] = seconds.get(op, 0.0) + times * row.seconds
        kernels[op] = kernels.get(op, 0) + times
    return {"seconds": seconds, "kernels": kernels}


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
        "sent": in_a_step(hlo, bytes_sent),
        "messages": in_a_step(hlo, lambda line: len(collectives(line))),
        "kernels_run": in_a_step(hlo, kernels_run),
        "collectives": collectives(hlo),
        "compile_seconds": round(time.monotonic() - start, 1),
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| stage | mesh | arguments | temporary | sent a step | conv1d_block | combine_film | "
        "ancestral_step | XLA | links | a step | Table 4 | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda r: (r["plan"]["mesh"], STAGES.index(r["plan"]["stage"]))):
        plan, ours = row["plan"], row["seconds"]
        ops = [1e3 * ours.get(op, 0.0) for op in ("conv1d_block", "combine_film", "ancestral_step")]
        parts = [*ops, row["cycles"] / CLOCK * 1e3, row["sent"] / LINK * 1e3]
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


def child(args: argparse.Namespace, what: str, plan: Plan) -> dict[str, Any]:
    """`compiled` or `seconds_of_kernels` of a plan in a process of its own."""
    command = [sys.executable, __file__, "--json", str(args.json), "--one", what]
    command += [json.dumps(dataclasses.asdict(plan))]
    done = subprocess.run(
        command, env=os.environ | _ALONE, stdout=subprocess.PIPE, text=True, check=True,
        timeout=60 * args.minutes,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="found, a line each")
    parser.add_argument("--stage", nargs="*", help="only these stages")
    parser.add_argument("--mesh", help="only this mesh")
    parser.add_argument("--minutes", type=float, default=10, help="give up on a plan after that")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table here")
    # Of a child: what it does, and its plan as JSON.
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        work = {f.__name__: f for f in (compiled, seconds_of_kernels)}[args.one[0]]
        print(json.dumps(work(Plan(**json.loads(args.one[1])))))
        return 0
    text = args.json.read_text(encoding="utf-8") if args.json.exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    done = [Plan(**row["plan"]) for row in found]
    for plan in PLANS:
        wanted = (not args.stage or plan.stage in args.stage) and args.mesh in (None, plan.mesh)
        if plan in done or not wanted:
            continue
        try:
            row = {"plan": dataclasses.asdict(plan), **child(args, "seconds_of_kernels", plan)}
            row |= child(args, "compiled", plan)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{plan.stage} {plan.mesh}: {error.__class__.__name__}", file=sys.stderr)
            continue
        if sum(row["kernels"].values()) != row["kernels_run"]:
            print(f"{plan.stage} {plan.mesh}: {row['kernels']} are estimated, the program runs "
                  f"{row['kernels_run']:.0f} kernels a step", file=sys.stderr)  # fmt: skip
        found.append(row)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{plan.stage} {plan.mesh}: {row['compile_seconds']} s", file=sys.stderr)
    if args.markdown:
        args.markdown.write_text(table(found), encoding="utf-8")
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
