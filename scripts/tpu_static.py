"""What the compiler of a TPU v4 makes of the Pallas kernels, and of the reference by XLA alone.

    python scripts/tpu_static.py --xla docs/benchmarks/tpu_static_xla.jsonl > FILE.md
    python scripts/tpu_static.py --xla FILE --xla-minutes 20     XLA's side of what the file lacks
    python scripts/tpu_static.py --rooms combine_film --few      less, while working

Needs libtpu (pip install '.[tpu]') and no TPU. Compiles every shape of the presets for one v4 chip,
reads the final instruction words, and writes a page. Nothing is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata as metadata
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from noise2music.bench import tpu_static

FOLDER = Path(tempfile.mkdtemp(prefix="tpu_static"))
# XLA's programs are read as text: their instruction words would only fill the disk.
tpu_static.prepare(None if "--xla-minutes" in sys.argv else FOLDER)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from noise2music import kernels  # noqa: E402
from noise2music.bench import shapes  # noqa: E402
from noise2music.kernels.common.cases import Case, Cost  # noqa: E402
from noise2music.kernels.conv1d_block import pallas_plan, reference  # noqa: E402

ROOMS = ("combine_film", "conv1d_block", "ancestral_step", "fft_upsample")
# Cycles of a step of the grid for which nothing is loaded: waiting for and starting copies.
STEP_CYCLES = 200
# Counts that the search for the percentile takes: 4 to 5 in the mean, on normal and Laplace noise.
SEARCHES = 5
HEAD = """# The Pallas kernels as compiled for a TPU v4

**Static estimate, not run**: no TPU was at hand. Written by `python scripts/tpu_static.py --xla
docs/benchmarks/tpu_static_xla.jsonl > docs/benchmarks/tpu_static.md` with jax {jax} and libtpu
{libtpu}, for one chip of `v4:2x2x1`, whose two cores share the work. What the numbers mean and how
far they go: `docs/design/tpu.md`.

- *bundles*: instruction words of the kernel. *MXU*, *VALU*: share of their slots that the innermost
  loop fills. *spills*: stores of registers in that loop, with their share of the store slots.
- *cycles*: words issued by one core, at 1.05 GHz. *time*: the longest of these, of the products at
  275 TFLOP/s and of the bytes at 1228 GB/s (the *floor*: every array once); of ancestral_step the
  sum over its three phases.
- *XLA*: cycles of XLA's own cost model, added over the operations of the plain version, with
  bfloat16 products where the activations are. *ratio*: time of the kernel over that.
