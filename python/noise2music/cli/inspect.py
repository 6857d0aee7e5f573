"""`noise2music info`: the five full presets beside the paper's table, and the facts of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noise2music import config

if TYPE_CHECKING:
    from noise2music.cli.commands import Info


def info(options: Info) -> int:
    """Prints both tables."""
    print(presets_table())
    print()
    print(model_facts(options.model))
    return 0


def presets_table() -> str:
    """Parameters of the five full presets, counted on abstract arrays, beside Table 2."""
    from noise2music import unet1d

    rows = [("stage", "rate", "base", "depth", "ours (M)", "Table 2 (M)", "ratio")]
    for name in config.STAGES:
        stage = config.load_preset(name)
        ours = unet1d.count_parameters(stage.unet) / 1e6
        paper = stage.paper_params_m
        rows.append(
            (
                name,
                f"{stage.rate}/s",
                str(stage.unet.base_dim),
                str(stage.unet.depth),
                f"{ours:.1f}",
                "-" if paper is None else f"{paper:g}",
                "-" if paper is None else f"{ours / paper:.3f}",
            )
        )
    return (
        "The paper's five models at full size (no weights of theirs are public)\n"
        + _table(rows)
        + "\nNo reading of the paper's block gives all five numbers of its Table 2; ours follows "
        "its Figure 5."
    )


def model_facts(model: str) -> str:
    """What is known of the weights in a model folder."""
    import noise2music
    from noise2music import unet1d

    pipe = noise2music.load(model)
    rows = [("stage", "rate", "parameters (M)", "steps", "guidance", "sampler")]
    for name, stage in pipe.stages.items():
        steps = stage.steps or sum(count for _, count in stage.denoising)
        rows.append(
            (
                name,
                f"{stage.rate}/s",
                f"{unet1d.count_parameters(stage.unet) / 1e6:.2f}",
                str(steps),
                "-" if stage.guidance is None else f"{stage.guidance:g}",
                stage.sampler,
            )
        )
    text = f"Model {pipe.name}, weights {pipe.model_hash}, routes {', '.join(pipe.routes)}\n"
    card = json.loads((pipe.folder / "model.json").read_text(encoding="utf-8"))
    facts = [f"{key}: {value}" for key, value in card.items() if key not in ("name", "stages")]
    return "\n".join([text + _table(rows), *facts])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
