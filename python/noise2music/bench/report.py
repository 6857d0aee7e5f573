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

_RIVAL_NAMES = {"xla": "XLA", "torch": "PyTorch", "compile": "compile", "scipy": "SciPy"}
LEGEND = (
    "ms: median of a call; +-: distance of the quartiles over the median; GB/s and GFLOP/s: the "
    "least bytes and the operations of the direct computation over that time; roof: of the bound "
    "by the measured copy and matrix product (above 100 % where fewer operations are made than "
    "counted); times: how much longer the rival takes, timed in turn in the same run; error: "
    "largest difference from plain JAX in float32 over the largest value; MB: the most a "
    "network's step takes beyond the weights and its inputs."
)


def machine() -> str:
    """Processor and versions, in words."""
    import jax

    from noise2music import __version__
    from noise2music.kernels import build_info

    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    words = [f"{len(os.sched_getaffinity(0))} cores of {model}"]
    words += [build_info().get("isa", "no native library")]
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
    """The heading and a list a row."""
    shown = [r for r in RIVALS if any(r in row.seconds for row in rows)]
    memory = any(row.memory for row in rows)
    heading = ["op", "case", "dtype", "passes", "ms", "+-", "GB/s", "GFLOP/s", "roof"]
    heading += [f"{_RIVAL_NAMES[r]} times" for r in shown] + ["error"]
    heading += ["MB", "XLA's MB"] if memory else []
    table = [heading]
    for row in rows:
        line = [row.op, row.case, row.dtype, row.passes, f"{1e3 * row.seconds['ours']:.3g}"]
        line += [f"{100 * row.spread['ours']:.0f} %", _number(row.gbytes_per_second)]
        line += [_number(row.gflops), f"{row.roof_percent:.0f} %" if row.roof_percent else "-"]
        for rival in shown:
            ratio = row.ratio(rival)
            line.append("-" if ratio is None else f"{ratio:.2f}")
        line.append(f"{row.error:.0e}")
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
    table = cells(rows)
    lines = ["| " + " | ".join(line) + " |" for line in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines)


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
