"""Figure 2 (FAD against similarity) and Figure 3 (quality against time) of a sweep, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noise2music.audio import replacing
from noise2music.evaluate.ablate import Point
from noise2music.plot import require_matplotlib

_MARKERS = "osD^vPX*"


def _lines(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Axis -> its points in their order, without the base."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        if point.setting.axis != "base":
            lines.setdefault(point.setting.axis, []).append(point)
    return lines


def _label(value: str) -> str:
    return {"front_heavy": "F", "uniform": "U", "back_heavy": "B"}.get(value, value)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def figure_2(points: Sequence[Point], path: Path) -> None:
    """FAD-infinity (lower is better) against similarity (higher is better), a line an axis."""
    figure = require_matplotlib().Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for marker, (axis, line) in zip(_MARKERS, _lines(points).items(), strict=False):
        x, y = [p.similarity[0] for p in line], [p.fad[0] for p in line]
        axes.plot(x, y, marker=marker, label=axis.replace("_", " "), linewidth=1, markersize=5)
        for point, a, b in zip(line, x, y, strict=True):
            label = _label(point.setting.value)
            axes.annotate(label, (a, b), xytext=(4, 4), textcoords="offset points", fontsize=8)
    base = next(p for p in points if p.setting.axis == "base")
    axes.errorbar(
        base.similarity[0], base.fad[0], fmt="k*", markersize=13, capsize=3, elinewidth=0.8,
        xerr=[[base.similarity[0] - base.similarity[1]], [base.similarity[2] - base.similarity[0]]],
        yerr=[[max(0.0, base.fad[0] - base.fad[1])], [base.fad[2] - base.fad[0]]],
        label="as shipped, 95 % intervals",
    )  # fmt: skip
    axes.set(xlabel=f"audio-{base.kind} similarity", ylabel="FAD-infinity")
    axes.legend(fontsize=8)
    _save(figure, path)


def figure_3(points: Sequence[Point], path: Path) -> bool:
    """FAD-infinity and similarity against the seconds that a clip takes; False: nothing timed.

    A point whose time was not taken is not drawn.
    """
    base = next(p for p in points if p.setting.axis == "base")
    timed = [p for p in points if p.seconds is not None]
    lines = {
        axis: sorted([*line, base], key=lambda p: p.seconds or 0.0)
        for axis, line in _lines(timed).items()
        if base.seconds is not None
    }
    if not lines:
        return False
    figure = require_matplotlib().Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for marker, (axis, line) in zip(_MARKERS, lines.items(), strict=False):
        x = [p.seconds for p in line]
        for panel, name in ((left, "fad"), (right, "similarity")):
            values = [getattr(p, name) for p in line]
            middle = [v[0] for v in values]
            spans = [[max(0.0, v[0] - v[1]) for v in values], [v[2] - v[0] for v in values]]
            panel.errorbar(
                x, middle, yerr=spans, marker=marker, label=axis.replace("_", " "), capsize=3,
                linewidth=1, elinewidth=0.6, markersize=5,
            )  # fmt: skip
    left.set(xlabel="seconds a clip (median)", ylabel="FAD-infinity")
    right.set(xlabel="seconds a clip (median)", ylabel=f"audio-{base.kind} similarity")
    left.legend(fontsize=8)
    _save(figure, path)
    return True
