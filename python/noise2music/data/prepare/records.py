"""Prepared records: what `data prepare` writes and training reads.

    prepared.json                          the index: format, seconds, splits and their shards
    train-00000.audio24000.array_record    int16 (24,000 s,)   a shard of at most N clips,
    train-00000.audio16000.array_record    int16 (16,000 s,)   one ArrayRecord file a column,
    train-00000.audio3200.array_record     int16 (3,200 s,)    record i of every column is clip i
    train-00000.mel.array_record           float16 (100 s, 80) log-mel in [-1, 1]
    train-00000.meta.array_record          JSON: id, track, texts, level, source rate, ...

Little-endian, uncompressed. A column a file, because a stage reads one to three of the five:
the whys and the measurements are in docs/design/records.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module
from numpy.typing import NDArray

from noise2music.config import MEL_CHANNELS

INDEX = "prepared.json"
FORMAT = 1
DTYPES = {"audio24000": "<i2", "audio16000": "<i2", "audio3200": "<i2", "mel": "<f2"}
COLUMNS = (*DTYPES, "meta")
_WRITE = "group_size:1,uncompressed"


class WriteError(RuntimeError):
    """A file could not be written: a full disk, most often. The message is one line."""

    def __init__(self, path: Path, error: Exception):
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        super().__init__(
            f"n2m.data: {path.name} could not be written to {str(path.parent)!r} ({reason}); make "
            "room and give the command again: it goes on from what is whole"
        )


@contextmanager
def whole(path: Path, mark: str = "") -> Iterator[Path]:
    """A name to write the file by, renamed at the end: a reader finds the old file or the new one.

    Where writing fails, what there is of it goes. `mark` tells apart writers of the same file.
    """
    part = path.with_name(f".{path.name}{mark}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text, on disk when this returns, or the file as it was."""
    try:
        with whole(path) as part, part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(path, error) from error


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_records(path: Path, records: Sequence[bytes]) -> None:
    """One ArrayRecord file; the same records, the same bytes."""
    try:
        with whole(path) as part:
            writer = array_record_module.ArrayRecordWriter(str(part), _WRITE)
            try:
                for record in records:
                    writer.write(record)
            finally:
                writer.close()
            with part.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # the library's own is a RuntimeError
        raise WriteError(path, error) from error


def open_records(paths: Sequence[Path], length: int) -> Any:
    """The records of several files, by number. ValueError where a file is damaged."""
    from grain import sources  # two seconds, most of it jax: not for the workers that decode

    try:
        source = sources.ArrayRecordDataSource([str(path) for path in paths])
    except Exception as error:  # the library's own kinds, for a file cut short or overwritten
        raise ValueError(
            f"n2m.data: {str(paths[0])!r} and those after it must be whole, got: "
            f"{' '.join(str(error).split())}"
        ) from error
    if len(source) != length:
        raise ValueError(
            f"n2m.data: {str(paths[0])!r} and those after it must hold {length} records, they hold "
            f"{len(source)}; prepare again"
        )
    return source


def shard_path(folder: Path, split: str, shard: int, column: str) -> Path:
    return folder / f"{split}-{shard:05d}.{column}.array_record"


def write_shard(folder: Path, split: str, shard: int, clips: Sequence[Mapping[str, bytes]]) -> str:
    """The files of one shard, all or none; returns the hash of its metadata."""
    paths = [shard_path(folder, split, shard, column) for column in COLUMNS]
    try:
        for column, path in zip(COLUMNS, paths, strict=True):
            write_records(path, [c[column] for c in clips])
    except WriteError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return hashlib.sha256(b"\n".join(c["meta"] for c in clips)).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Index:
    """prepared.json. splits: name -> [(clips, hash)] a shard."""

    seconds: float
    splits: dict[str, list[tuple[int, str]]]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "seconds": self.seconds, "splits": self.splits}


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    return (Path(folder) / INDEX).is_file()


def read_index(folder: Path) -> Index:
    path = folder / INDEX
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = value["format"]
        splits = {s: [(int(n), str(h)) for n, h in shards] for s, shards in value["splits"].items()}
        seconds = float(value["seconds"])
    except FileNotFoundError as error:
        raise ValueError(
            f"n2m.data: the folder must hold {INDEX}, found none in {str(folder)!r}; "
            "`noise2music data prepare` writes it when all shards are there"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"n2m.data: {str(path)!r} must be a whole index, got: {error!r}"
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"n2m.data: {str(path)!r} must be of format {FORMAT}, got {found}; prepare it again"
        )
    return Index(seconds, splits)


class Prepared:
    """The clips of one split of a prepared folder, by number. Reads only what is asked for.

    Holds no open file until the first read, so that it can be sent to another process.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train"):
        self.folder = Path(folder)
        index = read_index(self.folder)
        shards = index.splits.get(split, [])
        if not shards:
            raise ValueError(
                f"n2m.data: {str(self.folder)!r} must have clips of split {split!r}, it has "
                + (", ".join(s for s, found in index.splits.items() if found) or "none at all")
            )
        self.split = split
        self.seconds = Fraction(round(index.seconds * 50), 50)
        self._counts = [n for n, _ in shards]
        self._length = sum(self._counts)
        self.fingerprint = hashlib.sha256("".join(h for _, h in shards).encode()).hexdigest()[:16]
        self._sources: dict[str, Any] = {}
        for shard in range(len(shards)):
            for column in COLUMNS:
                path = shard_path(self.folder, split, shard, column)
                if not path.is_file():
                    raise ValueError(f"n2m.data: the shard {str(path)!r} must be there, it is not")

    def __len__(self) -> int:
        return self._length

    def meta(self, clip: int) -> dict[str, Any]:
        return json.loads(self._read("meta", clip))

    def column(self, name: str, clip: int) -> NDArray[Any]:
        """audio<rate> (samples,) int16, or mel (frames, 80) float16."""
        values = np.frombuffer(self._read(name, clip), DTYPES[name])
        return values.reshape(-1, MEL_CHANNELS) if name == "mel" else values

    def open(self, column: str) -> Any:
        """The records of a column; ValueError where its files are damaged."""
        source = self._sources.get(column)
        if source is None:
            source = self._sources[column] = self._open(column)
        return source

    def _read(self, column: str, clip: int) -> bytes:
        return self.open(column)[clip]

    def _open(self, column: str) -> Any:
        count = range(len(self._counts))
        return open_records(
            [shard_path(self.folder, self.split, i, column) for i in count], self._length
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": {}}
