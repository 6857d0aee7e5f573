"""Vocabularies of a caption file of raters, MusicCaps' form (section 3.5: Rater-LF and Rater-SF).

A CSV with the columns `caption` (Rater-LF: its sentences) and `aspect_list` (Rater-SF: its tags,
a list in Python's or JSON's notation).
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from pathlib import Path

from noise2music.errors import UserError

# A full stop after these ends no sentence.
_SHORT = r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bapprox)(?<!\bvs)(?<!\bno)(?<!\bfeat)(?<!\bft)"
_END = re.compile(_SHORT + r"([.!?])(?:[\"')\]]*)\s+(?=[\"'(\[]*[A-Z0-9À-Þ])", re.I)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, without surrounding space; decimals and abbreviations stay whole."""
    text = " ".join(text.split())
    cuts = [0, *(m.end() for m in _END.finditer(text)), len(text)]
    parts = (text[a:b].strip() for a, b in zip(cuts[:-1], cuts[1:], strict=True))
    return [part for part in parts if re.search(r"\w", part)]


def rater_sentences(path: Path) -> Iterator[str]:
    """Every sentence of the column `caption`."""
    for number, row in _rows(path, "caption"):
        if not isinstance(row, str):
            raise UserError(f"{path} line {number} has no caption")
        yield from split_sentences(row)


def rater_phrases(path: Path) -> Iterator[str]:
    """Every element of the column `aspect_list`."""
    for number, text in _rows(path, "aspect_list"):
        try:
            found = ast.literal_eval(text) if text else []
            if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
                raise ValueError("it is no list of texts")
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise UserError(
                f"{path} line {number}: aspect_list must be a list of texts, got {text!r:.80}"
            ) from error
        yield from (x.strip().strip('"').strip() for x in found)


def _rows(path: Path, column: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if column not in (reader.fieldnames or ()):
                raise UserError(f"{path} must have a column {column!r}, got {reader.fieldnames}")
            for row in reader:
                yield reader.line_num, row[column]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table of captions: {error}") from error
