"""`noise2music export` and `noise2music plot`: what can be made of training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noise2music.errors import UserError

if TYPE_CHECKING:
    from noise2music.cli.commands import Export, Plot


def export(options: Export) -> int:
    """Writes a model folder and says what it has."""
    import numpy as np

    from noise2music.config import ROUTES
    from noise2music.train import export as exporting

    if not options.runs:
        raise UserError("export needs at least one RUN: a folder of `noise2music train`")
    if options.step is not None and len(options.runs) > 1:
        raise UserError("--step goes with a single RUN")
    stages = exporting.export(
        options.runs,
        options.out,
        name=options.name or "",
        step=options.step,
        dtype=np.dtype(options.dtype),
        preset_sampling=options.preset_sampling,
        text_encoder=options.text_encoder,
    )
    routes = [route for route, needed in ROUTES.items() if set(needed) <= set(stages)]
    can = f"generates by the route {' and '.join(routes)}" if routes else "no whole route yet"
    print(f"{options.out}: {', '.join(stages)}; {can}")
    return 0


def plot(options: Plot) -> int:
    """Draws the logs of runs into one picture."""
    from noise2music.train.curves import plot_runs

    if not options.logs:
        raise UserError("plot needs at least one LOG: a run folder or its log.jsonl")
    plot_runs(options.logs, options.output)
    print(options.output)
    return 0
