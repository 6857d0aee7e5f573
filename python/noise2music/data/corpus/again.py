"""The command that makes a corpus again, from what its folder says of itself."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path

from noise2music.data.corpus.build import RECIPE, CorpusOptions


def command_of(folder: str | os.PathLike[str]) -> str | None:
    """`noise2music data corpus FOLDER ...`, as `folder` is written; None where it is no corpus.

    None also where an older recipe made it, which no command can repeat.
    """
    path = Path(folder)
    try:
        made = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
        clips = 1 + max(int(part.stem) for part in (path / "parts").glob("*.json"))
    except (OSError, ValueError):
        return None
    if made.pop("recipe") != RECIPE:
        return None
    words = ["noise2music", "data", "corpus", str(folder), "--clips", str(clips)]
    for field in dataclasses.fields(CorpusOptions):
        value = made.get(field.name)
        if value is not None and value != field.default:
            words += [f"--{field.name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
