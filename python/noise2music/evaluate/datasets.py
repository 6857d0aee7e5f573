"""The evaluation sets of section 4.3.3, from local copies, as manifests.

magnatagatune    FOLDER: annotations_final.csv and the mp3 files. Prompt: the clip's tags, joined.
                 Clips with several tags. Generate 29 s; all of it is compared.
audioset         FOLDER: eval_segments.csv and sound files named by video id. Prompt: the labels of
                 Appendix D, joined. Generate 30 s; the middle 10 s are compared.
musiccaps        FOLDER: musiccaps-public.csv and sound files named by video id. Prompt: the rater's
                 caption. Generate 30 s; the middle 10 s are compared.

Nothing is downloaded. A line whose sound file is not there stays in the manifest and is counted as
missing when the set is heard.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from noise2music.errors import UserError, unknown_name
from noise2music.evaluate.sounds import SUFFIXES

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a set is used: seconds to generate a clip, and the middle excerpt that is compared."""

    annotations: str
    seconds: float
    middle: float | None


PROTOCOLS = {
    "magnatagatune": Protocol("annotations_final.csv", 29.0, None),
    "audioset": Protocol("eval_segments.csv", 30.0, 10.0),
    "musiccaps": Protocol("musiccaps-public.csv", 30.0, 10.0),
}


def music_labels() -> dict[str, str]:
    """The 130 label ids of Appendix D -> their names."""
    path = resources.files("noise2music.evaluate") / "audioset_music.json"
    labels: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["labels"]
    return labels


def read_protocol(name: str, folder: Path) -> list[Row]:
    """The rows {id, audio, prompt} of a set, in its own order.

    Raises:
      UserError: no such protocol, no annotations in the folder, or a line that cannot be read.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    path = folder / PROTOCOLS[name].annotations
    if not path.is_file():
        raise UserError(f"{name} needs {path}: a local copy of its annotations and sound files")
    readers = {"magnatagatune": _magnatagatune, "audioset": _audioset, "musiccaps": _musiccaps}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(readers[name](file, _Files(folder)))
    except (KeyError, IndexError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not as {name} publishes it: {error!r}") from error
    if not rows:
        raise UserError(f"{path} holds no clip that {name} uses")
    return rows


def write_manifest(rows: list[Row], out: Path) -> None:
    """JSONL, and beside it the bare prompts, one a line, for `noise2music generate --prompts`."""
    out.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    prompts = (" ".join(row["prompt"].split()) + "\n" for row in rows)
    out.with_suffix(".txt").write_text("".join(prompts), encoding="utf-8")


class _Files:
    """Sound files of a folder by the video id that begins their names (with or without a Y)."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._found: dict[str, Path] | None = None

    def of_video(self, video: str) -> str:
        if self._found is None:
            self._found = {}
            for path in sorted(self._folder.rglob("*")):
                if path.suffix.lower() in SUFFIXES:
                    for start in (0, 1) if path.name.startswith("Y") else (0,):
                        self._found.setdefault(path.name[start : start + 11], path)
        return str((self._found.get(video) or self._folder / f"{video}.wav").resolve())

    def at(self, name: str) -> str:
        return str((self._folder / name).resolve())


def _magnatagatune(file: Any, files: _Files) -> Iterator[Row]:
    for row in csv.DictReader(file, delimiter="\t"):
        clip, path = row.pop("clip_id"), row.pop("mp3_path")
        tags = [tag for tag, set_ in row.items() if set_ == "1"]
        if len(tags) > 1:
            yield {"id": clip, "audio": files.at(path), "prompt": ", ".join(tags)}


def _audioset(file: Any, files: _Files) -> Iterator[Row]:
    names = music_labels()
    lines = (line for line in file if not line.startswith("#"))
    for video, _start, _end, labels in csv.reader(lines, skipinitialspace=True):
        stated = [names[label] for label in labels.split(",") if label in names]
        if stated:
            yield {"id": video, "audio": files.of_video(video), "prompt": ", ".join(stated)}


def _musiccaps(file: Any, files: _Files) -> Iterator[Row]:
    for row in csv.DictReader(file):
        video = row["ytid"]
        yield {"id": video, "audio": files.of_video(video), "prompt": row["caption"]}
