"""Every song is asked for, with retries, a rate limit and a journal; what fails is counted.

WORK/answers.jsonl   one line a song that is settled: its answer, or why there is none, and what
                     every attempt came to; the same command goes on after the last line, and
                     asks again for songs that failed
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from noise2music.errors import UserError
from noise2music.label.mine.models import Model, Trouble
from noise2music.label.mine.prompt import Song

JOURNAL = "answers.jsonl"
_REFUSAL = re.compile(
    r"\b(as an ai|language model|i('| a)m sorry|i (can('|no)t|am unable|am not able|do not|don't) "
    r"(help|assist|provide|describe|comply|fulfil|have|know|discuss|listen)|i apologi[sz]e)",
    re.I,
)


def is_refusal(text: str) -> bool:
    """Whether a sentence declines instead of describing."""
    return bool(_REFUSAL.search(text.replace("\u2019", "'")))


@dataclasses.dataclass(frozen=True)
class AskOptions:
    """How to ask. After attempt n it waits backoff 2^(n - 1) seconds, or as the server says."""

    attempts: int = 5
    backoff: float = 1.0
    longest_wait: float = 60.0
    per_minute: float | None = None
    parallel: int = 4

    def __post_init__(self) -> None:
        for name in ("attempts", "parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.per_minute is not None and not self.per_minute > 0:
            raise UserError(f"the rate must be above 0 a minute, got {self.per_minute}")


@dataclasses.dataclass
class Answered:
    """All songs. texts: of each song in order, None where it failed. troubles: of all attempts of
    all runs, by reason. failed: songs without an answer by their last reason."""

    texts: list[str | None]
    troubles: dict[str, int]
    failed: dict[str, int]
    asked_now: int


def ask_all(
    songs: Sequence[Song],
    model: Model,
    work: Path,
    options: AskOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answered:
    """Asks for every song that the journal in `work` has no answer for.

    Raises:
      UserError: the server refuses every request of this kind (a wrong key or model). What was
        answered before is in the journal.
    """
    options = options or AskOptions()
    work.mkdir(parents=True, exist_ok=True)
    known = _read_journal(work / JOURNAL)
    missing = [s for s in songs if known.get(_key(s), {}).get("text") is None]
    rate = _Rate(options.per_minute)
    workers = options.parallel if model.parallel else 1
    with (work / JOURNAL).open("a", encoding="utf-8") as journal:
        pool = ThreadPoolExecutor(workers)
        flying: set[Future[dict[str, Any]]] = set()
        queue = collections.deque(missing)
        try:
            while queue or flying:
                while queue and len(flying) < workers:
                    flying.add(pool.submit(_ask, queue.popleft(), model, options, rate))
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    entry = future.result()
                    before = known.get(_key(Song(entry["title"], entry["artist"])))
                    if before:  # attempts of earlier runs count too
                        entry["troubles"] = before["troubles"] + entry["troubles"]
                    journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                    known[_key(Song(entry["title"], entry["artist"]))] = entry
                    if progress is not None:
                        progress("ask", len(missing) - len(queue) - len(flying), len(missing))
        finally:
            rate.stop()
            pool.shutdown(cancel_futures=True)
    entries = [known[_key(song)] for song in songs]
    return Answered(
        [e["text"] for e in entries],
        dict(collections.Counter(t for e in entries for t in e["troubles"]).most_common()),
        dict(collections.Counter(e["troubles"][-1] for e in entries if e["text"] is None)),
        len(missing),
    )


def _ask(song: Song, model: Model, options: AskOptions, rate: _Rate) -> dict[str, Any]:
    """The journal's line of a song. A truncated answer is asked for again, then cut at its last
    whole sentence, for that much of it is good."""
    troubles: list[str] = []
    cut: str | None = None
    for attempt in range(options.attempts):
        rate.wait()
        trouble: Trouble | None = None
        try:
            answer = model.describe(song)
            if is_refusal(answer.text) or answer.text.strip().strip(".").upper() == "UNKNOWN":
                trouble = Trouble("refused")
            elif not answer.whole:
                trouble = Trouble("truncated")
                cut = _whole_sentences(answer.text) or cut
        except Trouble as error:
            trouble = error
        if trouble is None:
            return _entry(song, answer.text, troubles)
        troubles.append(trouble.reason)
        if attempt + 1 < options.attempts:
            pause = options.backoff * 2**attempt if trouble.wait is None else trouble.wait
            rate.sleep(min(pause, options.longest_wait))
    return _entry(song, cut, troubles)


def _entry(song: Song, text: str | None, troubles: list[str]) -> dict[str, Any]:
    return {**dataclasses.asdict(song), "text": text, "troubles": troubles}


def _whole_sentences(text: str) -> str | None:
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] if end >= 0 else None


def _key(song: Song) -> tuple[str, str]:
    return song.title, song.artist


def _read_journal(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last line of each song. A last line that was cut short by a kill is taken away."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    try:
        entries = [json.loads(line) for line in whole.decode().splitlines() if line]
        return {(e["title"], e["artist"]): e for e in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a journal of answers: {error!r}") from error


class _Rate:
    """At most so many requests a minute, evenly spaced; sleeps end when it is stopped."""

    def __init__(self, per_minute: float | None):
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._next, self._lock, self._stopped = 0.0, threading.Lock(), threading.Event()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        self.sleep(begin - now)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._stopped.wait(seconds)

    def stop(self) -> None:
        self._stopped.set()
