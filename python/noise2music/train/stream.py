"""Batches one after the other, with a position that a checkpoint can hold.

Whatever feeds a run has the protocol of Grain's DatasetIterator: next(it), it.get_state() (small,
JSON values) and it.set_state(state), after which next() gives what it would have given.
"""

from __future__ import annotations

import json
import queue
import threading
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from noise2music.train.dataset import Batches

Batch = dict[str, np.ndarray]


class BatchIterator(Protocol):
    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class Stream:
    """Batch 0, 1, 2, ... of `batches`: the clips that fall to process `index` of `count`."""

    def __init__(self, batches: Batches, index: int = 0, count: int = 1):
        if batches.batch_size % count:
            raise ValueError(
                f"n2m.train: batch_size must be a multiple of the {count} processes, "
                f"got {batches.batch_size}"
            )
        part = batches.batch_size // count
        self._batches, self._share = batches, slice(part * index, part * (index + 1))
        self._next = 0

    def __next__(self) -> Batch:
        batch = self._batches.batch(self._next, self._share)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next = int(state["next_batch"])


class Ahead:
    """Makes the next batches in a thread while the device works on this one.

    Its state is that of the batch handed out last, whatever is ready behind it.
    """

    def __init__(self, source: BatchIterator, depth: int = 2):
        self._source, self._depth = source, depth
        self._state = source.get_state()
        self._stop: threading.Event | None = None

    def __next__(self) -> Batch:
        if self._stop is None:
            self._start()
        batch, self._state, error = self._ready.get()
        if error is not None:
            raise error
        return batch

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._source.set_state(state)
        self._state = state

    def close(self) -> None:
        """Ends the thread. What it has made and nobody took is made again by the next one."""
        if self._stop is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                pass
        self._stop = None
        self._source.set_state(self._state)

    def _start(self) -> None:
        self._stop = threading.Event()
        self._ready: queue.Queue[tuple[Any, Any, Any]] = queue.Queue(self._depth)
        self._thread = threading.Thread(target=self._fill, args=(self._stop,), daemon=True)
        self._thread.start()

    def _fill(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                batch = next(self._source)
                self._ready.put((batch, self._source.get_state(), None))
            except Exception as error:  # told to whoever asks for the batch
                self._ready.put((None, self._state, error))
                return


def states_of_all(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The state of every process's iterator, in the order of the processes, on all of them."""
    if jax.process_count() == 1:
        return [state]
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([text.size], np.int32)).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(r[:n])) for r, n in zip(rows, sizes, strict=True)]


def state_for_this(states: list[dict[str, Any]]) -> dict[str, Any]:
    """This process's state out of a checkpoint's; any number of processes where all are equal."""
    if len(states) == jax.process_count():
        return states[jax.process_index()]
    if any(s != states[0] for s in states):
        raise ValueError(
            f"n2m.train: num_processes must be {len(states)}, as when the checkpoint was written, "
            f"because each had a data position of its own; got {jax.process_count()}"
        )
    return states[0]
