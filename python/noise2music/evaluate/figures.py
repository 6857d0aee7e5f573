"""Figure 2 (FAD against similarity) and Figure 3 (quality against time) of a sweep, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noise2music.audio import replacing
from noise2music.evaluate.ablation_points import Point
from noise2music.evaluate.similarity import Average
from noise2music.evaluate.sweep import AS_SHIPPED
from noise2music.plot import require_matplotlib

_COLOURS = ("#1f6fb4", "#d1660f", "#2f8f4e")  # of the first stage, the second, both at once
_MARKERS = ("o", "s", "D")
_BASE = "#222222"
_SHORT = {"front_heavy": "F", "uniform": "U", "back_heavy": "B"}
_TITLES = {"denoising": "denoising: front-heavy, uniform, back-heavy"}


def kind_of(points: Sequence[Point]) -> str:
    """What similarity is drawn: to the "text" where it is known, else to the "audio"."""
    return "text" if any(p.likeness("text") for p in points) else "audio"


def lines_of(points: Sequence[Point]) -> dict[str, dict[str, list[Point]]]:
    """Parameter -> stage ("" for both) -> its points in order; those without figures are left out.

    The model's own value is among them, except of denoising, where it may be none of the three.
    """
    lines: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        if point.setting != AS_SHIPPED and point.fad is not None:
            line = lines.setdefault(point.setting.parameter, {})
            line.setdefault(point.setting.stage, []).append(point)
    return lines


def stages_of(points: Sequence[Point]) -> list[str]:
    """The stages in the order of the cascade."""
    return list(dict.fromkeys(p.setting.stage for p in points if p.setting.stage))


def figure_2(points: Sequence[Point], path: Path) -> None:
    """FAD-infinity (lower is better) against similarity (higher is better), a panel a parameter."""
    kind, stages, lines = kind_of(points), stages_of(points), lines_of(points)
    figure = require_matplotlib().Figure(figsize=(9.5, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, (parameter, of_stage) in zip(panels, lines.items(), strict=False):
        _shipped(panel, points[0], kind)
        for stage, line in of_stage.items():
            number = stages.index(stage) if stage else 2
            x, y = _middles(line, kind)
            label = stage.replace("_", " ") or "both stages"
            panel.plot(
                x, y, color=_COLOURS[number], marker=_MARKERS[number], label=label, linewidth=1.2,
                markersize=5,
            )  # fmt: skip
            _name(panel, line, x, y, number)
        panel.set_title(_TITLES.get(parameter, parameter), fontsize=11)
        panel.grid(color="#eeeeee")
        panel.legend(fontsize=8, loc="best")
    for panel in panels[len(lines) :]:
        panel.set_visible(False)
    figure.supxlabel(f"audio-{kind} similarity (higher is better)", fontsize=10)
    figure.supylabel("FAD-infinity (lower is better)", fontsize=10)
    _save(figure, path)


def figure_3(points: Sequence[Point], path: Path) -> bool:
    """FAD-infinity and similarity against the seconds that a clip takes; False: nothing timed.

    A point whose time was not taken is not drawn.
    """
    kind, stages = kind_of(points), stages_of(points)
    timed = lines_of([p for p in points if p.seconds is not None]).get("steps", {})
    if not any(len(line) > 1 for line in timed.values()):
        return False
    figure = require_matplotlib().Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for stage, line in timed.items():
        number = stages.index(stage)
        line = sorted(line, key=lambda p: p.seconds or 0.0)
        x = [p.seconds or 0.0 for p in line]
        distances = [(p.fad.infinity, p.fad.low, p.fad.high) for p in line if p.fad is not None]
        averages = [_span(p.likeness(kind)) for p in line]
        for panel, values in ((left, distances), (right, averages)):
            middle = [v[0] for v in values]
            spans = [[max(0.0, m - v[1]) for m, v in zip(middle, values, strict=True)],
                     [max(0.0, v[2] - m) for m, v in zip(middle, values, strict=True)]]  # fmt: skip
            panel.errorbar(
                x, middle, yerr=spans, color=_COLOURS[number], marker=_MARKERS[number], capsize=3,
                label=f"{stage.replace('_', ' ')} steps", linewidth=1.2, elinewidth=0.7,
                markersize=5,
            )  # fmt: skip
            _name(panel, line, x, middle, number)
    for panel, label in (
        (left, "FAD-infinity (lower is better)"),
        (right, f"audio-{kind} similarity (higher is better)"),
    ):
        panel.set(xlabel="seconds a clip (median)", ylabel=label, xlim=(0, None))
        panel.grid(color="#eeeeee")
    left.legend(fontsize=8)
    _save(figure, path)
    return True


def _shipped(panel: Any, base: Point, kind: str) -> None:
    """The model as shipped with both of its intervals."""
    if base.fad is None:
        return
    x, low, high = _span(base.likeness(kind))
    y = base.fad.infinity
    panel.errorbar(
        x, y, xerr=[[x - low], [high - x]], fmt="*", color=_BASE, ecolor="#999999",
        yerr=[[max(0.0, y - base.fad.low)], [max(0.0, base.fad.high - y)]], markersize=12,
        capsize=3, elinewidth=0.8, label="as shipped, 95 % intervals", zorder=3,
    )  # fmt: skip


def _name(
    panel: Any, line: Sequence[Point], x: Sequence[float], y: Sequence[float], number: int
) -> None:
    """Each point's value beside it, on another side for each stage."""
    where, align = ((5, 4), "left") if number != 1 else ((-5, -11), "right")
    for point, a, b in zip(line, x, y, strict=True):
        panel.annotate(
            _SHORT.get(point.setting.value, point.setting.value), (a, b), xytext=where, ha=align,
            textcoords="offset points", fontsize=8, color=_COLOURS[number],
        )  # fmt: skip


def _middles(line: Sequence[Point], kind: str) -> tuple[list[float], list[float]]:
    x = [_span(p.likeness(kind))[0] for p in line]
    return x, [p.fad.infinity for p in line if p.fad is not None]


def _span(average: Average | None) -> tuple[float, float, float]:
    assert average is not None  # a point with a distance has it too
    return average.mean, average.low, average.high


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
