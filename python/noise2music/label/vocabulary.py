"""Vocabularies: a text file with one caption a line, and beside it what it is (NAME.json).

form      "long" (sentences: a clip's captions) or "short" (phrases: its labels)
source    where the captions come from
filters   what cleaning dropped, where there was any
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noise2music.audio import replacing
from noise2music.errors import UserError

FORMS = ("long", "short")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A list of captions on disk. digest: sha256 of the file, 16 hex digits."""

    name: str
    path: Path
    form: str
    size: int
    digest: str

    def read(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Captions start .. stop - 1."""
        with self.path.open(encoding="utf-8", newline="\n") as file:
            return [line.rstrip("\n") for line in itertools.islice(file, start, stop)]

    def pick(self, numbers: Iterable[int]) -> dict[int, str]:
        """number -> caption, in one pass over the file."""
        wanted = set(map(int, numbers))
        with self.path.open(encoding="utf-8", newline="\n") as file:
            return {j: line.rstrip("\n") for j, line in enumerate(file) if j in wanted}


def open_vocabulary(path: Path) -> Vocabulary:
    """Reads the file once, to count and to check it.

    Raises:
      UserError: no such file, not UTF-8, empty, an empty line, or a caption that is there twice.
    """
    path = Path(path)
    digest, seen = hashlib.sha256(), set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                digest.update(line)
                text = line.decode("utf-8").removesuffix("\n")
                if not text.strip() or "\r" in text:
                    raise UserError(
                        f"{path} line {number} must be a caption and end in one newline; "
                        "`noise2music label vocab` writes such files"
                    )
                key = hashlib.blake2b(text.encode(), digest_size=8).digest()
                if key in seen:
                    raise UserError(f"{path} line {number}: the caption {text!r} is there twice")
                seen.add(key)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a vocabulary: {error}") from error
    if not seen:
        raise UserError(f"{path} holds no caption")
    about = _about(path)
    form = about.get("form", "short" if path.stem.endswith("sf") else "long")
    if form not in FORMS:
        raise UserError(f"{path.with_suffix('.json')}: form must be long or short, got {form!r}")
    return Vocabulary(path.stem, path.absolute(), form, len(seen), digest.hexdigest()[:16])


def write_vocabulary(path: Path, captions: Iterable[str], about: dict[str, Any]) -> int:
    """Writes each caption once, in order of first use, and NAME.json; returns how many there are.

    Raises:
      UserError: no caption, or a file that cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as part:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for caption in _unique(captions):
                file.write(caption + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise UserError(f"nothing is left to write to {path}: there was no usable caption")
    with replacing(path.with_suffix(".json")) as part:
        text = json.dumps({**about, "captions": count}, indent=1, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
    return count


def _unique(captions: Iterable[str]) -> Iterator[str]:
    seen = set()
    for caption in captions:
        text = " ".join(caption.encode("utf-8", "replace").decode("utf-8").split())
        if text and text not in seen:
            seen.add(text)
            yield text


def _about(path: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {}
    try:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{sidecar} cannot be read: {error}") from error
    return about if isinstance(about, dict) else {}