"""


@dataclasses.dataclass(frozen=True)
class Row:
    case: Case
    dtype: str
    schedule: tpu_static.Schedule
    cycles: float
    cost: Cost
    xla: int | None
    phases: tuple[tuple[float, float], ...] = ()  # (cycles, bytes), if one follows the other

    @property
    def floor(self) -> float:
        return self.cost.bytes / tpu_static.BYTES_PER_SECOND

    @property
    def seconds(self) -> float:
        if self.phases:
            return sum(
                max(cycles / tpu_static.CLOCK_HZ, moved / tpu_static.BYTES_PER_SECOND)
                for cycles, moved in self.phases
            )
        peak = tpu_static.FLOPS_PER_SECOND / (6 if self.dtype == "float32" else 1)
        multiplying = self.cost.flops / peak if self.schedule.product else 0.0
        return max(self.cycles / tpu_static.CLOCK_HZ, self.floor, multiplying)


def inputs_of(room: str, case: Case, dtype: str) -> dict[str, Any]:
    """The arguments as shapes; a block is given its group sums, parameters are float32."""
    inputs: dict[str, Any] = jax.eval_shape(lambda: shapes.room(room).make_inputs(case, dtype))
    if room == "conv1d_block" and case.options.get("groups"):
        inputs["sums"] = jax.ShapeDtypeStruct((case.B, case.options["groups"], 2), jnp.float32)
    return inputs


def cycles_of(room: str, case: Case, dtype: str, s: tpu_static.Schedule) -> float:
    """Words issued by the busier core. A step of the grid is in the schedule once, with code that
    only some steps run: that is counted as often as it runs."""
    if room == "combine_film":
        from noise2music.kernels.combine_film.pallas_tpu import tiles

        width, _, count = tiles(jax.ShapeDtypeStruct((case.B, case.T, case.C), dtype))
        steps = case.B * (case.C // width) * count
        return steps / tpu_static.CORES * (s.product + s.rest)
    if room == "ancestral_step":
        return sum(cycles for cycles, _ in phases_of(case, s))
    item = jnp.dtype(dtype).itemsize
    stride = case.options.get("stride", 1)
    first = reference.same_padding(case.T, case.K, stride)[0]
    p = pallas_plan.plan(case.B, case.T, case.C, case.D, case.K, stride, first, item)
    _, outer, chunks, items = p.grid
    steps = outer * chunks * items
    return steps * (s.product + STEP_CYCLES) + outer * items * s.rest


def phases_of(case: Case, s: tpu_static.Schedule) -> list[tuple[float, float]]:
    """(cycles, bytes) of the three phases of ancestral_step, which follow one another: x_0 and its
    lists are formed while x_t and eps come in; the lists are searched while z comes in; x_s and x_0
    are formed and go out. The search of the whole clip, which stands after that of the lists, is
    hardly ever run and left out."""
    of_lists, of_clip = s.searches
    cycles = of_lists.before_loop, of_clip.before - of_lists.before_loop, of_clip.after
    array = case.B * case.T * case.C * 4
    drawn = case.options.get("noise") == "hardware"
    clips = -(-case.B // tpu_static.CORES)
    moved = 3 * array, 0 if drawn else array, 2 * array
    return [(clips * c, b) for c, b in zip(cycles, moved, strict=True)]


def three_products(case: Case) -> tuple[tpu_static.Schedule, float]:
    """The schedule of the middle kernel of a transform, and the cycles of all three: a step of the
    grid is a column of 128."""
    from noise2music.kernels.fft_upsample.pallas_plan import plan

    narrow, wide = plan(case.T, case.options["up"], case.options.get("down", 1)).columns
    cycles = 0.0
    for part, columns in (("forth", narrow), ("middle", wide), ("back", wide)):
        s = tpu_static.schedule(FOLDER, f"n2m_fft_upsample_fwd_{part}")
        steps = case.B * case.C * columns // 128
        cycles += steps / tpu_static.CORES * (s.product + s.rest)
        if part == "middle":
            middle = s
    return middle, cycles


def plain_bfloat16(inputs: dict[str, Any], options: dict[str, Any]) -> Any:
    """conv1d_block by XLA with bfloat16 products."""
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    stride = options.get("stride", 1)
    h = x
    if inputs["scale"] is not None:
        norm = inputs["scale"], inputs["offset"], inputs["sums"]
        h = reference.group_norm_swish(x, *norm, 1e-5).astype(x.dtype)
    y = jax.lax.conv_general_dilated(
        h, weight.astype(x.dtype), (stride,),
        [reference.same_padding(x.shape[1], weight.shape[0], stride)],
        dimension_numbers=("NWC", "WIO", "NWC"), preferred_element_type=jnp.float32,
    ) + bias.astype(jnp.float32)  # fmt: skip
    if inputs["residual"] is not None:
        fc = inputs["fc"].astype(x.dtype)
        y = y + jnp.matmul(inputs["residual"], fc, preferred_element_type=jnp.float32)
    y = y.astype(x.dtype)
    return y, reference.group_sums(y, options["out_groups"]) if "out_groups" in options else None


def by_xla(room: str, case: Case, dtype: str) -> int:
    """XLA's cycles for what a user of plain JAX would write."""
    inputs = inputs_of(room, case, dtype)

    def plain(inputs: dict[str, Any]) -> Any:
        if room == "conv1d_block" and dtype == "bfloat16":
            return plain_bfloat16(inputs, case.options)
        return shapes.room(room).FUNCTION(**inputs, **case.options, implementation="reference")

    return tpu_static.xla_cycles(tpu_static.compiled(plain, (inputs,)).as_text())


def xla_name(room: str, case: Case, dtype: str) -> str:
    """What a line of the file of XLA's cycles is about."""
    return f"{room} {sorted(case.shape.items())} {sorted(case.options.items())} {dtype}"


def read_xla(path: Path | None) -> dict[str, int]:
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return {row["what"]: row["cycles"] for row in map(json.loads, lines)}


