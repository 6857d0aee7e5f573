"""`noise2music data corpus` and `data prepare`. Their options are the builders' dataclasses."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

import tyro

from noise2music.data.corpus import CorpusOptions, build_corpus
from noise2music.data.prepare import PrepareOptions, PrepareReport, prepare
from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Render scores and grooves to captioned audio.

    Needs the extra `data`, fluidsynth and a General MIDI soundfont. Running it again goes on where
    it stopped.
    """

    out: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder to make, or to go on with."""
    options: tyro.conf.OmitArgPrefixes[CorpusOptions]
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        try:
            report = build_corpus(self.out, self.options)
        except (ImportError, FileNotFoundError, NotADirectoryError) as error:
            raise UserError(str(error)) from error
        counts = f"{report.kept} clips, {report.dropped} dropped, {report.made} made now"
        print(f"{report.out}: {counts}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn sound files and their texts into records for training.

    SRC is a folder of sound files with .json or .txt files of the same name beside them, a JSONL
    manifest (or a folder with manifest.jsonl), or WebDataset .tar shards. Running it again goes on
    where it stopped.
    """

    sources: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]],
        tyro.conf.arg(name="SRC", metavar="SRC..."),
    ]
    """Where the sound files are."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder to make, or to go on with."""
    options: tyro.conf.OmitArgPrefixes[PrepareOptions]
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        if not self.sources:
            raise UserError("data prepare needs at least one SRC: a folder, a manifest or a .tar")
        report = prepare(self.sources, self.out, self.options)
        print(describe(report))
        return 0


Command = (
    Annotated[Corpus, tyro.conf.subcommand("corpus")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
)


def describe(report: PrepareReport) -> str:
    """The report as a short table: what is there, what is not and why, with one example each."""
    clips = ", ".join(f"{n} {split}" for split, n in report.clips.items() if n)
    lines = [
        f"{report.out}: {report.hours:.2f} h in clips for {clips}, of {report.tracks} tracks; "
        f"{report.made} clips made now"
    ]
    rows = [(f"dropped, {r}", n, _example(report, r)) for r, n in report.reasons.items()]
    rows += [
        (name, n, "")
        for name, n in (
            ("tracks without any text", report.untexted),
            ("texts of no characters, left out", report.empty_texts),
            ("long prompts beyond --prompts, left out", report.extra_prompts),
        )
        if n
    ]
    wide = max((len(name) for name, _, _ in rows), default=0)
    lines += [f"  {name:<{wide}}  {n:>6}  {example}".rstrip() for name, n, example in rows]
    if report.dropped:
        lines.append(f"  every one by name: {report.out / 'report.json'}")
    return "\n".join(lines)


def _example(report: PrepareReport, reason: str) -> str:
    return next(f"{id} ({r})" for id, r in report.dropped if r.partition(":")[0] == reason)
