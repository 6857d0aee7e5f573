"""From a set of clips to embeddings: several processes, a cache, and every failure by name."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio import resample
from noise2music.errors import UserError
from noise2music.evaluate.cache import EmbeddingCache, cache_key
from noise2music.evaluate.encoders.protocol import Array, AudioEncoder, load_encoder
from noise2music.evaluate.sounds import RATE, BadSound, Failure, Item, decode, file_hash

Progress = Callable[[str, int, int], None]

_PART = 48  # clips between two writes of the cache: what a kill can cost
_POOLED = 8  # fewer clips than this are not worth starting processes for


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A set as an encoder heard it: clips[i] (windows, d) float32 of items[i]; failures."""

    encoder: str
    framewise: bool
    items: tuple[Item, ...]
    clips: tuple[Array, ...]
    failures: tuple[Failure, ...]
    cached: int

    @property
    def rows(self) -> list[Array]:
        """What FAD compares: every window of a frame-wise encoder, else the mean of each clip."""
        return list(self.clips) if self.framewise else [m[None] for m in self.means]

    @property
    def means(self) -> Array:
        """The mean over the windows of each clip, (N, d) float64 (section 3.5)."""
        return np.stack([c.mean(axis=0, dtype=np.float64) for c in self.clips])

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of clips that failed for it."""
        return dict(Counter(f.reason for f in self.failures))


def embed_set(
    items: Sequence[Item],
    encoder: AudioEncoder,
    *,
    cache: Path | None = None,
    workers: int = 1,
    load: str | None = None,
    progress: Progress | None = None,
    name: str = "clips",
) -> Embedded:
    """Hears every clip of a set, or reads it from the cache.

    workers: processes; more than one needs `load`, what `load_encoder` is given in each of them.
    A script of yours that asks for more than one needs `if __name__ == "__main__":`, as with all
    Python processes. progress: called with (name, done, total).

    A clip that cannot be judged is a Failure, never an exception.
    """
    store = EmbeddingCache(cache, encoder)
    failures: dict[int, Failure] = {}
    keys: dict[int, str] = {}
    first: dict[str, int] = {}
    wanted: list[int] = []
    for i, item in enumerate(items):
        try:
            key = cache_key(file_hash(item.path), item)
        except BadSound as bad:
            failures[i] = _failure(item, bad)
            continue
        if key in first:
            failures[i] = _copy(item, items[first[key]])
            continue
        first[key], keys[i] = i, key
        if store.get(key) is None:
            wanted.append(i)
    cached = len(keys) - len(wanted)
    done = len(items) - len(wanted)
    try:
        with _hearing(encoder, workers, load, len(wanted)) as hear:
            for i, heard in zip(wanted, hear([items[i] for i in wanted]), strict=True):
                if isinstance(heard, BadSound):
                    failures[i] = _failure(items[i], heard)
                    del keys[i]
                else:
                    store.put(keys[i], heard)
                done += 1
                if done % _PART == 0:
                    store.flush()
                if progress is not None:
                    progress(name, done, len(items))
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that heard clips for {encoder.name} died, perhaps for want of memory: "
            "--workers 1 takes less, and --cache keeps what was heard"
        ) from error
    finally:  # also at Ctrl-C
        store.flush()
    heard_first: dict[bytes, int] = {}
    for i in sorted(keys):  # the same sound in another container, to the bit
        twin = heard_first.setdefault(_known(store, keys[i]).tobytes(), i)
        if twin != i:
            failures[i] = _copy(items[i], items[twin])
            del keys[i]
    good = sorted(keys)
    return Embedded(
        encoder=encoder.name,
        framewise=encoder.framewise,
        items=tuple(items[i] for i in good),
        clips=tuple(_known(store, keys[i]) for i in good),
        failures=tuple(failures[i] for i in sorted(failures)),
        cached=cached,
    )


def hear(item: Item, encoder: AudioEncoder) -> Array:
    """The embedding of one clip, (windows, d) float32; BadSound where there is none."""
    samples = decode(item)
    if samples.size < round(encoder.window * RATE):
        raise BadSound("too_short", f"{samples.size / RATE:.2f} s, hears {encoder.window:.2f} s")
    rows = encoder.embed(resample(samples, RATE, encoder.sample_rate))
    if rows.ndim != 2 or rows.shape[1] != encoder.dim or not np.isfinite(rows).all():
        raise ValueError(
            f"n2m.evaluate: {encoder.name} must give finite (windows, {encoder.dim}), "
            f"got {rows.shape} for {item.path}"
        )
    return rows


def _known(store: EmbeddingCache, key: str) -> Array:
    rows = store.get(key)
    assert rows is not None
    return rows


def _failure(item: Item, bad: BadSound) -> Failure:
    return Failure(item.id, str(item.path), bad.reason, bad.detail)


def _copy(item: Item, of: Item) -> Failure:
    return _failure(item, BadSound("duplicate", f"of {of.id}"))


def _try(item: Item, encoder: AudioEncoder) -> Array | BadSound:
    try:
        return hear(item, encoder)
    except BadSound as bad:
        return bad


@contextlib.contextmanager
def _hearing(
    encoder: AudioEncoder, workers: int, load: str | None, count: int
) -> Iterator[Callable[[Sequence[Item]], Iterator[Array | BadSound]]]:
    """A function from items to what is heard, in order; in processes where that pays."""
    if load is None or workers < 2 or count < _POOLED:
        yield lambda items: (_try(item, encoder) for item in items)
        return
    with _environment(_ONE_THREAD):
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (load,))
        try:
            yield lambda items: pool.map(_heard, items, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


# One thread a process: two processes of two threads each would fight for two cores.
_ONE_THREAD = {f"{n}_NUM_THREADS": "1" for n in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM")}

_worker: dict[str, Any] = {}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(load: str) -> None:
    """In a new process: the encoder, and a watch, for a pool outlives a parent that was killed."""

    def watch() -> None:
        process = multiprocessing.parent_process()
        if process is not None:
            process.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _worker["encoder"] = load_encoder(load)


def _heard(item: Item) -> Array | BadSound:
    return _try(item, _worker["encoder"])