def add_xla(path: Path, rooms: list[str], minutes: float) -> None:
    """Compiles what the file lacks, small shapes first, until the time is over."""
    end = time.monotonic() + 60 * minutes
    known = read_xla(path)
    left = [
        (room, case, dtype)
        for room in rooms
        for case, dtype in cases_of(room)
        if xla_name(room, case, dtype) not in known
        and not case.name.endswith(("entry", "exit", "hardware"))
    ]
    for room, case, dtype in sorted(left, key=lambda w: shapes.room(w[0]).cost(w[1], w[2]).bytes):
        if time.monotonic() > end:
            break
        start = time.monotonic()
        cycles = by_xla(room, case, dtype)
        seconds = round(time.monotonic() - start, 1)
        row = {"what": xla_name(room, case, dtype), "cycles": cycles, "compile_seconds": seconds}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def row_of(room: str, case: Case, dtype: str, xla: dict[str, int] | None = None) -> Row | str:
    """The schedule of a shape, or why "auto" leaves it to XLA."""
    inputs = inputs_of(room, case, dtype)
    shape = inputs[shapes.room(room).BATCHED[0]].shape
    details = dict(case.options) if room == "fft_upsample" else {}
    if room == "conv1d_block":
        details = {"weight": (case.K, case.C, case.D)}
    told = kernels.explain(room, shape, dtype, platform="tpu", **details)
    if told.runs != "pallas":
        return str(told.passed_over["pallas"])

    def call(inputs: dict[str, Any]) -> Any:
        return shapes.room(room).FUNCTION(**inputs, **case.options)

    for path in FOLDER.iterdir():
        path.unlink()
    tpu_static.compiled(call, (inputs,))
    by_plain = (xla or {}).get(xla_name(room, case, dtype))
    if room == "fft_upsample":
        schedule, cycles = three_products(case)
        cost = shapes.cost_of(shapes.Work(room, case, dtype, "forward"))
        cost = dataclasses.replace(cost, flops=0)
        return Row(case, dtype, schedule, cycles, cost, by_plain)
    schedule = tpu_static.schedule(FOLDER, f"n2m_{room}_fwd", SEARCHES)
    cost = shapes.cost_of(shapes.Work(room, case, dtype, "forward"))
    if room == "conv1d_block" and case.options.get("groups"):
        cost = shapes.room(room).cost(dataclasses.replace(case, name="given_sums"), dtype)
    phases = tuple(phases_of(case, schedule)) if room == "ancestral_step" else ()
    cycles = cycles_of(room, case, dtype, schedule)
    return Row(case, dtype, schedule, cycles, cost, by_plain, phases)


def line(row: Row) -> str:
    s, us = row.schedule, 1e6
    axes = ", ".join(f"{a} {n}" for a, n in row.case.shape.items() if n)
    mxu = row.cost.flops / (row.seconds * tpu_static.FLOPS_PER_SECOND)
    cells = [
        f"{row.case.name} ({axes})", row.dtype, str(s.bundles),
        f"{s.inner['MXU']:.0%}" if s.product else "-", f"{s.inner['VALU']:.0%}",
        f"{s.spills} ({s.inner['SPILL']:.0%})" if s.spills else "0", f"{row.cycles:.0f}",
        f"{row.seconds * us:.1f}", f"{row.floor * us:.1f}", f"{row.seconds / row.floor:.2f}",
        f"{mxu:.0%}" if s.product and row.cost.flops else "-",
    ]  # fmt: skip
    if row.xla is None:
        cells += ["", ""]
    else:
        seconds = row.xla / tpu_static.CLOCK_HZ
        cells += [f"{seconds * us:.1f}", f"{row.seconds / seconds:.2f}"]
    return "| " + " | ".join(cells) + " |"


TITLES = (
    "shape", "dtype", "bundles", "MXU", "VALU", "spills", "cycles", "time us", "floor us",
    "time / floor", "of the peak", "XLA us", "ratio",
)  # fmt: skip


def cases_of(room: str, few: bool = False) -> list[tuple[Case, str]]:
    """The shapes of a room's table with their data types."""
    dtypes: tuple[str, ...] = ("bfloat16",)
    if room in ("ancestral_step", "fft_upsample"):
        dtypes = ("float32",)
    elif room == "combine_film":
        dtypes = ("bfloat16", "float32")
    cases = [c for c in shapes.cases_of(room) if not c.name.startswith("tiny_")]
    if room == "ancestral_step":
        hardware = {"noise": "hardware"}
        cases += [
            dataclasses.replace(c, name=f"{c.name}, hardware", options=hardware) for c in cases
        ]
    return [(c, dtype) for c in cases for dtype in dtypes if not (few and "." in c.name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rooms", nargs="+", default=ROOMS, choices=ROOMS)
    parser.add_argument("--few", action="store_true", help="only the cases of the rooms")
    parser.add_argument("--xla", type=Path, help="cycles of XLA's versions, a line of JSON each")
    parser.add_argument("--xla-minutes", type=float, help="only fill that file, for so long")
    options = parser.parse_args()
    if options.xla_minutes is not None:
        add_xla(options.xla, options.rooms, options.xla_minutes)
        return 0
    xla = read_xla(options.xla)
    print(HEAD.format(**{n: metadata.version(n) for n in ("jax", "libtpu")}))
    failed = 0
    for room in options.rooms:
        print(f"\n## {room}\n\n| " + " | ".join(TITLES) + " |\n|" + "---|" * len(TITLES))
        left: dict[str, list[str]] = {}
        for case, dtype in cases_of(room, options.few):
            try:
                row = row_of(room, case, dtype, xla)
            except jax.errors.JaxRuntimeError as error:
                failed += 1
                first = re.sub(r"\s+", " ", str(error))[:200]
                print(f"| {case.name} | {dtype} | does not compile: {first} |")
                continue
            if isinstance(row, str):
                left.setdefault(row, []).append(case.name)
            else:
                print(line(row), flush=True)
        for why, names in left.items():
            print(f"\nLeft to XLA ({why}): {', '.join(names)}.")
    shutil.rmtree(FOLDER, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
