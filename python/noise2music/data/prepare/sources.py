"""Tracks and their texts: folders with sidecar files, JSONL manifests, WebDataset shards.

A track is one sound file. What is wrong with a manifest stops the run before anything is decoded;
what is wrong with one of many sidecars drops its track, with the reason in the report.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
SPLITS = ("train", "validation", "test")
LONG_KEYS = ("captions", "caption", "text", "prompt", "description")
SHORT_KEYS = (
    *("labels", "tags", "title", "genre", "artist", "instrument", "instruments", "mood"),
    *("keywords", "aspects"),
)
_PARTS = 1000  # of the hash that draws a track's split


class SourceError(ValueError):
    """A track that cannot be used, with the reason for the report."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One sound file: where it is and what is said of it.

    `span` is (offset, bytes) inside the WebDataset shard `path`, else None. `captions` are the long
    prompts, `labels` the short ones. `fault`: why the track is dropped unread, where it is known.
    `start`, `excerpt` (seconds): the part of the file that is the track; None: to its end.
    """

    id: str
    path: str
    span: tuple[int, int] | None = None
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: str = "train"
    empty_texts: int = 0
    fault: str | None = None
    start: float = 0.0
    excerpt: float | None = None

    def open(self) -> Any:
        """What soundfile reads: the path, or the bytes inside a shard."""
        file = Path(self.path)
        if not file.is_file():
            raise SourceError("missing: there is no such file")
        offset, size = self.span or (0, file.stat().st_size)
        if size == 0:
            raise SourceError("empty: 0 bytes")
        if self.span is None:
            return self.path
        with file.open("rb") as shard:
            shard.seek(offset)
            return io.BytesIO(shard.read(size))


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the fields of a JSON object are read: which hold long texts, which short ones."""

    long: tuple[str, ...] = LONG_KEYS
    short: tuple[str, ...] = SHORT_KEYS
    validation: float = 0.01

    def track(self, id: str, path: str, fields: Mapping[str, Any], **more: Any) -> Track:
        captions, empty_long = _texts(fields, self.long)
        labels, empty_short = _texts(fields, self.short)
        split = fields.get("split") or split_of(id, self.validation)
        if split not in SPLITS:
            raise SourceError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        empty = empty_long + empty_short
        return Track(id, path, None, captions, labels, split, empty, **more)


def split_of(id: str, validation: float) -> str:
    """train or validation, by the hash of the track's name: the clips of a track stay together."""
    number = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") % _PARTS
    return "validation" if number < round(validation * _PARTS) else "train"


def list_tracks(sources: Sequence[str | Path], reading: Reading) -> list[Track]:
    """All tracks of all sources, sorted by id. The second of two equal ids carries a fault.

    A source is a folder (sound files with sidecar .json or .txt files of the same name, at any
    depth; or a manifest.jsonl, which is then all that counts), a .jsonl manifest, or a WebDataset
    .tar. Errors: ValueError for a source that is missing, empty or of another kind, and for a
    manifest's line that is not a JSON object with a sound file's name, by its number.
    """
    tracks: list[Track] = []
    for source in map(Path, sources):
        if not source.exists():
            raise ValueError(f"n2m.data: SRC must exist, got {str(source)!r}")
        found = list(_of_source(source, reading))
        if not found:
            raise ValueError(
                f"n2m.data: SRC must hold sound files ({', '.join(SUFFIXES)}), got none in "
                f"{str(source)!r}"
            )
        tracks += found
    tracks.sort(key=lambda t: (t.id, t.path, t.span or ()))
    return [
        dataclasses.replace(b, fault=f"duplicate id: {b.id!r} was there before")
        if a and a.id == b.id
        else b
        for a, b in zip([None, *tracks[:-1]], tracks, strict=True)
    ]


def _of_source(source: Path, reading: Reading) -> Iterator[Track]:
    if source.is_dir():
        if (source / "manifest.jsonl").is_file():
            return _manifest(source / "manifest.jsonl", reading)
        shards = sorted(source.glob("*.tar"))
        if shards:
            return (track for shard in shards for track in _webdataset(shard, reading))
        return _folder(source, reading)
    if source.suffix == ".jsonl":
        return _manifest(source, reading)
    if source.suffix == ".tar":
        return _webdataset(source, reading)
    raise ValueError(
        "n2m.data: SRC must be a folder, a .jsonl manifest or a WebDataset .tar, got "
        f"{str(source)!r}"
    )


