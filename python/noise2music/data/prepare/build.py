"""`data prepare`: tracks in, shards out; in parallel, resumable, the same files each time.

Tracks are taken in the order of their ids, and clips join shards in that order, so the files depend
on the sources and the options alone. A shard is written under temporary names, renamed and then
entered in the journal with the place where the next one begins; a run that was killed goes on from
the last entry. prepared.json comes last: a folder that has it is whole.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from noise2music.data.prepare import records
from noise2music.data.prepare.clips import Cut, Cutting, cut_track
from noise2music.data.prepare.sources import (
    LONG_KEYS,
    SHORT_KEYS,
    SPLITS,
    Reading,
    Track,
    list_tracks,
)

_JOURNAL, _CLAIM, REPORT = "journal.jsonl", "prepare.json", "report.json"


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """What to make of the sources. Two runs with equal options and sources give equal files."""

    seconds: float = 30.0
    """Length of a clip, 0.5 to 600: a multiple of 0.02."""
    clips: int = 6
    """Clips of a track at most, without overlap, evenly spaced."""
    prompts: int = 3
    """Long prompts of a clip at most; the first ones are kept."""
    long: tuple[str, ...] = LONG_KEYS
    """JSON fields with long prompts: each text is one element of the clip's text batch."""
    short: tuple[str, ...] = SHORT_KEYS
    """JSON fields with short labels: they are joined and cut to the token length."""
    validation: float = 0.01
    """Share of tracks for validation, where a track does not name its split."""
    silence_db: float = -60.0
    """A clip below this level (dBFS, root mean square) is dropped as silent."""
    max_silence: float = 0.8
    """A clip with a greater share of tenths of a second below that level is dropped."""
    shard_clips: int = 128
    """Clips of a shard."""
    text_encoder: str | None = None
    """Folder with a T5, or with a model of ours, to embed every text once. Without it, texts are
    tokenised in training. May be added to a folder that is complete."""
    text_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the embeddings."""
    token_lengths: tuple[int, ...] = (64, 96)
    """Token lengths to embed for: those of the stages that will read them."""
    workers: int = 1
    """Processes that decode; the files do not depend on it."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        def refuse(name: str, rule: str) -> None:
            raise ValueError(f"n2m.data: {name} must be {rule}, got {getattr(self, name)!r}")

        whole = math.isfinite(self.seconds) and abs(self.seconds * 50 % 1) < 1e-9
        if not (whole and 0.5 <= self.seconds <= 600):
            refuse("seconds", "between 0.5 and 600 and a multiple of 0.02")
        for name in ("clips", "prompts", "shard_clips", "workers"):
            if getattr(self, name) < 1:
                refuse(name, "at least 1")
        for name in ("validation", "max_silence"):
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, "between 0 and 1")
        if not self.silence_db < 0:
            refuse("silence_db", "below 0")
        if not all(length > 0 for length in self.token_lengths):
            refuse("token_lengths", "at least 1")

    @property
    def recipe(self) -> dict[str, Any]:
        """The options that the files depend on."""
        values = dataclasses.asdict(self)
        other = ("workers", "progress", "text_encoder", "text_dtype", "token_lengths")
        return {k: v for k, v in values.items() if k not in other}


@dataclasses.dataclass(frozen=True)
class PrepareReport:
    """What is in the folder, and why the rest is not.

    clips: by split. dropped: (id of a track or clip, reason). untexted: tracks without any text.
    empty_texts: texts of no characters, left out.
    extra_prompts: long prompts beyond the first `prompts`. made: clips made by this run.
    """

    out: Path
    tracks: int
    clips: dict[str, int]
    hours: float
    dropped: list[tuple[str, str]]
    untexted: int
    empty_texts: int
    extra_prompts: int
    made: int

    @property
    def reasons(self) -> dict[str, int]:
        """Dropped tracks and clips by the kind of reason."""
        return dict(collections.Counter(r.partition(":")[0] for _, r in self.dropped).most_common())


def prepare(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: PrepareOptions | None = None,
    /,
    **changes: Any,
) -> PrepareReport:
    """Decodes, resamples, cuts and writes `sources` (see `list_tracks`) as records into `out`.

    A run that was stopped goes on; a folder that is complete is only reported on. Errors:
    ValueError for bad options or sources, a folder that holds something else or cannot be written,
    and sources of which nothing is left; WriteError for a full disk, and what was done stays.
    """
    options = dataclasses.replace(options or PrepareOptions(), **changes)
    folder = Path(out)
    reading = Reading(tuple(options.long), tuple(options.short), options.validation)
    tracks = list_tracks([Path(s) for s in sources], reading)
    if options.text_encoder is not None:  # before the hours of decoding
        from noise2music.data.prepare.text_cache import embed_texts, encoder_hash

        encoder_hash(Path(options.text_encoder))
    _claim(folder, options, tracks)
    made = 0
    if not records.is_prepared(folder):
        journal = _Journal(folder / _JOURNAL)
        for split in SPLITS:
            mine = [t for t in tracks if t.split == split]
            made += _make_split(folder, split, mine, options, journal)
        _finish(folder, tracks, options, journal)
    if options.text_encoder is not None:
        lengths, dtype = options.token_lengths, options.text_dtype
        embed_texts(folder, options.text_encoder, lengths, dtype, options.progress)
    return _report(folder, made)


