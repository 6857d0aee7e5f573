"""The roofline: operations a second over operations a byte, one dot a row. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence

from noise2music import audio
from noise2music.bench.ops import Row
from noise2music.bench.roof import Roof
from noise2music.plot import SUFFIXES, require_matplotlib

_COLOURS = {
    "combine_film": "#b3541e",
    "conv1d_block": "#30558a",
    "fft_upsample": "#3b7d4f",
    "ancestral_step": "#7b3f8c",
}


def plot_roofline(rows: Sequence[Row], roof: Roof, path: str | os.PathLike[str]) -> None:
    """Full dots are ours, hollow ones plain XLA's at the same shape, joined by a line."""
    path = audio.check_output(path, list(SUFFIXES))
    figure = require_matplotlib().Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if row.op in _COLOURS and row.gflops > 0]
    intensity = [row.gflops / row.gbytes_per_second for row in rows] or [1.0]
    low, high = min(*intensity, 0.1) / 2, max(*intensity, 100.0) * 2
    for dtype, style in zip(roof.flops, ("-", "--"), strict=False):
        peak = roof.flops[dtype] / 1e9
        corner = peak / (roof.copy / 1e9)
        axes.plot(
            [low, corner, high], [low * roof.copy / 1e9, peak, peak], style,
            color="0.3", label=f"roof, {dtype}: {peak:.0f} GFLOP/s, {roof.copy / 1e9:.0f} GB/s",
        )  # fmt: skip
    named: set[str] = set()
    for row, at in zip(rows, intensity, strict=False):
        label = None if row.op in named else row.op
        named.add(row.op)
        colour = _COLOURS[row.op]
        axes.plot(at, row.gflops, "o", color=colour, label=label, markersize=5)
        if (ratio := row.ratio("xla")) is not None:
            axes.plot([at, at], [row.gflops, row.gflops / ratio], color=colour, linewidth=0.6)
            axes.plot(at, row.gflops / ratio, "o", color=colour, markersize=4, fillstyle="none")
    axes.set(
        xscale="log", yscale="log", xlim=(low, high),
        xlabel="operations of the direct computation a byte moved at the least",
        ylabel="GFLOP/s of the direct computation",
        title="Full: noise2music. Hollow: plain XLA in the same run.",
    )  # fmt: skip
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(loc="lower right")
    with audio.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
