"""What labelling writes: one row a label in JSONL and Parquet, and a manifest for `data prepare`.

clip         id of the clip                 similarity   cosine of clip and caption
audio        its sound file                 rank         1 (nearest) to K
start, end   seconds in that file           count        clips with the caption among their K
caption      the text                       model, weights, version   what made the label
vocabulary   where the text is from
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noise2music.audio import replacing
from noise2music.data.prepare.sources import Track
from noise2music.errors import import_extra
from noise2music.label.clips import Clip


@dataclasses.dataclass(frozen=True)
class Label:
    """A caption of a clip."""

    clip: str
    start: float
    end: float
    caption: str
    vocabulary: str
    similarity: float
    rank: int
    count: int


@dataclasses.dataclass(frozen=True)
class MadeBy:
    """The encoder, the hash of its weights, and the version of this package."""

    model: str
    weights: str
    version: str


def _rows(
    labels: Sequence[Label], tracks: Sequence[Track], clips: Sequence[Clip], made_by: MadeBy
) -> list[dict[str, Any]]:
    audio = {c.id: _text(t.path) for c, t in zip(clips, tracks, strict=True)}
    rows = []
    for label in labels:
        row = dataclasses.asdict(label)
        clip = row.pop("clip")
        rows.append(
            {"clip": _text(clip), "audio": audio[clip], **row, **dataclasses.asdict(made_by)}
        )
    return rows


def jsonl(
    labels: Sequence[Label], tracks: Sequence[Track], clips: Sequence[Clip], made_by: MadeBy
) -> bytes:
    """One JSON object a line."""
    rows = _rows(labels, tracks, clips, made_by)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(
    labels: Sequence[Label], tracks: Sequence[Track], clips: Sequence[Clip], made_by: MadeBy
) -> bytes:
    """The same rows as a Parquet file."""
    pq, pa = pyarrow()
    table = pa.Table.from_pylist(_rows(labels, tracks, clips, made_by), schema=_schema(pa))
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def manifest(
    labels: Sequence[Sequence[Label]],
    tracks: Sequence[Track],
    clips: Sequence[Clip],
    forms: Mapping[str, str],
) -> bytes:
    """One clip a line: its own texts, then its long captions and short labels."""
    lines = []
    for own, track, clip in zip(labels, tracks, clips, strict=True):
        texts: dict[str, list[str]] = {"long": list(track.captions), "short": list(track.labels)}
        for label in own:
            if label.caption not in texts[forms[label.vocabulary]]:
                texts[forms[label.vocabulary]].append(label.caption)
        row: dict[str, Any] = {
            "id": _text(clip.id),
            "audio": _text(track.path),
            "captions": texts["long"],
            "labels": texts["short"],
            "split": track.split,
        }
        if clip.id != track.id or track.start or track.excerpt is not None:
            row |= {"start": clip.start, "excerpt": round(clip.end - clip.start, 3)}
        if track.span is not None:
            row["span"] = list(track.span)
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def join_files(parts: Sequence[Path], out: Path) -> None:
    """The parts' bytes one after the other."""
    with replacing(out) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
        file.flush()
        os.fsync(file.fileno())


def join_parquet(parts: Sequence[Path], out: Path) -> None:
    """One Parquet file; a part is a row group."""
    pq, pa = pyarrow()
    with replacing(out) as temporary:
        writer = pq.ParquetWriter(temporary, _schema(pa), compression="zstd")
        with contextlib.closing(writer):
            for part in parts:
                writer.write_table(pq.read_table(part, schema=_schema(pa)))


def pyarrow() -> tuple[Any, Any]:
    """pyarrow.parquet and pyarrow, or a UserError that says how to install them."""
    pq = import_extra(
        "pyarrow.parquet",
        extra="pip install 'noise2music[evaluate]'",
        purpose="writing labels as Parquet",
    )
    import pyarrow as pa

    return pq, pa


def _schema(pa: Any) -> Any:
    text, number = pa.string(), pa.int32()
    fields = {
        "clip": text,
        "audio": text,
        "start": pa.float64(),
        "end": pa.float64(),
        "caption": text,
        "vocabulary": text,
        "similarity": pa.float64(),
        "rank": number,
        "count": pa.int64(),
        "model": text,
        "weights": text,
        "version": text,
    }
    return pa.schema(list(fields.items()))


def _text(value: str) -> str:
    """File names that are not UTF-8 cannot be written as text: their odd bytes become '?'."""
    return value.encode("utf-8", "replace").decode("utf-8")
