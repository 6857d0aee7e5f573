"""Whole stages, sampler loop inside, compiled ahead of time for four TPU v4. Nothing runs.

    python scripts/stages_static.py --json docs/benchmarks/stages_static.jsonl [--markdown FILE]

compiles the plans that the file lacks, each in a process of its own, and prints the table: whether
the compiler takes it, its memory, what it sends, and the cycles that XLA estimates for one step
beside Table 4 of the paper. A static estimate, not run.
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
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from noise2music.config import STAGES, load_preset
from noise2music.mesh import CLIPS, PIECES, check_length, make_mesh, place, target_length
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
TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """clips of a stage on a mesh of four chips; seconds that its time axis divides."""

    stage: str
    mesh: str
    clips: int = 4
    seconds: float = 30.0
    effort: float = -1.0  # of the compiler on speed; -1 lays memory out and schedules quickly


# The paper's four clips on four chips, each pair of chips splitting two of them; 30.08 s where half
# a clip of 30 s would not be whole units.
PLANS = [
    Plan("spectrogram_vocoder", "data=2,time=2"),
    Plan("super_resolution_cascader", "data=2,time=2", seconds=30.08),
    Plan("waveform_cascader", "data=2,time=2", seconds=30.08),
    Plan("spectrogram_generator", "data=2,time=2"),
    Plan("waveform_generator", "data=2,time=2"),
]


def lower(plan: Plan) -> Any:
    """The stage's sampler, plain XLA (the reference kernels), bfloat16, guided where text is."""
    config = load_preset(plan.stage)
    unet = abstract_unet(config.unet)
    unet.implementation, unet.remat = "reference", True  # the blocks of a depth as one loop
    graph, state = nnx.split(unet)
    stage = Stage(config, state, implementation="reference", dtype="bfloat16")
    stage._graph = graph
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


def cycles_of_a_step(hlo: str) -> int:
    """XLA's estimated cycles in the body of the loop over the steps, those of loops inside by their
    known trip counts. Instructions without an estimate (collectives, some copies) count nothing."""

    def trips(condition: str) -> int:
        """The constant that the counter is compared with; 1 for a bound given at run time."""
        text = re.search(rf"^%?{re.escape(condition)} \(.*?^}}", hlo, re.M | re.S)
        bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", text[0]) if text else []
        return max(map(int, bounds), default=1)

    own: dict[str, int] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    name = ""
    for line in hlo.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[1]
            own[name], calls[name] = 0, []
            continue
        own[name] = own.get(name, 0) + sum(
            int(n) for n in re.findall(r'"estimated_cycles":"?(\d+)', line)
        )
        loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
        if loop:
            calls[name].append((loop[2], trips(loop[1])))
        for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
            # Clipping, not "nothing": the dearer branch.
            calls[name].append(("|".join(b.strip().lstrip("%") for b in branches.split(",")), 1))

    def total(one: str) -> int:
        if "|" in one:
            return max(total(branch) for branch in one.split("|"))
        return own.get(one, 0) + sum(n * total(called) for called, n in calls.get(one, []))

    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.M)
    assert entry is not None
    bodies = [body for body, _ in calls[entry[1]] if "|" not in body]
    return max(total(body) for body in bodies)


def compiled(plan: Plan) -> dict[str, Any]:
    start = time.monotonic()
    lowered = lower(plan)
    program = lowered.compile(compiler_options={"exec_time_optimization_effort": plan.effort})
    hlo, memory = program.as_text(), program.memory_analysis()
    return {
        "plan": dataclasses.asdict(plan),
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes + memory.output_size_in_bytes,
        "cycles": cycles_of_a_step(hlo),
        "collectives": collectives(hlo),
        "seconds": round(time.monotonic() - start, 1),
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| stage | mesh | clips | seconds | arguments | temporary | sent in the program | "
        "XLA's cycles a step | ms a step (static estimate, not run) | Table 4 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda r: STAGES.index(r["plan"]["stage"])):
        plan = row["plan"]
        sent = ", ".join(
            f"{n} {kind} ({size / 2**20:.2f} MiB)" for kind, (n, size) in row["collectives"].items()
        )
        cells = [
            plan["stage"], plan["mesh"], str(plan["clips"]), f"{plan['seconds']:g}",
            f"{row['arguments'] / 2**30:.2f}", f"{row['temporary'] / 2**30:.2f}", sent or "nothing",
            f"{row['cycles'] / 1e6:.2f} M", f"{row['cycles'] / CLOCK * 1e3:.1f}",
            f"{TABLE_4[plan['stage']]:.1f}",
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
        line = child.stdout.splitlines()[-1]
        found.append(json.loads(line))
        with args.json.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(f"{plan.stage} {plan.mesh}: {found[-1]['seconds']} s", file=sys.stderr)
    if args.markdown:
        args.markdown.write_text(table(found), encoding="utf-8")
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
