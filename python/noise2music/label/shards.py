"""Work in shards that can be killed, repeated and spread, and still gives the same files.

A stage makes files of a shard's number and nothing else. They are written under other names,
renamed, and then marked done (NAME.done: their sizes and hashes), so a shard that has its marker is
never made again, and one that was made twice by accident is the same. What fails is tried again
after the others; what still fails is named, and everything else is kept.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from noise2music.audio import replacing

Progress = Callable[[str, int, int], None]


class Stage(Protocol):
    """Picklable. name: of its files. count: shards 0 .. count - 1."""

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int: ...

    def load(self) -> Any:
        """What every shard needs (a model), once a process."""
        ...

    def make(self, shard: int, loaded: Any) -> dict[str, bytes]:
        """suffix -> content of the files NAME-00000SUFFIX. The same shard, the same bytes."""
        ...


class Runner(Protocol):
    """Where shards are made."""

    def attempt(
        self, stage: Stage, folder: Path, shards: Iterable[int], done: Callable[[int], None]
    ) -> dict[int, str]:
        """Makes every shard once; returns those that failed, and why. done(shard) as they end."""
        ...


class ShardError(RuntimeError):
    """Shards that failed in every attempt; the message names them."""


def shard_file(folder: Path, stage: Stage | str, shard: int, suffix: str) -> Path:
    name = stage if isinstance(stage, str) else stage.name
    return folder / f"{name}-{shard:05d}{suffix}"


def is_done(folder: Path, stage: Stage, shard: int) -> bool:
    """Whether the marker is there and the files have the sizes that it says."""
    try:
        marker = json.loads(shard_file(folder, stage, shard, ".done").read_text(encoding="utf-8"))
        return all(
            shard_file(folder, stage, shard, suffix).stat().st_size == size
            for suffix, (size, _) in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def make_shard(stage: Stage, folder: Path, shard: int, loaded: Any) -> None:
    """Makes a shard's files and then its marker."""
    files = stage.make(shard, loaded)
    entry = {}
    for suffix, content in files.items():
        _write(shard_file(folder, stage, shard, suffix), content)
        entry[suffix] = [len(content), hashlib.sha256(content).hexdigest()[:16]]
    _write(shard_file(folder, stage, shard, ".done"), json.dumps({"files": entry}).encode())


def run(
    stage: Stage,
    folder: Path,
    runner: Runner,
    *,
    retries: int = 2,
    progress: Progress | None = None,
) -> int:
    """Makes the shards that are not done; returns how many that were.

    Raises:
      ShardError: shards that failed 1 + retries times. All others are done and stay.
    """
    missing = [i for i in range(stage.count) if not is_done(folder, stage, i)]
    ready = stage.count - len(missing)

    def done(shard: int) -> None:
        nonlocal ready
        ready += 1
        if progress is not None:
            progress(stage.name, ready, stage.count)

    failed = dict.fromkeys(missing, "")
    for _ in range(1 + retries):
        if failed:
            failed = runner.attempt(stage, folder, sorted(failed), done)
    if failed:
        told = "; ".join(f"{stage.name} shard {i}: {why}" for i, why in sorted(failed.items())[:5])
        more = f" (and {len(failed) - 5} more)" if len(failed) > 5 else ""
        raise ShardError(
            f"n2m.label: {len(failed)} of {stage.count} shards failed {1 + retries} times: {told}"
            f"{more}. The others are kept; the same command tries these again"
        )
    return len(missing)


@dataclasses.dataclass(frozen=True)
class InProcess:
    """One shard after the other, in this process."""

    def attempt(
        self, stage: Stage, folder: Path, shards: Iterable[int], done: Callable[[int], None]
    ) -> dict[int, str]:
        loaded, failed = stage.load(), {}
        for shard in shards:
            try:
                make_shard(stage, folder, shard, loaded)
            except Exception as error:  # whatever it is, it is this shard's
                failed[shard] = describe(error)
            else:
                done(shard)
        return failed


class Processes:
    """Several processes of this machine. One that dies costs the shards in flight an attempt.

    They are started by the first shard and serve all stages; close() stops them.
    """

    def __init__(self, count: int):
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def attempt(
        self, stage: Stage, folder: Path, shards: Iterable[int], done: Callable[[int], None]
    ) -> dict[int, str]:
        queue, failed = collections.deque(shards), {}
        flying: dict[Future[str | None], int] = {}
        while queue or flying:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.count, context, _watch_parent)
            try:
                while queue and len(flying) < self.count:
                    shard = queue[0]
                    flying[self._pool.submit(_make, stage, folder, shard)] = shard
                    queue.popleft()
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    why = future.result()
                    shard = flying.pop(future)
                    if why is None:
                        done(shard)
                    else:
                        failed[shard] = why
            except BrokenProcessPool:
                failed |= dict.fromkeys(flying.values(), "a process that made shards died")
                flying.clear()
                self.close()
        for shard in [i for i in failed if is_done(folder, stage, i)]:
            del failed[shard]  # by the process that died, or while another one did
            done(shard)
        return failed

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe(error: BaseException) -> str:
    """The error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def sweep(folder: Path) -> None:
    """Removes what a kill left half written."""
    for path in folder.glob(".n2m-*"):
        path.unlink(missing_ok=True)


def _watch_parent() -> None:
    """In a new process: it ends with its parent, for a pool outlives one that was killed."""

    def watch() -> None:
        process = multiprocessing.parent_process()
        if process is not None:
            process.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_loaded: dict[str, Any] = {}  # of the stage at hand, in a process that makes shards


def _make(stage: Stage, folder: Path, shard: int) -> str | None:
    try:
        key = f"{folder}/{stage.name}"
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = stage.load()
        make_shard(stage, folder, shard, _loaded[key])
        return None
    except Exception as error:
        return describe(error)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