def _claim(folder: Path, options: PrepareOptions, tracks: list[Track]) -> None:
    """Makes the folder, or checks that what is there was begun with the same recipe."""
    listing = hashlib.sha256(repr(tracks).encode()).hexdigest()[:16]
    claim = {"format": records.FORMAT, "tracks": len(tracks), "listing": listing}
    claim = json.loads(json.dumps({**claim, "options": options.recipe}))
    path = folder / _CLAIM
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != claim:
            raise ValueError(
                "n2m.data: out must be a new folder, or one begun with the same sources and "
                f"options, got {str(folder)!r}, which differs in {_differences(found, claim)}; "
                "choose another folder"
            )
        return
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"n2m.data: out must be an empty or new folder, got {str(folder)!r}, which holds "
                "something else"
            )
        folder.mkdir(parents=True, exist_ok=True)
        records.write_json(path, claim)
    except OSError as error:
        raise ValueError(
            f"n2m.data: out must be a folder that can be written, got {str(folder)!r}: "
            f"{error.strerror or error}"
        ) from error


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    a, b = ({**d.pop("options", {}), **d} for d in (dict(found), dict(wanted)))
    return ", ".join(f"{k} ({a.get(k)!r}, not {b[k]!r})" for k in b if a.get(k) != b[k])


class _Journal:
    """Finished shards, one JSON line each; a half line at the end is a shard that was not."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                break
        text = "".join(json.dumps(e) + "\n" for e in self.entries)
        records.write_text(path, text)

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise records.WriteError(self.path, error) from error

    def of(self, split: str) -> list[dict[str, Any]]:
        return [e for e in self.entries if e["split"] == split]


def _make_split(
    folder: Path, split: str, tracks: list[Track], options: PrepareOptions, journal: _Journal
) -> int:
    """Writes the shards of a split that the journal lacks; returns the number of their clips."""
    done = journal.of(split)
    if done and done[-1]["last"]:
        return 0
    first, skip = done[-1]["next"] if done else (0, 0)
    held: list[dict[str, bytes]] = []
    dropped: list[tuple[str, str]] = []
    shard, made = len(done), 0

    def close(track: int, used: int, last: bool = False) -> None:
        nonlocal shard, made, held, dropped
        digest = records.write_shard(folder, split, shard, held) if held else None
        entry = {"split": split, "clips": len(held), "hash": digest, "next": [track, used]}
        journal.append({**entry, "last": last, "dropped": dropped})
        made += len(held)
        shard, held, dropped = shard + 1, [], []

    from tqdm import tqdm

    bar = tqdm(
        total=len(tracks),
        initial=first,
        unit="track",
        desc=f"prepare {split}",
        disable=not options.progress or not tracks,
        file=sys.stderr,
    )
    with bar:
        for number, cut in enumerate(_cut_all(tracks[first:], options), first):
            # The dropped of a track whose first clips an earlier run wrote are in its entry.
            if not (number == first and skip):
                dropped += cut.dropped
            for used, clip in enumerate(cut.clips, 1):
                if number == first and used <= skip:
                    continue
                held.append(clip)
                if len(held) == options.shard_clips:
                    close(number, used)
            bar.update()
        close(len(tracks), 0, last=True)
    return made


def _cut_all(tracks: list[Track], options: PrepareOptions) -> Iterator[Cut]:
    """The tracks' clips in order; at most two tracks a worker are in flight."""
    cutting = Cutting(
        options.seconds,
        options.clips,
        options.silence_db,
        options.max_silence,
        options.prompts,
    )
    if options.workers == 1 or len(tracks) < 2:
        for track in tracks:
            yield cut_track(track, cutting)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers, _start_worker) as pool:
        flying: collections.deque[Any] = collections.deque()
        for track in tracks:
            flying.append(pool.apply_async(cut_track, (track, cutting)))
            if len(flying) > 2 * options.workers:
                yield flying.popleft().get()
        while flying:
            yield flying.popleft().get()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    parent = multiprocessing.parent_process()
    if parent is not None:  # a parent that was killed cannot
        wait: Callable[..., Any] = multiprocessing.connection.wait

        def follow() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _finish(folder: Path, tracks: list[Track], options: PrepareOptions, journal: _Journal) -> None:
    splits = {s: [(e["clips"], e["hash"]) for e in journal.of(s) if e["clips"]] for s in SPLITS}
    clips = {s: sum(n for n, _ in shards) for s, shards in splits.items()}
    dropped = [pair for e in journal.entries for pair in e["dropped"]]
    kept = [t for t in tracks if not t.fault]
    report = {
        "tracks": len(tracks),
        "clips": clips,
        "hours": round(sum(clips.values()) * options.seconds / 3600, 3),
        "untexted": sum(not (t.captions or t.labels) for t in kept),
        "empty_texts": sum(t.empty_texts for t in kept),
        "extra_prompts": sum(max(0, len(t.captions) - options.prompts) for t in kept),
        "dropped": dropped,
    }
    records.write_json(folder / REPORT, report)
    if not sum(clips.values()):
        kinds = collections.Counter(r for _, r in dropped).most_common(3)
        reasons = "; ".join(f"{r} ({n})" for r, n in kinds)
        raise ValueError(
            f"n2m.data: SRC must hold usable sound, nothing is left of {len(tracks)} tracks: "
            f"{reasons}. All are listed in {str(folder / REPORT)!r}"
        )
    records.write_json(folder / records.INDEX, records.Index(options.seconds, splits).to_json())


def _report(folder: Path, made: int) -> PrepareReport:
    value = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    value["dropped"] = [(id, reason) for id, reason in value["dropped"]]
    return PrepareReport(out=folder, made=made, **value)
