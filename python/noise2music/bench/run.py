"""What the command does: chooses rows, measures them one by one, writes what was asked for."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from noise2music import arguments, audio, config, pages, plot
from noise2music.bench import device, networks, ops, report, rivals, roof, shapes
from noise2music.errors import UserError, unknown_name

ALL = "all"
EVERYTHING = (*shapes.OPS, *networks.KINDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure and how long: the fields of `noise2music.cli.commands.Bench`."""

    what: tuple[str, ...] = ()
    case: tuple[str, ...] = ("*",)
    dtype: str = "float32"
    passes: str = "forward"
    rivals: tuple[str, ...] | None = None
    batch: int | None = None
    seconds: float | None = None
    platform: str | None = None
    quick: bool = False
    json: Path | None = None
    join: tuple[Path, ...] = ()
    markdown: Path | None = None
    plot: Path | None = None
    list: bool = False
    progress: bool = False


def bench(options: Options) -> int:
    """Prints the table; returns 0, or 1 where a contender gave a wrong answer."""
    if options.join:
        return _join(options)
    device.use(options.platform)
    works, against = choose(options)
    if options.list:
        for work in works:
            print(work.command)
        return 0
    if options.plot is not None:
        audio.check_output(options.plot, list(plot.SUFFIXES))
        plot.require_matplotlib()
    pages.keep()
    dtypes = tuple(dict.fromkeys(work.dtype for work in works))
    limits = (
        roof.measure(dtypes, size=1024, megabytes=64) if options.quick else roof.measure(dtypes)
    )
    rows: list[ops.Row] = []
    wrong: list[str] = []
    skipped: list[str] = []
    budget = {"seconds": 0.2, "least": 2} if options.quick else {"seconds": 2.0, "least": 5}
    for number, work in enumerate(works, start=1):
        name = work.command.removeprefix("noise2music bench ")
        _progress(f"[{number}/{len(works)}] {name}", options.progress)
        try:
            if isinstance(work, networks.Network):
                rows.append(networks.measure(work, limits, **budget))  # type: ignore[arg-type]
            else:
                rows.append(ops.measure(work, against, limits, **budget))  # type: ignore[arg-type]
        except ops.WrongAnswer as error:
            wrong.append(str(error))
        except networks.DoesNotFit as error:
            skipped.append(str(error))
        if options.json is not None and str(options.json) != "-":  # kept if a later row ends us
            _write(options.json, report.as_json(rows, limits, [*skipped, *wrong]))
    _progress("", options.progress)
    print(f"{report.machine()}\nroof: {report.roof_line(limits)}\n")
    if rows:
        print(report.terminal(rows))
        print(f"\n{report.LEGEND}")
        print("A row again: noise2music bench OP --case CASE --dtype DTYPE --passes PASSES")
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    for line in wrong:
        print(f"wrong answer, not timed: {line}", file=sys.stderr)
    _files(options, rows, limits, [*skipped, *wrong])
    return 1 if wrong else 0


def _join(options: Options) -> int:
    """The rows of earlier runs as one table; of a row that was measured twice, the later file's."""
    rows: dict[tuple[str, ...], ops.Row] = {}
    skipped: list[str] = []
    limits = None
    for path in options.join:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
        found, of_run, left_out = report.from_json(text, str(path))
        rows |= {(r.op, r.command): r for r in found}
        skipped += left_out
        limits = of_run if limits is None else limits.highest(of_run)
    assert limits is not None
    print(report.terminal(list(rows.values())))
    _files(options, list(rows.values()), limits, skipped)
    return 0


def _files(
    options: Options, rows: list[ops.Row], limits: roof.Roof, skipped: Sequence[str]
) -> None:
    if options.json is not None:
        _write(options.json, report.as_json(rows, limits, skipped))
    if options.markdown is not None:
        _write(options.markdown, report.document(rows, limits, skipped))
    if options.plot is not None:
        from noise2music.bench.plot import plot_roofline

        plot_roofline(rows, limits, options.plot)


Work = shapes.Work | networks.Network


def choose(options: Options) -> tuple[list[Work], list[str]]:
    """The rows and the rivals that the options ask for; UserError says what there is."""
    names = list(options.what) or list(shapes.OPS)
    if names == [ALL]:
        names = list(EVERYTHING)
    for name in names:
        if name not in EVERYTHING:
            raise unknown_name("benchmark", name, (*EVERYTHING, ALL))
    dtypes = _among("dtype", options.dtype, shapes.DTYPES)
    passes = _among("passes", options.passes, shapes.PASSES)
    if options.seconds is not None:
        arguments.check_seconds(options.seconds)
    if options.batch is not None and options.batch < 1:
        raise UserError(f"batch must be at least 1, got {options.batch}")
    works: list[Work] = [
        *shapes.works(
            [n for n in names if n in shapes.OPS], dtypes, passes, options.batch, options.seconds
        )
    ]
    works += [
        networks.Network(kind, prefix + stage, dtype, options.seconds, options.batch)
        for kind in networks.KINDS
        if kind in names
        for prefix in ("", "tiny_")
        for stage in config.STAGES
        for dtype in dtypes
    ]
    if not works:
        raise UserError(
            f"no row of {', '.join(names)} has dtype {options.dtype} and passes {options.passes}: "
            "ancestral_step is float32 and has no backward pass"
        )
    # In the order of the patterns: what is named first is measured first.
    found = [w for pattern in options.case for w in works if _wanted(w.case_name, pattern)]
    found = list(dict.fromkeys(found))
    if not found:
        raise unknown_name(
            "case", " ".join(options.case), dict.fromkeys(w.case_name for w in works)
        )
    here = rivals.installed()
    for rival in options.rivals or ():
        if rival not in rivals.RIVALS:
            raise unknown_name("rival", rival, rivals.RIVALS)
        if rival not in here:
            raise UserError(f"rival {rival!r} needs PyTorch: pip install 'noise2music[bench]'")
    return found, here if options.rivals is None else list(options.rivals)


def _wanted(name: str, pattern: str) -> bool:
    """The tiny presets are there for who names them."""
    return fnmatch.fnmatch(name, pattern) and (
        pattern.startswith("tiny_") or not name.startswith("tiny_")
    )


def _among(kind: str, value: str, names: tuple[str, ...]) -> list[str]:
    if value == ALL:
        return list(names)
    if value not in names:
        raise unknown_name(kind, value, (*names, ALL))
    return [value]


def _progress(text: str, force: bool) -> None:
    """One line on stderr that is written over, where there is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif force and text:
        print(text, file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        print(text, end="")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error
