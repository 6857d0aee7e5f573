"""A sweep as a Markdown page with its table and its figures, which stand beside it in images/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noise2music import __version__
from noise2music.evaluate import figures
from noise2music.evaluate.ablate import Point, Sweep


def write(path: Path, sweep: Sweep, points: Sequence[Point], command: str) -> None:
    """The page and `images/NAME_figure2.png`, `images/NAME_figure3.png`."""
    images = path.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    names = [images / f"{path.stem}_figure{n}.png" for n in (2, 3)]
    figures.figure_2(points, names[0])
    timed = figures.figure_3(points, names[1])
    path.write_text(_page(path, sweep, points, command, names, timed), encoding="utf-8")


def _page(
    path: Path,
    sweep: Sweep,
    points: Sequence[Point],
    command: str,
    images: Sequence[Path],
    timed: bool,
) -> str:
    base = points[0]
    encoder = sweep.options.encoders[0]
    components = sweep.options.components
    space = f"the first {components} principal components of {encoder}" if components else encoder
    lines = [
        f"# {sweep.pipe.name}, {sweep.route} route: inference parameters",
        "",
        "Written by the command below; the text between the tables is the program's own.",
        "",
        f"**n = {sweep.count} clips of {sweep.seconds:g} s a setting** ({base.rows} rows of "
        f"{base.d} dimensions), judged at 16 kHz before super-resolution, one parameter varied at "
        f"a time. FAD is against {len(sweep.reference)} reference clips in {space}: FAD-infinity "
        "with its 95 % interval, and the plain distance of so few clips beside it. Similarity is "
        f"the average cosine audio-{base.kind} of {encoder} to each prompt's own reference clip. "
        "All settings share prompts and noise, so their order is surer than the intervals alone; "
        "where those overlap widely, it is not known.",
        "",
        "| setting | FAD-inf | 95 % | FAD | similarity | 95 % | seconds a clip | clips |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in points:
        name = "as shipped" if p.setting.axis == "base" else f"{p.setting.axis} {p.setting.value}"
        seconds = "" if p.seconds is None else f"{p.seconds:.2f}"
        failed = f" ({p.failed} failed)" if p.failed else ""
        cells = ["-"] * 5
        if p.clips:
            cells = [
                f"{p.fad[0]:.2f}",
                f"{p.fad[1]:.2f} to {p.fad[2]:.2f}",
                f"{p.plain_fad:.2f}",
                f"{p.similarity[0]:.3f}",
                f"{p.similarity[1]:.3f} to {p.similarity[2]:.3f}",
            ]
        cells = [name.replace("_", " "), *cells, seconds, f"{p.clips}{failed}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![FAD against similarity](images/{images[0].name})", ""]
    if timed:
        counts = sorted({p.timed for p in points if p.timed})
        batches = " or ".join(map(str, counts)) + (" batch" if counts == [1] else " batches")
        lines += [
            f"![Quality against time](images/{images[1].name})",
            "",
            f"Time: the median of {batches} of four clips, after one that is not counted, on the "
            "machine that made the page. A setting without a time was not timed.",
            "",
        ]
    lines += [
        f"Model {sweep.pipe.name}, hash {sweep.pipe.model_hash}; noise2music {__version__}.",
        "",
        "```bash",
        command,
        "```",
        "",
    ]
    return "\n".join(lines)
