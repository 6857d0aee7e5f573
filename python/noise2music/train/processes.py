"""What surrounds a training process: the others, its folder, the signals that end it."""

from __future__ import annotations

import fcntl
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from noise2music.train.options import TrainOptions

_AGREE_EVERY = 10  # steps between looks at each other: a cluster gives half a minute to stop
T = TypeVar("T")


def join(options: TrainOptions) -> None:
    """Makes this process one of `num_processes`; nothing where no coordinator is given.

    coordinator "auto" asks the cluster (TPU pods, Slurm) for all three. On CPUs gloo carries what
    the processes say.
    """
    if options.coordinator is None:
        if options.num_processes is not None or options.process_id is not None:
            raise ValueError(
                "n2m.train: coordinator must be host:port or auto where num_processes or "
                "process_id is given, got none"
            )
        return
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if options.coordinator == "auto":
        jax.distributed.initialize()
        return
    count, index = options.num_processes, options.process_id
    if count is None or index is None or not 0 <= index < count:
        raise ValueError(
            "n2m.train: num_processes and process_id (from 0, below it) must be given with "
            f"coordinator, got {count} and {index}"
        )
    jax.distributed.initialize(options.coordinator, count, index)


def fetched(tree: Any) -> Any:
    """A tree of arrays that lie on all processes' devices, as numpy arrays on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"noise2music {name}")


def everyone(text: str) -> list[str]:
    """What every process says, in their order: the same list on all of them."""
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(said))).ravel()
    room = np.zeros(max(1, sizes.max()), np.uint8)
    room[: len(said)] = said
    rows = multihost_utils.process_allgather(room)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def first_alone(make: Callable[[], T]) -> T:
    """make() on process 0, then on the others, who find the files that it has written."""
    if jax.process_index() > 0:
        barrier("first")
    made = make()
    if jax.process_index() == 0:
        barrier("first")
    return made


@contextmanager
def folder(run: Path) -> Iterator[None]:
    """The run's folder, which can be written and which no other training is using."""
    with ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((run / ".lock").open("w"))
        except OSError as error:
            raise ValueError(
                f"n2m.train: run must be a folder that can be written, got {run} ({error.strerror})"
            ) from error
        if jax.process_index() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"n2m.train: another training is writing to {run}") from error
            except OSError:  # a file system without locks
                pass
        yield


class Stopped(SystemExit):
    """SIGTERM came before the first step: nothing is lost, so the process leaves with code 0."""

    def __init__(self) -> None:
        super().__init__(0)


class StopSignal:
    """SIGTERM, Ctrl-C once, or so many minutes: finish the step, write a checkpoint, leave.

    Before `begin` there is no step to finish: SIGTERM raises `Stopped`, of one process at once, of
    several when all have come to `begin`, since the others would wait for one that has left.
    A second Ctrl-C leaves at once. Of several processes, one that is told is enough.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._leaves_at_once = jax.process_count() == 1
        self._deadline = math.inf
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._take(signal.SIGTERM)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def begin(self, minutes: float | None) -> None:
        """The first step is next: from here on signals wait for its end, and minutes count."""
        self._leaves_at_once = False
        self._take(signal.SIGINT)
        if minutes is not None:
            self._deadline = time.monotonic() + 60 * minutes
        if self._told(self._signalled):
            raise Stopped

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`: the same answer on every process."""
        here = self._signalled or time.monotonic() > self._deadline
        if jax.process_count() == 1:
            return here
        return step % _AGREE_EVERY == 0 and self._told(here)

    def _told(self, here: bool) -> bool:
        if jax.process_count() == 1:
            return here
        return bool(multihost_utils.process_allgather(np.array(here)).any())

    def _take(self, number: int) -> None:
        try:
            self._old[number] = signal.signal(number, self._request)
        except ValueError:  # not the main thread: the caller keeps its own handling
            pass

    def _request(self, number: int, frame: Any) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True
        if self._leaves_at_once:
            raise Stopped
