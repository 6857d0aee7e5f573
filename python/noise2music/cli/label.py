"""`noise2music label vocab | assign | report | mulamcap | index | duplicates`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Annotated, Any, Literal

import tyro

from noise2music.audio import check_output, replacing
from noise2music.errors import UserError
from noise2music.label.assign import AssignOptions, AssignReport

Path = Annotated[pathlib.Path, tyro.conf.arg(metavar="PATH")]
File = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ask:
    songs: File = None
    """lm: songs with title and artist (.csv, .tsv, .jsonl)."""
    endpoint: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """lm: a server that speaks OpenAI's protocol, as https://HOST/v1."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """lm: the server's model; without --endpoint, a folder with one for transformers."""
    key_variable: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """lm: environment variable with the server's key."""
    work: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """lm: where answers are kept as they come. Default: beside --out, with .work."""
    attempts: int = 5
    """lm: times a song is asked for."""
    timeout: float = 60.0
    """lm: seconds to wait for an answer."""
    max_tokens: int = 256
    """lm: of an answer."""
    per_minute: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """lm: requests a minute at most."""
    parallel: int = 4
    """lm: requests at once."""
    allow_failed: bool = False
    """lm: exit with 0 even when a song has no answer."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    csv: File = None
    """rater-lf, rater-sf: the caption file."""
    count: int = 10_000
    """grammar-lf: sentences."""
    seed: int = 0
    """grammar-lf: seed of the draw."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocab(_Made, _Ask):
    """Make a vocabulary: a text file with one caption a line.

    lm: sentences that a language model writes about songs. rater-lf, rater-sf: sentences of the
    captions, or the aspects, of a CSV in MusicCaps' form. grammar-lf, grammar-sf: sentences, or
    phrases, of the corpus' own grammar, without any network.
    """

    kind: tyro.conf.Positional[Literal["lm", "rater-lf", "rater-sf", "grammar-lf", "grammar-sf"]]
    """Which vocabulary."""
    out: Path
    """File to write (.txt); what it is goes beside it (.json)."""

    def run(self) -> int:
        from noise2music.label import grammar, raters, vocabulary

        form = "short" if self.kind.endswith("sf") else "long"
        about: dict[str, Any] = {"form": form, "kind": self.kind}
        failed = 0
        if self.kind == "lm":
            found, more, failed = self._mine()
            about |= more
        elif self.kind.startswith("grammar"):
            about["source"] = "the grammar of noise2music's corpus"
            long = form == "long"
            found = grammar.sentences(self.count, self.seed) if long else grammar.phrases()
        else:
            if self.csv is None:
                raise UserError(f"label vocab {self.kind} needs --csv FILE, a table of captions")
            about["source"] = self.csv.name
            read = raters.rater_sentences if form == "long" else raters.rater_phrases
            found = list(read(self.csv))
        count = vocabulary.write_vocabulary(self.out, found, about)
        print(f"{self.out}: {count} captions, {form}")
        return 1 if failed and not self.allow_failed else 0

    def _mine(self) -> tuple[list[str], dict[str, Any], int]:
        """Captions, what to write beside them, and how many songs have no answer."""
        from noise2music.cli.progress import Progress
        from noise2music.label.mine import ask, clean, models, prompt

        if self.songs is None or self.model is None:
            raise UserError("label vocab lm needs --songs FILE and --model NAME")
        options = ask.AskOptions(
            attempts=self.attempts, per_minute=self.per_minute, parallel=self.parallel
        )
        songs = prompt.read_songs(self.songs)
        work = self.work or self.out.with_suffix(".work")
        model: models.Model
        if self.endpoint is None:
            model = models.LocalModel(self.model, max_tokens=self.max_tokens)
        else:
            key = None
            if self.key_variable is not None:
                key = os.environ.get(self.key_variable)
                if not key:
                    raise UserError(f"the variable {self.key_variable} holds no key")
            model = models.Endpoint(
                self.endpoint,
                self.model,
                key=key,
                timeout=self.timeout,
                max_tokens=self.max_tokens,
            )
        with Progress(force=self.progress) as progress:
            answered = ask.ask_all(songs, model, work, options, progress)
        pairs = zip(songs, answered.texts, strict=True)
        cleaned = clean.clean((song, text) for song, text in pairs if text is not None)
        failed = sum(answered.failed.values())
        print(f"{len(songs)} songs: {len(songs) - failed} answered, {failed} not")
        for name, counts in (
            ("attempts that failed", answered.troubles),
            ("dropped", cleaned.dropped),
        ):
            told = ", ".join(f"{n} {why}" for why, n in counts.items() if n)
            print(f"  {name}: {told or 'none'}")
        about = {
            "source": f"{self.model}, about {len(songs)} songs",
            "songs": len(songs),
            "unanswered": answered.failed,
            "attempts_that_failed": answered.troubles,
            "sentences": cleaned.sentences,
            "filters": cleaned.dropped,
            "examples_of_dropped": cleaned.examples,
        }
        return cleaned.captions, about, failed


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
            if self.ray is not None:
                from noise2music.label.ray_runner import RayRunner

                runner = stack.enter_context(RayRunner(self.ray, self.workers))
            elif self.workers > 1:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Draw a labelled set on one HTML page: frequencies, similarities, the tail, clips to hear."""

    folder: tyro.conf.Positional[Path]
    """A folder of `label assign`."""
    vocab: Annotated[tuple[pathlib.Path, ...], tyro.conf.arg(metavar="FILE...")]
    """The vocabularies that it was labelled from."""
    output: Annotated[pathlib.Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")] = pathlib.Path(
        "labels.html"
    )
    """Page to write (.html)."""
    clips: int = 8
    """Clips that are shown."""
    seed: int = 0
    """Seed of their draw."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.label import page

        check_output(self.output, [".html"])
        page.write(self.folder, self.vocab, self.output, clips=self.clips, seed=self.seed)
        print(f"{self.output}: the labels of {self.folder}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mulamcap:
    """Write labelled AudioSet segments as MuLaMCap has them: by segment, music alone."""

    folder: tyro.conf.Positional[Path]
    """A folder of `label assign` whose clips are named by video (or VIDEO_STARTMS)."""
    segments: Path
    """AudioSet's table of segments (.csv)."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder to write mulamcap.jsonl and segments.csv to."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.label import mulamcap

        found = mulamcap.export(self.folder / "labels.jsonl", self.segments, self.out)
        print(
            f"{self.out}: {found.segments} segments; left out: {found.unknown} clips of no "
            f"segment, {found.no_music} without a music label; {found.unlabelled} music segments "
            "have no clip"
        )
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Heard:
    encoder: str = "joint"
    """Model whose embeddings tell what is near; none: the fingerprint alone, which tells copies."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index(_Heard):
    """Make the index of a training set, in which copies are looked for."""

    train: tyro.conf.Positional[Path]
    """The training clips: a folder of sound files or a manifest."""
    out: Path
    """File to write (.npz)."""

    def run(self) -> int:
        check_output(self.out, [".npz"])
        index = _index(self.train, self.encoder, self.progress)
        index.save(self.out)
        print(f"{self.out}: {len(index)} clips")
        for id, why in index.failed[:5]:
            print(f"  left out: {id} ({why})")
        return 1 if index.failed else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates(_Heard):
    """Look for copies of training clips among generated ones. Exit code 1 where there is one."""

    generated: tyro.conf.Positional[Path]
    """The clips to look at: a folder of sound files or a manifest."""
    train: tyro.conf.Positional[Path]
    """The training clips: the same, or the index of them (.npz)."""
    json: File = None
    """Also write everything as JSON."""

    def run(self) -> int:
        from noise2music.cli.progress import Progress
        from noise2music.evaluate.sounds import read_set
        from noise2music.label import duplicates

        items = read_set(self.generated)
        if self.json is not None:
            check_output(self.json, [".json"])
        if self.train.suffix == ".npz":
            index = duplicates.Index.load(self.train)
        else:
            index = _index(self.train, self.encoder, self.progress)
        with Progress(force=self.progress) as progress:
            matches, failed = duplicates.find_duplicates(items, index, progress)
        found = sorted(matches, key=lambda m: (m.verdict != "copy", m.verdict != "near"))
        for match in found:
            if match.verdict != "new":
                print(match.describe())
        counts = {v: sum(m.verdict == v for m in matches) for v in ("copy", "near", "new")}
        print(
            f"{len(items)} clips beside {len(index)}: {counts['copy']} copies, {counts['near']} "
            f"near, {counts['new']} new, {len(failed)} could not be heard"
        )
        for failure in failed[:5]:
            print(f"  {failure.id}: {failure.reason} {failure.detail}".rstrip())
        if self.json is not None:
            value = {
                "counts": counts,
                "matches": [dataclasses.asdict(m) for m in matches],
                "failed": [dataclasses.asdict(f) for f in failed],
            }
            with replacing(self.json) as part:
                part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        return 1 if counts["copy"] or failed else 0


def _index(train: pathlib.Path, encoder: str, progress: bool) -> Any:
    from noise2music.cli.progress import Progress
    from noise2music.evaluate.sounds import read_set
    from noise2music.label import duplicates

    with Progress(force=progress) as show:
        named = None if encoder == "none" else encoder
        return duplicates.build_index(read_set(train), named, show)


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


COMMANDS = {
    "vocab": Vocab,
    "assign": Assign,
    "report": Report,
    "mulamcap": Mulamcap,
    "index": Index,
    "duplicates": Duplicates,
}
Command = (
    Annotated[Vocab, tyro.conf.subcommand("vocab")]
    | Annotated[Assign, tyro.conf.subcommand("assign")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Mulamcap, tyro.conf.subcommand("mulamcap")]
    | Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[Duplicates, tyro.conf.subcommand("duplicates")]
)
