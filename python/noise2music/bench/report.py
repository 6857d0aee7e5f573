"""The rows as a table for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

from noise2music.bench.ops import Row
from noise2music.bench.rivals import RIVALS
from noise2music.bench.roof import Roof
from noise2music.errors import UserError

_PASSES = {"forward": "forward", "both": "forward and backward"}
_RIVAL_NAMES = {
    "xla": "XLA",
    "torch": "PyTorch",
    "compile": "compile",
    "scipy": "SciPy",
    "float32": "float32",
}
DISTURBED = 0.25  # a spread above this: something else ran at the time
LEGEND = (
    "ms: median of a call; +-: distance of the quartiles over the median; GB/s and GFLOP/s: the "
    "least bytes and the operations of the direct computation over that time; roof: of the bound "
    "by the measured copy and matrix product (above 100 % where fewer operations are made than "
    "counted); times: how much longer the rival takes, timed in turn in the same run, with ? "
    "where the spread of either is above 25 %: not to be quoted; float32 times: the same against "
    "our own float32; error: largest difference from plain JAX in float32 over the largest value; "
    "MB: the most a network's step takes beyond the weights and its inputs, in 10^6 bytes."
)


def machine() -> str:
    """Processor and versions, in words."""
    import jax

    from noise2music import __version__
    from noise2music.bench import device
    from noise2music.kernels import build_info

    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    words = [f"{len(os.sched_getaffinity(0))} cores of {model}"]
    words += [build_info().get("isa", "no native library")]
    if device.on_gpu():
        words = [jax.devices()[0].device_kind, *words, "times of the GPU"]
    words += [f"noise2music {__version__}", f"jax {jax.__version__}"]
    try:
        words += [f"torch {importlib.metadata.version('torch')}"]
    except importlib.metadata.PackageNotFoundError:
        pass
    return ", ".join(words)


def roof_line(roof: Roof) -> str:
    parts = [f"{d} {f / 1e9:.0f} GFLOP/s ({roof.how[d]})" for d, f in roof.flops.items()]
    return (
        f"matrix product {', '.join(parts)}; copy {roof.copy / 1e9:.1f} GB/s ({roof.how['copy']})"
    )


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The heading and a list a row; the first four cells are text."""
    shown = [r for r in RIVALS if any(r in row.seconds for row in rows)]
    memory = any(row.memory for row in rows)
    heading = ["op", "case", "dtype", "passes", "ms", "+-", "GB/s", "GFLOP/s", "roof"]
    heading += [f"{_RIVAL_NAMES[r]} times" for r in shown] + ["error"]
    plain = any(row.plain_error is not None and row.dtype == "bfloat16" for row in rows)
    heading += ["XLA's error"] if plain else []
    heading += ["MB", "XLA's MB"] if memory else []
    table = [heading]
    for row in rows:
        line = [row.op, row.case, row.dtype, row.passes, f"{1e3 * row.seconds['ours']:.3g}"]
        line += [f"{100 * row.spread['ours']:.0f} %", _number(row.gbytes_per_second)]
        line += [_number(row.gflops), f"{row.roof_percent:.0f} %" if row.roof_percent else "-"]
        for rival in shown:
            ratio = row.ratio(rival)
            doubt = max(row.spread.get(rival, 0.0), row.spread["ours"]) > DISTURBED
            line.append("-" if ratio is None else f"{ratio:.2f}{'?' if doubt else ''}")
        line.append(f"{row.error:.0e}")
        if plain:
            line.append("-" if row.plain_error is None else f"{row.plain_error:.0e}")
        if memory:
            line += [_megabytes(row.memory.get(name)) for name in ("ours", "xla")]
        table.append(line)
    return table


def terminal(rows: Sequence[Row]) -> str:
    """Columns of even width, text to the left, numbers to the right."""
    table = cells(rows)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 4 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """Without what the heading of the table says already."""
    table = [[line[1], *line[4:]] for line in cells(rows)]
    lines = ["| " + " | ".join(line) + " |" for line in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines)


def document(rows: Sequence[Row], roof: Roof, skipped: Sequence[str]) -> str:
    """docs/benchmarks/*.md: one table an op, dtype and kind of pass."""
    text = (
        "# Measured on a CPU\n\n"
        "Written by `noise2music bench all --dtype all --passes all --markdown FILE`, or in parts: "
        "`noise2music bench WHAT --json PART` and then `noise2music bench --join PART... "
        "--markdown FILE`. Not edited by hand. One row again: `noise2music bench OP --case CASE "
        "--dtype DTYPE --passes PASSES`.\n\n"
        f"{machine()}. Roof: {roof_line(roof)}; the highest of the runs, while each row's per cent "
        f"is of the roof of its own run. Ratios are within one run.\n\n{LEGEND}\n"
    )
    tables: dict[str, list[Row]] = {}
    for row in rows:
        title = row.op if row.passes == "step" else f"{row.op}, {_PASSES[row.passes]}"
        tables.setdefault(f"{title}, {row.dtype}", []).append(row)
    for title, part in tables.items():
        text += f"\n## {title}\n\n{markdown(part)}\n"
    return text + "".join(f"\nLeft out: {line}.\n" for line in dict.fromkeys(skipped))


def from_json(text: str, where: str) -> tuple[list[Row], Roof, list[str]]:
    """What `as_json` wrote: rows, roof, what was left out. UserError where it is something else."""
    try:
        values = json.loads(text)
        rows = [Row(**row) for row in values["rows"]]
        return rows, Roof(**values["roof"]), values["skipped"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where!r} is not what noise2music bench --json writes: {error}"
        ) from error


def as_json(rows: Sequence[Row], roof: Roof, skipped: Sequence[str]) -> str:
    """Everything, for machines: seconds are medians, spread the quartiles' distance over them."""
    values: dict[str, Any] = {
        "machine": machine(),
        "roof": dataclasses.asdict(roof),
        "rows": [dataclasses.asdict(row) for row in rows],
        "skipped": list(skipped),
    }
    return json.dumps(values, indent=1) + "\n"


def _number(value: float) -> str:
    return "-" if not value else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}"
