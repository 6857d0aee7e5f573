"""`noise2music label vocab | assign | ...`: captions for unlabelled music."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from noise2music.errors import UserError
from noise2music.label.assign import AssignOptions, AssignReport

Path = Annotated[pathlib.Path, tyro.conf.arg(metavar="PATH")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocab:
    """Make a vocabulary: a text file with one caption a line.

    grammar-lf, grammar-sf: sentences, phrases of the corpus' own grammar (no network). rater-lf,
    rater-sf: sentences of the captions, or the aspects, of a CSV in MusicCaps' form.
    """

    kind: tyro.conf.Positional[Literal["grammar-lf", "grammar-sf", "rater-lf", "rater-sf"]]
    """Which vocabulary."""
    out: Path
    """File to write (.txt); what it is goes beside it (.json)."""
    csv: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """rater-lf, rater-sf: the caption file."""
    count: int = 10_000
    """grammar-lf: sentences."""
    seed: int = 0
    """grammar-lf: seed of the draw."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.label import grammar, raters, vocabulary

        form = "long" if self.kind.endswith("lf") else "short"
        if self.kind.startswith("grammar"):
            source = "the grammar of noise2music's corpus"
            found = grammar.phrases()
            if form == "long":
                found = grammar.sentences(self.count, self.seed)
        else:
            if self.csv is None:
                raise UserError(f"label vocab {self.kind} needs --csv FILE, a table of captions")
            source = self.csv.name
            read = raters.rater_sentences if form == "long" else raters.rater_phrases
            found = list(read(self.csv))
        about = {"form": form, "kind": self.kind, "source": source}
        count = vocabulary.write_vocabulary(self.out, found, about)
        print(f"{self.out}: {count} captions, {form}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assign:
    """Label sound files with the captions that a model of sound and text finds nearest.

    SRC is what `data prepare` reads: folders, manifests, WebDataset shards. Running it again goes
    on where it stopped.
    """

    sources: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]],
        tyro.conf.arg(name="SRC", metavar="SRC..."),
    ]
    """Where the sound files are."""
    vocab: Annotated[tuple[pathlib.Path, ...], tyro.conf.arg(metavar="FILE...")]
    """Vocabularies of `label vocab`: their names are those of the files, without .txt."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder to make, or to go on with."""
    quota: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=N...")] = ()
    """K', captions that are drawn for a clip. Default: 3 long and 6 short ones."""
    workers: int = 1
    """Processes. 1 is this one."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Run on a Ray cluster (auto, local or ray://HOST:PORT) with --workers actors; needs the extra
    label-ray, and OUT and SRC on a file system that all nodes share."""
    options: tyro.conf.OmitArgPrefixes[AssignOptions]
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.cli.progress import Progress
        from noise2music.label import assign, shards

        if not self.sources:
            raise UserError("label assign needs at least one SRC: a folder, a manifest or a .tar")
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress(force=self.progress))
            runner: shards.Runner = shards.InProcess()
            if self.workers > 1:
                runner = stack.enter_context(shards.Processes(self.workers))
            report = assign.assign(
                self.sources,
                self.vocab,
                self.out,
                self.options,
                quotas=dict(map(_quota, self.quota)),
                runner=runner,
                progress=progress,
            )
        print(describe(report))
        return 0


def _quota(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals or not number.strip().isdigit():
        raise UserError(f"--quota must be NAME=N, as in lf=3, got {text!r}")
    return name.strip(), int(number)


def describe(report: AssignReport) -> str:
    """The report as a short table."""
    lines = [
        f"{report.out}: {report.labels} captions of {report.clips} clips; "
        f"{sum(report.made.values())} shards made now"
    ]
    for name, v in report.entropy.items():
        lines.append(
            f"  {name}: {v['quota']:g} of K, entropy {v['bits_before']:.2f} bits of the K, "
            f"{v['bits_nearest']:.2f} of the nearest, {v['bits_drawn']:.2f} of those drawn; "
            f"{v['used_drawn']:g} of {v['captions']:g} captions used"
        )
    if report.failed:
        id, why = report.failed[0]
        lines.append(f"  left out: {len(report.failed)}, such as {id} ({why})")
        lines.append(f"  every one by name: {report.out / 'report.json'}")
    return "\n".join(lines)


COMMANDS = {"vocab": Vocab, "assign": Assign}
Command = (
    Annotated[Vocab, tyro.conf.subcommand("vocab")]
    | Annotated[Assign, tyro.conf.subcommand("assign")]
)
