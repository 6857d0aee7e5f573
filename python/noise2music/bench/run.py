"""What the command does: chooses rows, measures them one by one, writes what was asked for."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from pathlib import Path

from noise2music import audio, plot
from noise2music.bench import ops, pages, report, rivals, roof, shapes
from noise2music.errors import UserError, unknown_name

ALL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure and how long: the fields of `noise2music.cli.commands.Bench`."""

    what: tuple[str, ...] = ()
    case: tuple[str, ...] = ("*",)
    dtype: str = "float32"
    passes: str = "forward"
    rivals: tuple[str, ...] | None = None
    quick: bool = False
    json: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None
    list: bool = False
    progress: bool = False


def bench(options: Options) -> int:
    """Prints the table; returns 0, or 1 where a contender gave a wrong answer."""
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
    for number, work in enumerate(works, start=1):
        name = f"{work.op} {work.case.name} {work.dtype} {work.passes}"
        _progress(f"[{number}/{len(works)}] {name}", options.progress)
        try:
            budget = {"seconds": 0.2, "least": 2} if options.quick else {"seconds": 2.0, "least": 5}
            rows.append(ops.measure(work, against, limits, **budget))  # type: ignore[arg-type]
        except ops.WrongAnswer as error:
            wrong.append(str(error))
    _progress("", options.progress)
    print(f"{report.machine()}\nroof: {report.roof_line(limits)}\n")
    if rows:
        print(report.terminal(rows))
        print(f"\n{report.LEGEND}")
        print("A row again: noise2music bench OP --case CASE --dtype DTYPE --passes PASSES")
    for line in wrong:
        print(f"wrong answer, not timed: {line}", file=sys.stderr)
    if options.json is not None:
        _write(options.json, report.as_json(rows, limits, wrong))
    if options.markdown is not None:
        _write(options.markdown, _document(rows, limits, options))
    if options.plot is not None:
        from noise2music.bench.plot import plot_roofline

        plot_roofline(rows, limits, options.plot)
    return 1 if wrong else 0


def choose(options: Options) -> tuple[list[shapes.Work], list[str]]:
    """The rows and the rivals that the options ask for; UserError says what there is."""
    names = list(options.what) or list(shapes.OPS)
    for name in names:
        if name not in shapes.OPS:
            raise unknown_name("benchmark", name, shapes.OPS)
    works = shapes.works(
        names,
        _among("dtype", options.dtype, shapes.DTYPES),
        _among("passes", options.passes, shapes.PASSES),
    )
    if not works:
        raise UserError(
            f"no row of {', '.join(names)} has dtype {options.dtype} and passes {options.passes}: "
            "ancestral_step is float32 and has no backward pass"
        )
    found = [w for w in works if any(fnmatch.fnmatch(w.case.name, p) for p in options.case)]
    if not found:
        raise unknown_name(
            "case", " ".join(options.case), dict.fromkeys(w.case.name for w in works)
        )
    here = rivals.installed()
    for rival in options.rivals or ():
        if rival not in rivals.RIVALS:
            raise unknown_name("rival", rival, rivals.RIVALS)
        if rival not in here:
            raise UserError(f"rival {rival!r} needs PyTorch: pip install 'noise2music[bench]'")
    return found, here if options.rivals is None else list(options.rivals)


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


def _document(rows: list[ops.Row], limits: roof.Roof, options: Options) -> str:
    words = ["noise2music bench", *options.what]
    words += [f"--case {' '.join(options.case)}"] if options.case != ("*",) else []
    words += [f"--dtype {options.dtype} --passes {options.passes}"]
    words += [f"--rivals {' '.join(options.rivals)}"] if options.rivals else []
    words += ["--quick"] if options.quick else []
    return (
        "# Measured on a CPU\n\n"
        f"Made by `{' '.join(words)} --markdown {options.markdown}`; do not edit by hand.\n\n"
        f"{report.machine()}. Roof: {report.roof_line(limits)}.\n\n"
        f"{report.LEGEND} One row again: `noise2music bench OP --case CASE --dtype DTYPE --passes "
        f"PASSES`.\n\n{report.markdown(rows)}\n"
    )
