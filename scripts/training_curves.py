"""Draw the losses that `noise2music train` logged.

    python scripts/training_curves.py runs/a runs/b+runs/c --out docs/images/training.png

One panel a run folder; folders joined by "+" are one training, each begun where the last ended.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read(folders: list[Path]) -> tuple[str, list[dict[str, float]], list[int]]:
    """(stage, log lines with steps counted on, steps at which a folder ends)."""
    lines: list[dict[str, float]] = []
    ends: list[int] = []
    for folder in folders:
        first = ends[-1] if ends else 0
        for line in (folder / "log.jsonl").read_text().splitlines():
            row = json.loads(line)
            lines.append(row | {"step": first + row["step"]})
        ends.append(int(lines[-1]["step"]))
    return json.loads((folders[0] / "config.json").read_text())["name"], lines, ends


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [read([Path(f) for f in run.split("+")]) for run in arguments.runs]
    figure, axes = plt.subplots(1, len(runs), figsize=(3.2 * len(runs), 2.8), squeeze=False)
    for ax, (stage, lines, ends) in zip(axes[0], runs, strict=True):
        ax.plot([r["step"] for r in lines], [r["loss"] for r in lines], lw=0.8, label="training")
        held = [r for r in lines if "validation_loss" in r]
        ax.plot(
            [r["step"] for r in held],
            [r["validation_loss"] for r in held],
            "o-",
            ms=3,
            label="validation, EMA",
        )
        for end in ends[:-1]:
            ax.axvline(end, color="grey", lw=0.8, ls=":")
        ax.set(title=stage.replace("_", " "), xlabel="step", yscale="log")
        ax.tick_params(which="both", labelsize=7)
        ax.title.set_fontsize(9)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
