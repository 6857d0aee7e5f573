"""Build the corpus folder: draw, render, caption, keep; in parallel, resumable, the same each time.

Clip i depends on (seed, i) and the catalogue of pieces only. A clip is done when its part file
`parts/<i>.json` and its audio exist; both are written under temporary names and renamed, the part
last. `manifest.jsonl` and `DATA_CARD.md` are put together from the parts at the end.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.data.corpus import grooves, scores
from noise2music.data.corpus.arrange import LEVEL_DB, arrange
from noise2music.data.corpus.captions import compose_captions
from noise2music.data.corpus.card import data_card
from noise2music.data.corpus.pieces import (
    Piece,
    PieceError,
    PieceRef,
    cached_piece,
    split_pieces,
    write_atomic,
)
from noise2music.data.corpus.render import SAMPLE_RATE, Renderer, find_soundfont, set_level
from noise2music.data.corpus.vocabulary import GENRES

RECIPE = 3
"""Raised when a change makes old and new clips of one seed differ."""
_TRIES = 25


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """What to build. The clips of two folders with equal seed, seconds and `only` are equal."""

    clips: int = 4000
    """Number of clips in all, >= 1; a later, larger number extends the folder."""
    seed: int = 0
    """Seed of every draw, >= 0."""
    workers: int = 1
    """Processes, >= 1; the clips do not depend on it."""
    only: str | None = None
    """Either "mma" for grooves alone, "scores" for music21's scores alone, None for both."""
    split: str | None = None
    """Only pieces of this split (train, validation, test); None for all. For large test sets."""
    seconds: float = 12.0
    """Length of a clip, 1 to 60."""
    captions: int = 6
    """Captions a clip, 1 to 20."""
    soundfont: str | None = None
    """A General MIDI .sf2 file; None finds FluidR3_GM."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        def refuse(name: str, rule: str) -> None:
            got = getattr(self, name)
            raise ValueError(f"n2m.corpus: {name} must be {rule}, got {got!r}")

        if self.clips < 1:
            refuse("clips", "at least 1")
        if self.seed < 0:
            refuse("seed", "at least 0")
        if self.workers < 1:
            refuse("workers", "at least 1")
        if self.only not in (None, "mma", "scores"):
            refuse("only", "'mma', 'scores' or None")
        if self.split not in (None, "train", "validation", "test"):
            refuse("split", "'train', 'validation', 'test' or None")
        if not 1 <= self.seconds <= 60:
            refuse("seconds", "between 1 and 60")
        if not 1 <= self.captions <= 20:
            refuse("captions", "between 1 and 20")


@dataclasses.dataclass(frozen=True)
class CorpusReport:
    """What `build_corpus` did: clips kept and dropped in the manifest, and newly made now."""

    out: Path
    kept: int
    dropped: int
    made: int
    reasons: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All pieces by genre, their splits, and where the sources lie."""

    by_genre: dict[str, list[PieceRef]]
    splits: dict[str, str]
    scores_folder: Path | None
    mma: tuple[Path, Path] | None

    def of(self, split: str | None) -> Catalogue:
        """The pieces of one split alone; all of them where it is None."""
        if split is None:
            return self
        kept = {
            genre: [ref for ref in refs if self.splits[ref.id] == split]
            for genre, refs in self.by_genre.items()
        }
        by_genre = {genre: refs for genre, refs in kept.items() if refs}
        return dataclasses.replace(self, by_genre=by_genre)

    def read(self, ref: PieceRef) -> Piece:
        if ref.source == "mma" and self.mma is not None:
            return grooves.read_groove(ref, *self.mma)
        if ref.source == "scores" and self.scores_folder is not None:
            return scores.read_score(ref, self.scores_folder)
        raise PieceError(f"{ref.id}: its source is not installed")


def make_catalogue(only: str | None = None) -> Catalogue:
    """List the installed sources; an ImportError or FileNotFoundError tells how to get one."""
    folder = None if only == "mma" else scores.corpus_folder()
    mma = None if only == "scores" else grooves.find_mma()
    refs = [] if folder is None else scores.list_scores(folder)
    refs += [] if mma is None else grooves.list_grooves(mma[1])
    by_genre: dict[str, list[PieceRef]] = {}
    for ref in refs:
        by_genre.setdefault(ref.genre, []).append(ref)
    if only == "scores":
        by_genre.pop("ragtime", None)  # one lone score: too few for a class
    return Catalogue(by_genre, split_pieces(refs), folder, mma)


def draw_clip(
    index: int, options: CorpusOptions, catalogue: Catalogue, pieces: Path
) -> tuple[PieceRef, Any, np.random.Generator, list[str]]:
    """(piece, arrangement, generator, reasons of passed-over pieces) of clip `index`."""
    rng = np.random.default_rng([RECIPE, options.seed, index])
    genres = sorted(catalogue.by_genre)
    weights = np.array([GENRES[g].weight for g in genres])
    genre = genres[int(rng.choice(len(genres), p=weights / weights.sum()))]
    passed: list[str] = []
    for _ in range(_TRIES):
        refs = catalogue.by_genre[genre]
        ref = refs[int(rng.integers(len(refs)))]
        try:
            piece = cached_piece(ref, pieces, catalogue.read)
            return ref, arrange(piece, options.seconds, rng), rng, passed
        except PieceError as error:
            passed.append(str(error))
    raise PieceError(f"no usable {genre} piece in {_TRIES} draws; last: {passed[-1]}")


