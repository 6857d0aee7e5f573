"""A study: captions, clips by source, and ratings, in one SQLite file.

A trial is a caption with two clips of different sources, left and right. Trials are handed out so
that every pair of sources is compared equally often, then every caption, with each source as often
left as right; a rater never gets the same pair for the same caption twice. A rating is on the disk
before it is acknowledged (write-ahead log, synchronous), so that a kill loses none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from noise2music.errors import UserError
from noise2music.evaluate.sounds import Item

SCALE = (1, 2, 3, 4, 5)  # 1: left is much better ... 3: no difference ... 5: right is much better
ABANDONED = 1800.0  # seconds after which a trial that was never rated no longer counts
MAX_NAME = 64

_SCHEMA = """
CREATE TABLE clip (item TEXT, source TEXT, path TEXT, PRIMARY KEY (item, source));
CREATE TABLE caption (item TEXT PRIMARY KEY, text TEXT);
CREATE TABLE trial (
  id TEXT PRIMARY KEY, rater TEXT, item TEXT, left TEXT, right TEXT,
  assigned REAL, score INTEGER, rated REAL);
CREATE INDEX trial_of_rater ON trial (rater);
"""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a rater gets: no source and no file in it. done, total: of this rater."""

    id: str
    caption: str
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Rating:
    """One answer, with the sources that the rater did not see."""

    rater: str
    item: str
    left: str
    right: str
    score: int


