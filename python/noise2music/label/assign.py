"""Section 3.5 from end to end: sound files and vocabularies in, labels out.

    OUT/labels.jsonl, labels.parquet   one row a label
    OUT/manifest.jsonl                 one line a clip, for `noise2music data prepare`
    OUT/report.json, DATA_CARD.md      what was done, what failed, entropies before and after
    OUT/work/                          shards, each with its marker; may be removed when all is done

The same command goes on where a run stopped, and ends with the same files wherever shards ran.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music import __version__
from noise2music.audio import replacing
from noise2music.data.prepare.sources import Reading, Track, list_tracks
from noise2music.errors import UserError
from noise2music.evaluate.encoders.protocol import JointEncoder, load_encoder
from noise2music.label import balance, output, shards
from noise2music.label.card import data_card
from noise2music.label.clips import Cutting
from noise2music.label.stages import (
    LISTING,
    Draw,
    Hear,
    Read,
    Select,
    counts_file,
    read_clips,
    read_failures,
)
from noise2music.label.vocabulary import Vocabulary, open_vocabulary

QUOTAS = {"long": 3, "short": 6}  # section 3.6
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class AssignOptions:
    """How to label. Two runs with equal sources, vocabularies and options give equal files."""

    encoder: str = "joint"
    """A model of sound and text: joint, clap:PATH, muq_mulan:PATH, or MODULE:CLASS of yours."""
    top: int = 10
    """K: nearest captions of a clip, from each vocabulary."""
    seed: int = 0
    """Seed of the draw."""
    seconds: float | None = None
    """Cut clips of so many seconds, as `data prepare` does. Default: a clip is the whole track."""
    clips: int = 6
    """Clips of a track at most, where --seconds is given."""
    validation: float = 0.01
    """Share of tracks for validation, where a track does not name its split."""
    on_device: bool = False
    """Search on JAX's default device (a GPU) instead of by NumPy."""
    retries: int = 2
    """Further attempts at a shard that failed."""
    shard_tracks: int = 128
    """Tracks of a shard that are heard."""
    shard_captions: int = 16384
    """Captions of a shard that are read."""
    shard_clips: int = 10000
    """Clips of a shard that are searched for: each goes through the whole vocabulary once."""

    def __post_init__(self) -> None:
        Cutting(self.seconds, self.clips)
        for name in ("top", "shard_tracks", "shard_captions", "shard_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"n2m.label: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"n2m.label: {name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.validation <= 1:
            raise ValueError(f"n2m.label: validation must be 0 to 1, got {self.validation}")


@dataclasses.dataclass(frozen=True)
class AssignReport:
    """What is in the folder. made: shards made by this run, by stage."""

    out: Path
    clips: int
    labels: int
    failed: list[tuple[str, str]]
    entropy: dict[str, dict[str, float]]
    made: dict[str, int]


def assign(
    sources: Sequence[str | Path],
    vocabularies: Sequence[str | Path],
    out: str | Path,
    options: AssignOptions | None = None,
    *,
    quotas: Mapping[str, int] | None = None,
    runner: shards.Runner | None = None,
    progress: shards.Progress | None = None,
) -> AssignReport:
    """Labels the clips of `sources` with captions of `vocabularies` (files) into the folder `out`.

    quotas: vocabulary -> K', captions that are drawn for a clip; 3 of long captions and 6 of short
    ones by default. runner: where shards are made (`shards.InProcess()` by default).

    Raises:
      UserError, ValueError: an encoder without text, K' > K, K > the size of a vocabulary, a folder
        that was begun with something else, nothing to label.
      ShardError: shards that failed again and again. All others stay.
    """
    options, runner = options or AssignOptions(), runner or shards.InProcess()
    opened = [open_vocabulary(Path(path)) for path in vocabularies]
    drawn = _quotas(opened, quotas or {}, options.top)
    output.pyarrow()
    encoder = load_encoder(options.encoder)
    if not isinstance(encoder, JointEncoder):
        raise UserError(f"encoder {options.encoder!r} reads no text: labels need one that does")
    tracks = [
        dataclasses.replace(t, path=str(Path(t.path).absolute()))
        for t in list_tracks(list(map(Path, sources)), Reading(validation=options.validation))
    ]
    out, work = Path(out), Path(out) / "work"
    _claim(out, tracks, drawn, options, f"{encoder.name} {encoder.weights_hash}")
    shards.sweep(out)
    shards.sweep(work)

    made: dict[str, int] = {}

    def run(stage: shards.Stage) -> None:
        made[stage.name] = shards.run(
            stage, work, runner, retries=options.retries, progress=progress
        )

    cutting = Cutting(options.seconds, options.clips)
    hear = Hear(work, options.encoder, cutting, len(tracks), options.shard_tracks)
    run(hear)
    found, failed = read_clips(work), read_failures(work)
    if not found:
        raise UserError(f"no clip is left of {len(tracks)} tracks; the first: {failed[0]}")
    for vocabulary, _ in drawn:
        read = Read(options.encoder, vocabulary, options.shard_captions)
        run(read)
        select = Select(
            work,
            vocabulary,
            hear,
            read,
            len(found),
            options.shard_clips,
            options.top,
            options.on_device,
        )
        run(select)
        _merge_counts(work, select)
    made_by = output.MadeBy(encoder.name, encoder.weights_hash, __version__)
    count = -(-len(found) // options.shard_clips)
    draw = Draw(work, drawn, count, options.shard_clips, options.seed, made_by)
    run(draw)
    return _finish(out, work, draw, options, len(tracks), len(found), failed, made)


def _quotas(
    vocabularies: Sequence[Vocabulary], quotas: Mapping[str, int], k: int
) -> tuple[tuple[Vocabulary, int], ...]:
    names = [v.name for v in vocabularies]
    if not names or len(set(names)) < len(names):
        raise UserError(f"vocabularies must have different names, at least one, got {names}")
    unknown = set(quotas) - set(names)
    if unknown:
        raise UserError(f"a quota is for a vocabulary that is given, one of {names}; got {unknown}")
    drawn = tuple((v, quotas.get(v.name, QUOTAS[v.form])) for v in vocabularies)
    for v, quota in drawn:
        if k > v.size:
            raise UserError(f"K must be at most the size of {v.name} ({v.size}), got {k}")
        if not 1 <= quota <= k:
            raise UserError(f"K' must be 1 to K = {k}, got {quota} for {v.name}")
    return drawn


def _claim(
    out: Path,
    tracks: list[Track],
    drawn: Sequence[tuple[Vocabulary, int]],
    options: AssignOptions,
    model: str,
) -> None:
    """Says in plan.json what the folder is of; refuses a folder that is of something else."""
    listing = "".join(json.dumps(dataclasses.asdict(track)) + "\n" for track in tracks)
    settings = {
        k: v for k, v in dataclasses.asdict(options).items() if k not in ("retries", "on_device")
    }
    plan = {
        "format": FORMAT,
        "tracks": hashlib.sha256(listing.encode()).hexdigest()[:16],
        "model": model,
        "vocabularies": {v.name: [v.digest, v.form, quota] for v, quota in drawn},
        **settings,
    }
    path = out / "plan.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differ = sorted(k for k in {*plan, *before} if plan.get(k) != before.get(k))
        except (ValueError, TypeError, AttributeError):
            differ = ["everything"]
        if differ:
            raise UserError(
                f"{str(out)!r} was begun with other {', '.join(differ)}: give another folder"
            )
    else:
        if out.is_dir():
            shards.sweep(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{str(out)!r} holds something else: give a new or an empty folder")
        out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    # Also where a kill came right after plan.json, or work/ was removed.
    (out / "work").mkdir(exist_ok=True)
    with replacing(out / "work" / LISTING) as part:
        part.write_text(listing, encoding="utf-8")


def _merge_counts(work: Path, select: Select) -> None:
    """The sum of the shards' counts: what counting all clips at once would give."""
    path = counts_file(work, select.vocabulary)
    counts = np.zeros(select.vocabulary.size, np.int64)
    for shard in range(select.count):
        with np.load(shards.shard_file(work, select, shard, ".npz")) as file:
            counts[file["chosen"]] += file["count"]
    with replacing(path) as part:
        np.save(part, counts)


def _finish(
    out: Path,
    work: Path,
    draw: Draw,
    options: AssignOptions,
    tracks: int,
    clips: int,
    failed: list[tuple[str, str]],
    made: dict[str, int],
) -> AssignReport:
    def parts(suffix: str) -> list[Path]:
        return [shards.shard_file(work, draw, i, suffix) for i in range(draw.count)]

    entropy = {}
    for vocabulary, quota in draw.quotas:
        before = np.load(counts_file(work, vocabulary))
        sums = {"before": before}
        for name in ("nearest", "drawn"):
            sums[name] = np.zeros_like(before)
            for path in parts(f".{name}-{vocabulary.name}.npy"):
                number, count = np.load(path)
                sums[name][number] += count
        with replacing(out / f"counts-{vocabulary.name}.npy") as part:
            np.save(part, np.stack(list(sums.values())))
        entropy[vocabulary.name] = {
            "captions": vocabulary.size,
            "quota": quota,
            **{f"used_{name}": int((n > 0).sum()) for name, n in sums.items()},
            **{f"bits_{name}": round(balance.entropy(n), 4) for name, n in sums.items()},
        }
    output.join_files(parts(".jsonl"), out / "labels.jsonl")
    output.join_parquet(parts(".parquet"), out / "labels.parquet")
    output.join_files(parts(".manifest"), out / "manifest.jsonl")
    report: dict[str, Any] = {
        "tracks": tracks,
        "clips": clips,
        "labels": clips * sum(quota for _, quota in draw.quotas),
        "K": options.top,
        "seed": options.seed,
        "made_by": dataclasses.asdict(draw.made_by),
        "vocabularies": entropy,
        "failed": failed,
    }
    with replacing(out / "DATA_CARD.md") as part:
        part.write_text(data_card(report), encoding="utf-8")
    with replacing(out / "report.json") as part:
        part.write_text(json.dumps(report, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    return AssignReport(out, clips, report["labels"], failed, entropy, made)