def make_clip(
    index: int, out: Path, options: CorpusOptions, catalogue: Catalogue, renderer: Renderer
) -> dict[str, Any]:
    """Draw, render and write clip `index`; returns its part, also written to parts/."""
    import soundfile

    name = f"{index:06d}"
    try:
        ref, arrangement, rng, passed = draw_clip(index, options, catalogue, out / "pieces")
        audio = renderer.render(arrangement.sounds, options.seconds)
        wanted = LEVEL_DB[arrangement.attributes["dynamics"]] + float(rng.uniform(-1, 1))
        audio, level = set_level(audio, wanted)
        if level < wanted - 4:
            raise PieceError("too peaked for its dynamics label")
    except (PieceError, ValueError) as error:
        part: dict[str, Any] = {"index": index, "dropped": str(error)}
    else:
        path = out / "audio" / f"{name}.flac"
        temporary = path.with_name(f".{name}.{os.getpid()}.flac")
        soundfile.write(temporary, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        temporary.replace(path)
        part = {
            "index": index,
            "passed_over": passed,
            "clip": {
                "id": f"clip-{name}",
                "piece": ref.id,
                "split": catalogue.splits[ref.id],
                "audio": f"audio/{name}.flac",
                "seconds": options.seconds,
                "captions": compose_captions(arrangement.attributes, rng, options.captions),
                "attributes": {**arrangement.attributes, "level_db": round(level, 2)},
            },
        }
    write_atomic(out / "parts" / f"{name}.json", json.dumps(part))
    return part


class _Worker:
    """State of one process: the catalogue and a renderer with its soundfont, made once."""

    def __init__(self, out: Path, options: CorpusOptions) -> None:
        self.out, self.options = out, options
        self.catalogue = make_catalogue(options.only).of(options.split)
        self.renderer = Renderer(options.soundfont)

    def __call__(self, index: int) -> dict[str, Any]:
        return make_clip(index, self.out, self.options, self.catalogue, self.renderer)


_worker: _Worker | None = None


def _start_worker(out: Path, options: CorpusOptions) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    _worker = _Worker(out, options)


def _run_worker(index: int) -> dict[str, Any]:
    if _worker is None:
        raise RuntimeError("n2m.corpus: worker was not started")
    return _worker(index)


def _make_all(todo: list[int], out: Path, options: CorpusOptions) -> Iterator[dict[str, Any]]:
    if options.workers == 1 or len(todo) < 2:
        worker = _Worker(out, options)
        for index in todo:
            yield worker(index)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers, _start_worker, (out, options)) as pool:
        yield from pool.imap_unordered(_run_worker, todo, chunksize=4)


def _claim(out: Path, options: CorpusOptions) -> None:
    """Make the folder, or check that what is there was made with the same options."""
    recipe = {
        "recipe": RECIPE,
        "seed": options.seed,
        "seconds": options.seconds,
        "only": options.only,
        "captions": options.captions,
    }
    if options.split is not None:  # folders made before there was this option stay valid
        recipe["split"] = options.split
    path = out / "corpus.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != recipe:
            raise ValueError(
                f"n2m.corpus: out must be a new folder or one made with the same options, got "
                f"{out} made with {found} while {recipe} is asked for; choose another folder"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"n2m.corpus: out must be an empty or new folder or a corpus, got {out}")
    for folder in ("audio", "parts", "pieces"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(recipe))


def read_parts(out: Path, clips: int) -> list[dict[str, Any]]:
    """Finished parts of indices 0 .. clips - 1 in order; parts whose audio is missing are not."""
    parts = []
    for index in range(clips):
        path = out / "parts" / f"{index:06d}.json"
        if not path.exists():
            continue
        part = json.loads(path.read_text(encoding="utf-8"))
        if "dropped" in part or (out / part["clip"]["audio"]).exists():
            parts.append(part)
    return parts


def write_manifest(out: Path, clips: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    """manifest.jsonl from the parts; returns (its lines as dicts, reasons of dropped clips)."""
    parts = read_parts(out, clips)
    kept = [part["clip"] for part in parts if "clip" in part]
    dropped = Counter(part["dropped"] for part in parts if "dropped" in part)
    lines = "".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in kept)
    write_atomic(out / "manifest.jsonl", lines)
    return kept, dropped


def build_corpus(
    out: str | os.PathLike[str], options: CorpusOptions | None = None, /, **changes: Any
) -> CorpusReport:
    """Render the corpus into folder `out`: manifest.jsonl, audio/*.flac, DATA_CARD.md.

    options: a CorpusOptions, or its fields as keywords (`build_corpus("corpus", clips=100)`).
    Running it again goes on where it stopped. A larger `clips` extends; a smaller one shortens
    the manifest and leaves the audio. Errors: ImportError or FileNotFoundError with the install
    line for a missing source or renderer; ValueError for bad options or a folder of other options.
    """
    options = dataclasses.replace(options or CorpusOptions(), **changes)
    folder = Path(out)
    catalogue = make_catalogue(options.only).of(options.split)
    find_soundfont(options.soundfont)
    _claim(folder, options)
    done = {part["index"] for part in read_parts(folder, options.clips)}
    todo = [index for index in range(options.clips) if index not in done]
    if todo:
        from tqdm import tqdm

        bar = tqdm(
            total=options.clips,
            initial=len(done),
            unit="clip",
            desc="corpus",
            disable=not options.progress,
            file=sys.stderr,
        )
        with bar:
            for _ in _make_all(todo, folder, options):
                bar.update()
    kept, dropped = write_manifest(folder, options.clips)
    write_atomic(folder / "DATA_CARD.md", data_card(kept, dropped, catalogue.by_genre, options))
    return CorpusReport(folder, len(kept), sum(dropped.values()), len(todo), dict(dropped))
