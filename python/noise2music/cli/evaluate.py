"""`noise2music evaluate fad | similarity | retrieval | report | protocol | ablate | listen`."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import sys
from typing import Annotated, Any

import tyro

from noise2music.cli.ablate import Ablate
from noise2music.cli.retrieval import Retrieval
from noise2music.errors import UserError

Path = Annotated[pathlib.Path, tyro.conf.arg(metavar="PATH")]
File = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sets:
    generated: tyro.conf.Positional[Path]
    """The clips to judge: a folder of sound files or a manifest (JSONL with audio, id, prompt)."""
    reference: tyro.conf.Positional[Path]
    """What they are compared with: the same."""
    encoder: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = (
        "musicnn_mtt",
        "musicnn_msd",
    )
    """musicnn_mtt, musicnn_msd; joint; vggish, trill, clap, muq_mulan with :PATH of their weights;
    or MODULE:CLASS of yours."""
    allow_download: bool = False
    """Let an encoder without a PATH ask its hub."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of a reference manifest, only the lines with this split."""
    middle: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """Of each generated clip, only the middle so many seconds (section 4.3.3: 10)."""
    cache: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Keep embeddings there, in Parquet: a run that was stopped goes on."""
    workers: int = 0
    """Processes that hear. Default: one a processor."""
    allow_failed: bool = False
    """Exit with 0 even when a clip is not in the figures."""
    json: File = None
    """Also write everything as JSON."""
    report: File = None
    """Also write one self-contained HTML page with tables, plots, spectrograms and players."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Distance:
    components: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Compare only the first N principal components of the reference: needs 2 N rows."""
    draws: int = 100
    """Bootstrap draws of the interval."""
    seed: int = 0
    """Seed of draws and subsets."""
    force: bool = False
    """Compute FAD below 2 d rows too; the report says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fad(_Sets, _Distance):
    """Frechet audio distance of a set to a reference, with its uncertainty, and KAD."""

    def run(self) -> int:
        return _run(self, fad=True, pairs=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity(_Sets):
    """Average cosine similarity to the reference's sound and text, pair by pair (Table 6)."""

    def run(self) -> int:
        return _run(self, fad=False, pairs=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(_Sets, _Distance):
    """FAD and similarity together."""

    def run(self) -> int:
        return _run(self, fad=True, pairs=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Make the manifest of a set of section 4.3.3 from a local copy: prompts and sound files."""

    name: tyro.conf.Positional[str]
    """magnatagatune, audioset or musiccaps."""
    folder: tyro.conf.Positional[Path]
    """Its annotations and sound files."""
    out: Path
    """Manifest to write (.jsonl); the bare prompts go beside it (.txt)."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.evaluate import datasets

        rows = datasets.read_protocol(self.name, self.folder)
        datasets.write_manifest(rows, self.out)
        here = sum(pathlib.Path(row["audio"]).is_file() for row in rows)
        how = datasets.PROTOCOLS[self.name]
        part = f", compare with --middle {how.middle:g}" if how.middle else ""
        print(
            f"{self.out}: {len(rows)} clips, {here} of them with their sound file; "
            f"generate {how.seconds:g} s a prompt{part}"
        )
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monotone:
    """Check that encoders hear damage: FAD must rise with noise, low-pass and shuffling."""

    clips: tyro.conf.Positional[Path]
    """A folder of sound files or a manifest: half of it is the reference, half is damaged."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of a manifest, only the lines with this split."""
    limit: int = 200
    """At most so many clips."""
    encoder: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = (
        "musicnn_mtt",
        "musicnn_msd",
        "joint",
    )
    """See `evaluate fad`."""
    components: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Compare only the first N principal components."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.evaluate import monotone, sounds, tables
        from noise2music.evaluate.encoders import load_encoder

        items = sounds.read_set(self.clips, self.split)[: self.limit]
        found = [
            monotone.hear_damage(items, load_encoder(name), components=self.components)
            for name in self.encoder
        ]
        print(tables.columns(monotone.table(found)))
        return 1 if any(heard.wrong for heard in found) else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listen:
    """Serve a listening study on this machine: pairs of clips, rated blind. Ctrl-C ends it."""

    folder: tyro.conf.Positional[Path]
    """Folder of the study (study.db); made with --source, gone on with without."""
    source: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH...")] = ()
    """Two or more sets of clips, which share ids; one of them has the captions."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in, by a name given with --name."""
    port: int = 8000
    """Port; 0 takes a free one."""
    name: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST...")] = ()
    """Names by which raters reach this machine, beside localhost."""
    rate: int = 16_000
    """Sample rate of all clips."""
    seconds: float = 10.0
    """Length of all clips: longer ones are cut, shorter ones end in silence."""
    results: bool = False
    """Only print the results."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.evaluate import sounds, tables
        from noise2music.evaluate.listen.server import Server, results_table
        from noise2music.evaluate.listen.study import Study

        if self.source:
            sources = {}
            for text in self.source:
                name, _, path = text.partition("=")
                if not name or not path or name in sources:
                    raise UserError(f"--source must be NAME=PATH, each name once, got {text!r}")
                sources[name] = sounds.read_set(pathlib.Path(path))
            study = Study.create(self.folder, sources)
        else:
            study = Study(self.folder)
        if self.results:
            print(tables.columns(results_table(study)))
            return 0
        try:
            server = Server(
                study,
                host=self.host,
                port=self.port,
                rate=self.rate,
                seconds=self.seconds,
                names=self.name,
            )
        except OSError as error:
            raise UserError(f"cannot listen on {self.host}:{self.port}: {error}") from error
        print(f"raters: {server.url}\nresults: {server.results_url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"{len(study.ratings())} ratings are kept in {self.folder}")
        finally:
            server.server_close()
        return 0


COMMANDS = {
    "fad": Fad,
    "similarity": Similarity,
    "retrieval": Retrieval,
    "report": Report,
    "protocol": Protocol,
    "ablate": Ablate,
    "listen": Listen,
    "monotone": Monotone,
}

Command = (
    Annotated[Fad, tyro.conf.subcommand("fad")]
    | Annotated[Similarity, tyro.conf.subcommand("similarity")]
    | Annotated[Retrieval, tyro.conf.subcommand("retrieval")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Protocol, tyro.conf.subcommand("protocol")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Listen, tyro.conf.subcommand("listen")]
    | Annotated[Monotone, tyro.conf.subcommand("monotone")]
)


def _run(options: Any, *, fad: bool, pairs: bool) -> int:
    from noise2music.audio import check_output
    from noise2music.cli.progress import Progress
    from noise2music.evaluate import sounds, tables
    from noise2music.evaluate.evaluation import Options, evaluate

    for path, suffix in ((options.json, ".json"), (options.report, ".html")):
        if path is not None:  # before the work, not after it
            check_output(path, [suffix])
    if not options.encoder:
        raise UserError("--encoder must name at least one encoder")
    generated = sounds.read_set(options.generated)
    reference = sounds.read_set(options.reference, options.split)
    if options.middle is not None:
        generated = sounds.middle(generated, options.middle)
    fields = {"components", "draws", "seed", "force"} if fad else set()
    how = Options(
        encoders=options.encoder,
        cache=options.cache,
        workers=options.workers or os.cpu_count() or 1,
        allow_download=options.allow_download,
        **{name: getattr(options, name) for name in fields},
    )
    with Progress(force=options.progress) as progress:
        found = evaluate(generated, reference, how, fad=fad, pairs=pairs, progress=progress)
    print(tables.text(found))
    command = shlex.join(["noise2music", *sys.argv[1:]])
    if options.json is not None:
        text = json.dumps({"command": command, **found.as_dict()}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.report is not None:
        from noise2music.evaluate import report

        report.write(options.report, found, command)
    if found.failed and not options.allow_failed:
        print(
            f"{found.failed} clips are not in these figures (--allow-failed exits with 0)",
            file=sys.stderr,
        )
        return 1
    return 0
