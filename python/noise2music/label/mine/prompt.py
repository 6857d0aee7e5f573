"""The prompt: some songs described, then one to describe. Appendix C's idea, in words of ours.

The examples describe sound and never name the song, its singer or a year, for that is what the
captions must be like.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from noise2music.errors import UserError

_TASK = (
    "You describe how music sounds to someone who has never heard it. For each song write two to "
    "four plain English sentences about its genre, instruments, voice, tempo, mood and what one "
    "could do while it plays. Name neither the song nor any person, band, album, place or year. "
    "If you do not know the song, answer UNKNOWN."
)
_EXAMPLES = (
    (
        "Take Five",
        "The Dave Brubeck Quartet",
        "A cool jazz piece in an unusual five-beat metre. A dry, unhurried alto saxophone floats "
        "over a vamp that the piano repeats throughout. The drummer plays a long solo of soft tom "
        "rolls and cymbals.",
    ),
    (
        "Blue Monday",
        "New Order",
        "A stiff electronic dance beat is driven by a stuttering kick drum machine. Cold "
        "synthesizers and a high, melodic bass guitar circle around it. A detached male voice "
        "sings in a low, flat tone, which makes it fit for a dark dance floor.",
    ),
    (
        "Clair de lune",
        "Claude Debussy",
        "A slow and dreamy piano solo. Soft chords fall like drops and open into rippling "
        "arpeggios before they fade into silence. It is calm music for a quiet night.",
    ),
    (
        "Jolene",
        "Dolly Parton",
        "A fast finger-picked acoustic guitar carries this country song. The clear, trembling "
        "female vocal pleads, and the refrain repeats one name in rising steps. The mood is "
        "anxious and sad although the beat is lively.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Song:
    """A title and who plays it."""

    title: str
    artist: str


def read_songs(path: Path) -> list[Song]:
    """Songs of a table with the columns title and artist (.csv or .tsv) or of .jsonl with both.

    Raises:
      UserError: no such file, no such columns, a line without a title, or no song at all.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in file if line.strip()]
            else:
                tab = "\t" if path.suffix == ".tsv" else ","
                rows = list(csv.DictReader(file, delimiter=tab))
        songs = [Song(_line(row["title"]), _line(row["artist"])) for row in rows]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} must be a table of songs with title and artist (.csv, .tsv, .jsonl): {error!r}"
        ) from error
    songs = list(dict.fromkeys(songs))
    if not songs or not all(song.title for song in songs):
        raise UserError(f"{path} must name songs, each with a title")
    return songs


def messages(song: Song) -> list[dict[str, str]]:
    """The conversation that ends with the song to describe."""
    out = [{"role": "system", "content": _TASK}]
    for title, artist, description in _EXAMPLES:
        out.append({"role": "user", "content": _ask(Song(title, artist))})
        out.append({"role": "assistant", "content": description})
    return [*out, {"role": "user", "content": _ask(song)}]


def plain(song: Song) -> str:
    """The same as one text, for models without a chat format."""
    parts = [_TASK, ""]
    for title, artist, description in _EXAMPLES:
        parts += [f"{_ask(Song(title, artist))}\n{description}", ""]
    return "\n".join([*parts, f"{_ask(song)}\n"])


def _ask(song: Song) -> str:
    return f'"{song.title}" by {song.artist}:' if song.artist else f'"{song.title}":'


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"title and artist must be text, got {value!r}")
    return " ".join(value.split())