class Study:
    """A study in `folder` (its file is study.db). Safe to use from several threads."""

    def __init__(self, folder: Path):
        self._path = Path(folder) / "study.db"
        if not self._path.is_file():
            raise UserError(f"{str(folder)!r} holds no study: make it with --source NAME=PATH ...")

    @classmethod
    def create(cls, folder: Path, sources: Mapping[str, Sequence[Item]]) -> Study:
        """A new study of the clips that at least two sources have, by their ids.

        The caption is the text of the first source that has one.

        Raises:
          UserError: there is a study already, fewer than two sources, or no caption with two clips.
        """
        if len(sources) < 2:
            raise UserError(f"a study compares at least 2 sources, got {len(sources)}")
        clips: dict[str, dict[str, Path]] = {}
        captions: dict[str, str] = {}
        for source, items in sources.items():
            for item in items:
                clips.setdefault(item.id, {})[source] = item.path.resolve()
                if item.text:
                    captions.setdefault(item.id, item.text)
        usable = [i for i, found in clips.items() if len(found) > 1 and i in captions]
        if not usable:
            raise UserError(
                "no caption has clips of two sources: the sets must share ids, and one of them "
                "must have the captions (a manifest with `prompt`)"
            )
        missing = [str(p) for i in usable for p in clips[i].values() if not p.is_file()]
        if missing:
            raise UserError(f"{len(missing)} clips are not there, the first is {missing[0]}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "study.db"
        if path.exists():
            raise UserError(f"{str(folder)!r} holds a study already: choose another folder")
        connection = sqlite3.connect(path)
        try:
            connection.executescript(_SCHEMA)
            rows = [(i, s, str(p)) for i in usable for s, p in clips[i].items()]
            connection.executemany("INSERT INTO clip VALUES (?, ?, ?)", rows)
            texts = [(i, captions[i]) for i in usable]
            connection.executemany("INSERT INTO caption VALUES (?, ?)", texts)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.commit()
        finally:
            connection.close()
        return cls(folder)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # one writer at a time: counts stay true
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @property
    def sources(self) -> list[str]:
        """The sources' names."""
        with self._open() as db:
            rows = db.execute("SELECT DISTINCT source FROM clip ORDER BY source")
            return [source for (source,) in rows]

    def next_trial(self, rater: str, rng: random.Random | None = None) -> Trial | None:
        """The rater's open trial, or a new one; None when the rater has rated everything.

        Raises:
          ValueError: the name is empty or longer than 64 characters.
        """
        check_name(rater)
        rng = rng or random.SystemRandom()
        with self._write() as db:
            mine = db.execute(
                "SELECT id, item, left, right, score FROM trial WHERE rater = ?", (rater,)
            ).fetchall()
            possible = self._possible(db)
            total = len(possible)
            done = sum(score is not None for *_, score in mine)
            for id, item, _, _, score in mine:
                if score is None:
                    return Trial(id, self._caption(db, item), done, total)
            seen = {(item, *sorted((left, right))) for _, item, left, right, _ in mine}
            left_over = [p for p in possible if p not in seen]
            if not left_over:
                return None
            item, a, b = _choose(db, left_over, mine, rng)
            left, right = _order(db, a, b, rng)
            id = secrets.token_urlsafe(12)
            db.execute(
                "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                (id, rater, item, left, right, time.time()),
            )
            return Trial(id, self._caption(db, item), done, total)

    def _possible(self, db: sqlite3.Connection) -> list[tuple[str, str, str]]:
        """(item, source, source) of every comparison, the sources in order."""
        of_item: dict[str, list[str]] = {}
        for item, source in db.execute("SELECT item, source FROM clip ORDER BY item, source"):
            of_item.setdefault(item, []).append(source)
        return [(i, *p) for i, s in of_item.items() for p in itertools.combinations(s, 2)]

    def _caption(self, db: sqlite3.Connection, item: str) -> str:
        (text,) = db.execute("SELECT text FROM caption WHERE item = ?", (item,)).fetchone()
        return str(text)

    def rate(self, trial: str, rater: str, score: int) -> None:
        """Keeps a rating; when this returns it is on the disk. The same again changes nothing.

        Raises:
          ValueError: a score that is not on the scale. KeyError: no such trial of this rater, or
            it was rated otherwise.
        """
        if type(score) is not int or score not in SCALE:
            raise ValueError(f"score must be one of {SCALE}, got {score!r}")
        with self._write() as db:
            found = db.execute(
                "SELECT score FROM trial WHERE id = ? AND rater = ?", (trial, rater)
            ).fetchone()
            if found is None or found[0] not in (None, score):
                raise KeyError(trial)
            db.execute(
                "UPDATE trial SET score = ?, rated = ? WHERE id = ? AND score IS NULL",
                (score, time.time(), trial),
            )

    def clip(self, trial: str, side: str) -> Path:
        """The file of a trial's clip, "left" or "right"; KeyError where there is none."""
        if side not in ("left", "right"):
            raise KeyError(side)
        with self._open() as db:
            found = db.execute(
                f"SELECT path FROM trial JOIN clip ON clip.item = trial.item "
                f"AND clip.source = trial.{side} WHERE trial.id = ?",
                (trial,),
            ).fetchone()
        if found is None:
            raise KeyError(trial)
        return Path(found[0])

    def ratings(self) -> list[Rating]:
        """Every rating, in the order they came."""
        with self._open() as db:
            rows = db.execute(
                "SELECT rater, item, left, right, score FROM trial "
                "WHERE score IS NOT NULL ORDER BY rated, id"
            )
            return [Rating(*row) for row in rows]


def check_name(rater: object) -> str:
    """A rater's name, 1 to 64 characters; ValueError otherwise."""
    if not isinstance(rater, str) or not 0 < len(rater.strip()) <= MAX_NAME:
        raise ValueError(f"rater must be a name of 1 to {MAX_NAME} characters")
    return rater


def _counted(db: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """(item, left, right) of trials that were rated, or that somebody may be rating now."""
    return db.execute(
        "SELECT item, left, right FROM trial WHERE score IS NOT NULL OR assigned > ?",
        (time.time() - ABANDONED,),
    ).fetchall()


def _choose(
    db: sqlite3.Connection,
    possible: Sequence[tuple[str, str, str]],
    mine: Sequence[tuple[str, str, str, str, int | None]],
    rng: random.Random,
) -> tuple[str, str, str]:
    """The comparison whose sources, then whose caption, were compared least; chance decides."""
    pairs: dict[tuple[str, str], int] = {}
    comparisons: dict[tuple[str, str, str], int] = {}
    for item, left, right in _counted(db):
        a, b = sorted((left, right))
        pairs[a, b] = pairs.get((a, b), 0) + 1
        comparisons[item, a, b] = comparisons.get((item, a, b), 0) + 1
    heard: dict[str, int] = {}
    for _, item, *_ in mine:
        heard[item] = heard.get(item, 0) + 1

    def rank(comparison: tuple[str, str, str]) -> tuple[int, int, int, float]:
        item, a, b = comparison
        counts = pairs.get((a, b), 0), comparisons.get(comparison, 0), heard.get(item, 0)
        return *counts, rng.random()

    return min(possible, key=rank)


def _order(db: sqlite3.Connection, a: str, b: str, rng: random.Random) -> tuple[str, str]:
    """Left and right: the order that this pair had less often; chance where equal."""
    counted = [(left, right) for _, left, right in _counted(db)]
    ab, ba = counted.count((a, b)), counted.count((b, a))
    if ab != ba:
        return (a, b) if ab < ba else (b, a)
    return (a, b) if rng.random() < 0.5 else (b, a)
