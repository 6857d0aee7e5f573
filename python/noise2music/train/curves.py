"""`noise2music plot`: the logs of training runs as curves, several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noise2music.audio import check_output, replacing
from noise2music.errors import UserError
from noise2music.plot import SUFFIXES, require_matplotlib
from noise2music.train.insight import BUCKETS, read_log

# Panels: title, names of log lines, logarithmic.
_PANELS = (
    ("training loss", "loss", True),
    ("validation loss, averaged weights", "validation_loss", True),
    ("norm of the gradient", "grad_norm", True),
    ("clips a second", "clips_per_second", False),
)


def read_run(name: str) -> list[dict[str, Any]]:
    """The log lines of a run folder or log file; of a+b, b begun where a ended, counted on."""
    rows: list[dict[str, Any]] = []
    for part in name.split("+"):
        path = Path(part)
        path = path / "log.jsonl" if path.is_dir() else path
        found = read_log(path)
        if not found:
            raise UserError(f"{part!r} must be a run folder or its log.jsonl with lines in it")
        first = rows[-1]["step"] if rows else 0
        rows += [row | {"step": first + row["step"]} for row in found]
    return rows


def plot_runs(names: Sequence[str], path: Path) -> None:
    """One panel a quantity, one colour a run, and the validation loss by t of each run that has it.

    A quantity that no run has gets no panel.
    """
    path = check_output(path, list(SUFFIXES))
    runs = [read_run(name) for name in names]
    panels = [panel for panel in _PANELS if any(panel[1] in row for run in runs for row in run)]
    by_t = [
        (n, r) for n, r in zip(names, runs, strict=True) if any("validation_by_t" in x for x in r)
    ]
    rows = -(-(len(panels) + len(by_t)) // 3)
    figure = require_matplotlib().Figure(figsize=(12.6, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for ax, (title, name, logarithmic) in zip(axes, panels, strict=False):
        for label, run in zip(names, runs, strict=True):
            _draw(ax, run, name, label=_short(label))
        ax.set(title=title, xlabel="step", yscale="log" if logarithmic else "linear")
    axes[0].legend(fontsize=7)
    for ax, (label, run) in zip(axes[len(panels) :], by_t, strict=False):
        for bucket in range(BUCKETS):
            low, high = bucket / BUCKETS, (bucket + 1) / BUCKETS
            _draw(ax, run, "validation_by_t", bucket, label=f"{low:.1f} < t < {high:.1f}")
        ax.set(title=f"validation loss by t, {_short(label)}", xlabel="step", yscale="log")
        ax.legend(fontsize=7)
    for ax in axes[len(panels) + len(by_t) :]:
        ax.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _draw(
    ax: Any, run: list[dict[str, Any]], name: str, item: int | None = None, **how: Any
) -> None:
    points = [(r["step"], r[name] if item is None else r[name][item]) for r in run if name in r]
    points = [p for p in points if p[1] is not None]
    mark = "o-" if len(points) < 60 and name != "loss" else "-"
    ax.plot([p[0] for p in points], [p[1] for p in points], mark, lw=0.9, ms=2.5, **how)


def _short(name: str) -> str:
    parts = [Path(p).parent.name if p.endswith(".jsonl") else Path(p).name for p in name.split("+")]
    return "+".join(parts)
