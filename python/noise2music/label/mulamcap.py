"""A set in MuLaMCap's form: AudioSet segments with their pseudo captions (section 3.5, Appendix D).

    segments.csv     the lines of AudioSet's own file that are in the set: video, start, end, labels
    mulamcap.jsonl   {"segment": "VIDEO_START", "video", "start", "end", "labels", "captions":
                     {vocabulary: [...]}}, captions by their rank

A segment is AudioSet's id: the video and its start in milliseconds. A clip belongs to the segment
that its id is, or begins with (VIDEO, or VIDEO_START, with or without a Y before it).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from noise2music.audio import replacing
from noise2music.errors import UserError
from noise2music.evaluate.datasets import music_labels


@dataclasses.dataclass(frozen=True)
class Exported:
    """segments: written. unknown: clips of no segment. no_music: clips of segments without a label
    of Appendix D. unlabelled: music segments that no clip is of."""

    segments: int
    unknown: int
    no_music: int
    unlabelled: int


@dataclasses.dataclass(frozen=True)
class _Segment:
    video: str
    start: float
    end: float
    labels: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.video}_{round(1000 * self.start)}"


def export(labels: Path, segments: Path, out: Path) -> Exported:
    """Writes the set of `labels` (labels.jsonl of `assign`) and `segments` (AudioSet's) to `out`.

    Raises:
      UserError: a file that cannot be read, or not one clip of a music segment.
    """
    known = _read_segments(segments)
    by_name: dict[str, _Segment] = {}
    for one in known:
        for name in (one.id, one.video):
            for key in (name, f"Y{name}"):
                by_name.setdefault(key, one)
    names = music_labels()
    clips = _read_labels(labels)
    rows: dict[str, dict[str, Any]] = {}
    unknown = no_music = 0
    for clip, own in clips.items():
        segment = by_name.get(_stem(clip))
        if segment is None:
            unknown += 1
            continue
        music = [label for label in segment.labels if label in names]
        if not music:
            no_music += 1
            continue
        captions: dict[str, list[str]] = {}
        for row in sorted(own, key=lambda r: (r["vocabulary"], r["rank"])):
            captions.setdefault(row["vocabulary"], []).append(row["caption"])
        rows[segment.id] = {
            "segment": segment.id,
            "video": segment.video,
            "start": segment.start,
            "end": segment.end,
            "labels": [{"id": label, "name": names[label]} for label in music],
            "captions": captions,
        }
    if not rows:
        raise UserError(
            f"none of the {len(clips)} clips of {labels} is a music segment of {segments}: a "
            "clip's id must be VIDEO or VIDEO_STARTMS"
        )
    _write(out, rows, [s for s in known if s.id in rows])
    all_music = sum(any(label in names for label in s.labels) for s in known)
    return Exported(len(rows), unknown, no_music, all_music - len(rows))


def _stem(clip: str) -> str:
    name = clip.rsplit("/", 1)[-1].partition("#")[0]
    return name.rsplit(".", 1)[0] if "." in name else name


def _read_segments(path: Path) -> list[_Segment]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = (line for line in file if not line.startswith("#"))
            return [
                _Segment(video, float(start), float(end), tuple(labels.split(",")))
                for video, start, end, labels in csv.reader(lines, skipinitialspace=True)
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not as AudioSet publishes its segments: {error}") from error


def _read_labels(path: Path) -> dict[str, list[dict[str, Any]]]:
    clips: dict[str, list[dict[str, Any]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                row["rank"], row["vocabulary"], row["caption"]  # noqa: B018
                clips.setdefault(str(row["clip"]), []).append(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no labels.jsonl of `label assign`: {error!r}") from error
    return clips


def _write(out: Path, rows: dict[str, dict[str, Any]], segments: list[_Segment]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "mulamcap.jsonl") as part:
        text = "".join(json.dumps(rows[s.id], ensure_ascii=False) + "\n" for s in segments)
        part.write_text(text, encoding="utf-8")
    table = io.StringIO()
    table.write("# YTID, start_seconds, end_seconds, positive_labels\n")
    for s in segments:
        table.write(f'{s.video}, {s.start:.3f}, {s.end:.3f}, "{",".join(s.labels)}"\n')
    with replacing(out / "segments.csv") as part:
        part.write_text(table.getvalue(), encoding="utf-8")