def _folder(folder: Path, reading: Reading) -> Iterator[Track]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        id = str(PurePosixPath(folder.absolute().name, path.relative_to(folder).as_posix()))
        try:
            yield reading.track(id, str(path), _sidecar(path))
        except SourceError as error:
            yield Track(id, str(path), fault=str(error))


def _sidecar(audio: Path) -> Mapping[str, Any]:
    path = audio.with_suffix(".json")
    if path.is_file():
        return _object(path.read_bytes(), path.name)
    path = audio.with_suffix(".txt")
    if path.is_file():
        return {"caption": path.read_bytes().decode("utf-8", "replace")}
    return {}


def _manifest(path: Path, reading: Reading) -> Iterator[Track]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            fields = _object(line, where)
            audio = fields.get("audio")
            if not isinstance(audio, str) or not audio:
                raise SourceError(f"{where} must name a sound file under 'audio', got {audio!r}")
            id = str(fields.get("id", audio))
            track = reading.track(id, str(path.parent / audio), fields)
            yield dataclasses.replace(track, **_part(fields))
        except SourceError as error:
            message = str(error) if where in str(error) else f"{where}: {error}"
            raise ValueError(f"n2m.data: {message}") from error


def _part(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of a manifest's line: the part of the file in seconds, and where a file lies in a .tar."""
    start, excerpt, span = fields.get("start") or 0.0, fields.get("excerpt"), fields.get("span")
    if not _is_number(start) or start < 0:
        raise SourceError(f"start must be seconds, at least 0, got {start!r}")
    if excerpt is not None and (not _is_number(excerpt) or excerpt <= 0):
        raise SourceError(f"excerpt must be seconds above 0, got {excerpt!r}")
    if span is not None and not (
        isinstance(span, list) and len(span) == 2 and all(type(n) is int and n >= 0 for n in span)
    ):
        raise SourceError(f"span must be [offset, bytes] inside the file, got {span!r:.80}")
    return {"start": start, "excerpt": excerpt, "span": tuple(span) if span else None}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _webdataset(path: Path, reading: Reading) -> Iterator[Track]:
    """Members that share the name up to the first dot of its last part are one track."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # uncompressed: its members are read by their offsets
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not member.isfile() or not dot:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                groups.setdefault(key, {})["." + suffix.lower()] = member
                if suffix.lower() in ("json", "txt"):
                    file = tar.extractfile(member)
                    texts[key + "." + suffix.lower()] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"n2m.data: {str(path)!r} must be a whole, uncompressed .tar file, got: {error}"
        ) from error
    for key, members in groups.items():
        audio = next((members[s] for s in SUFFIXES if s in members), None)
        if audio is None:
            continue
        id, span = f"{path.stem}/{key}", (audio.offset_data, audio.size)
        try:
            fields: Mapping[str, Any] = {}
            if ".json" in members:
                fields = _object(texts[key + ".json"], f"{key}.json")
            elif ".txt" in members:
                fields = {"caption": texts[key + ".txt"].decode("utf-8", "replace")}
            yield dataclasses.replace(reading.track(id, str(path), fields), span=span)
        except SourceError as error:
            yield Track(id, str(path), span, fault=str(error))


def _object(text: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} must be JSON, got: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{where} must be a JSON object, got a {type(value).__name__}")
    return value


def _texts(fields: Mapping[str, Any], keys: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The texts under `keys`, each once, in order; and how many were empty."""
    texts: list[str] = []
    empty = 0
    for key in keys:
        value = fields.get(key)
        if value is None:
            continue
        many = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in many):
            raise SourceError(f"{key} must be text or a list of texts, got {value!r:.80}")
        for text in many:
            # Lone surrogates (undecodable bytes) cannot be written to any file.
            clean = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
            empty += not clean
            if clean and clean not in texts:
                texts.append(clean)
    return tuple(texts), empty
