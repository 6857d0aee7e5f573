"""A sweep as a Markdown page with its table and its figures, which stand beside it in images/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noise2music import __version__
from noise2music.audio import replacing
from noise2music.evaluate import figures
from noise2music.evaluate.ablation_points import Point, Results
from noise2music.evaluate.fad import FadResult
from noise2music.evaluate.similarity import Average
from noise2music.evaluate.sweep import AS_SHIPPED, Sweep


def write(path: Path, sweep: Sweep, found: Results, commands: Sequence[str]) -> None:
    """The page and `images/NAME_figure2.png`, `images/NAME_figure3.png`.

    commands: what makes the page, printed under it.
    """
    images = path.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    second, third = (images / f"{path.stem}_figure{n}.png" for n in (2, 3))
    figures.figure_2(found.points, second)
    timed = figures.figure_3(found.points, third)
    parts = [
        f"# {sweep.pipe.name}, {sweep.route} route: inference parameters",
        "Written by the command at the end; the text between the tables is the program's own.",
        _how(sweep, found),
        _table(found),
        _same(found),
        _failures(found),
        f"![FAD against similarity](images/{second.name})",
        *([f"![Quality against time](images/{third.name})", _times(found)] if timed else []),
        f"Model {sweep.pipe.name}, hash {sweep.pipe.model_hash}; noise2music {__version__}.",
        "\n".join(["```bash", *commands, "```"]),
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _how(sweep: Sweep, found: Results) -> str:
    fad = next((p.fad for p in found.points if p.fad is not None), found.truth)
    space = f"the first {fad.components} principal components of " if fad.components else ""
    return (
        f"**n = {sweep.count} clips of {sweep.seconds:g} s a setting**, judged at 16 kHz before "
        "super-resolution, one parameter varied at a time. FAD (Table 5) compares their "
        f"{fad.rows} rows with {fad.reference_rows} rows of {fad.reference_clips} real clips in "
        f"{space}{fad.encoder} (n = {fad.rows}, d = {fad.d}): FAD-infinity with its 95 % "
        "interval, the plain distance of so few clips, and KAD. Similarity (Table 6) is the "
        f"average cosine of {sweep.similarity} to each prompt and to the real clip that the prompt "
        "describes, which is not in FAD's reference. The ground truth is these real clips, "
        "shuffled: with all wrong partners. All settings share prompts and noise, so their order "
        "is surer than the intervals alone; where those overlap widely, it is not known."
    )


def _table(found: Results) -> str:
    head = ["", "FAD-inf (95 %)", "FAD", "KAD", "audio-text (95 %)", "audio-audio (95 %)",
            "seconds a clip", "clips"]  # fmt: skip
    base = found.points[0].similarity
    rows = []
    if base is not None:
        truth, shuffled = base.rows["ground truth"], base.rows["shuffled ground truth"]
        clips = str(found.truth.clips)
        rows = [
            ["ground truth", *_distance(found.truth), *map(_cosine, truth.values()), "", clips],
            ["shuffled ground truth", "", "", "", *map(_cosine, shuffled.values()), "", clips],
        ]
    for p in found.points:
        if p.setting != AS_SHIPPED and p.same_as != p.setting.name:
            continue
        seconds = "" if p.seconds is None else f"{p.seconds:.2f}"
        failed = f" ({p.failed} failed)" if p.failed else ""
        likeness = [_cosine(p.likeness(kind)) for kind in ("text", "audio")]
        rows.append([_name(p), *_distance(p.fad), *likeness, seconds, f"{p.clips}{failed}"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(point: Point) -> str:
    s = point.setting
    if s == AS_SHIPPED:
        return "as shipped"
    return " ".join(filter(None, (s.stage, s.parameter, s.value))).replace("_", " ")


def _distance(fad: FadResult | None) -> list[str]:
    if fad is None:
        return ["-"] * 3
    forced = " (forced: n < 2 d)" if fad.forced else ""
    return [
        f"{fad.infinity:.2f} ({fad.low:.2f} to {fad.high:.2f}){forced}",
        f"{fad.fad:.2f}",
        f"{fad.kad:.2f}",
    ]


def _cosine(average: Average | None) -> str:
    if average is None:
        return "-"
    return f"{average.mean:.3f} ({average.low:.3f} to {average.high:.3f})"


def _same(found: Results) -> str:
    """Settings that cannot differ from another."""
    names = {p.setting.name: _name(p) for p in found.points}
    same: dict[str, list[str]] = {}
    for p in found.points:
        if p.same_as != p.setting.name:
            same.setdefault(names[p.same_as], []).append(names[p.setting.name])
    if not same:
        return ""
    told = "; ".join(f"{name} is also {', '.join(others)}" for name, others in same.items())
    return f"Settings that give the sampler the same numbers were made once: {told}."


def _failures(found: Results) -> str:
    if not found.failures:
        return ""
    told = ", ".join(f"{f.id} ({f.reason})" for f in found.failures)
    return f"Clips of the reference that are in no figure: {told}."


def _times(found: Results) -> str:
    counts = sorted({p.timed for p in found.points if p.timed})
    batches = " or ".join(map(str, counts)) + (" batch" if counts == [1] else " batches")
    return (
        f"Time: the median of {batches} of four clips, after one that is not counted, on "
        f"{' and '.join(found.machines)}. Only what changes the number of steps was timed."
    )
