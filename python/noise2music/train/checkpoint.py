"""Checkpoints of a run: written in the background, whole or not at all, checked when read.

`<run>/checkpoints/<step>` has two items. `state` is the TrainState (Orbax, any sharding). `about`
is JSON: what the run was (stage, text encoder, options, version), where it stood (seed of its
random numbers, position of the data of every process, losses not yet logged) and the checksum of
the state,

    sum_i bits(x_i) (2654435761 i + 1) mod 2^32, i the element's place, for every tensor x,

which is an exact integer in whatever order it is summed, so on any number of devices.
docs/design/checkpoints.md says what happens when one cannot be read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array, lax

from noise2music.train.processes import barrier, everyone

FORMAT = 1
T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none could be read. The message is one line."""


class ForeignRunError(ValueError):
    """The run folder holds another model than the one to be trained."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state and what was noted beside it."""

    step: int
    state: Any
    about: dict[str, Any]


def _other_failures_are_told_once(record: logging.LogRecord) -> bool:
    """False for what asyncio adds when a checkpoint cannot be written.

    Orbax raises for the first tensor that fails, which `Checkpoints` tells in one line. The tasks
    of the others and the future that gathers them are dropped, and asyncio logs each ("Task
    exception ...", "_GatheringFuture exception ...") with its traceback when it is collected.
    """
    return "exception was never retrieved" not in record.getMessage()


class Checkpoints:
    """The checkpoints of one run folder, the newest `keep` of them."""

    def __init__(self, run: Path, keep: int):
        logging.getLogger("asyncio").addFilter(_other_failures_are_told_once)
        self.folder = run / "checkpoints"
        self._aside = run / "set_aside"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
        """Begins to write a checkpoint; waits for the one before."""
        about = {"format": FORMAT, **about, "checksum": _checksums(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        with self._told():
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk."""
        with self._told():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._told():
            self._manager.close()

    def check(self, identity: dict[str, Any], at: int | None) -> None:
        """ForeignRunError, before anything is built, where the checkpoints are of another run."""
        steps = self._steps_of_the_first()
        for step in [at] if at in steps else steps[::-1]:
            _, damage = _together(partial(self._read_about, step, identity))
            if not damage:
                return

    def restore(self, target: Any, identity: dict[str, Any], at: int | None) -> Restored | None:
        """The newest checkpoint that is whole, or that of step `at`; None in a new run.

        `target` has the shapes, dtypes and shardings to restore to. A checkpoint whose `about`
        differs from `identity` (its keys, their values) is refused: ForeignRunError. One that is
        damaged is passed over with a warning. What is newer than the result is set aside, not
        deleted: the run will write those steps anew.
        """
        steps = self._steps_of_the_first()
        if at is not None and at not in steps:
            have = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"n2m.train: resume must be one of the checkpoints {have}, got {at}")
        damage: list[str] = []
        for step in [at] if at is not None else steps[::-1]:
            found, wrong = _together(partial(self._read, step, target, identity))
            if found is not None:
                _, wrong = _together(partial(_check_numbers, found))
            if wrong:
                damage.append(f"checkpoint {step} is damaged ({wrong})")
                continue
            for line in damage:
                warnings.warn(
                    f"{line}; going on from checkpoint {step}. The damaged one is kept in "
                    f"{self._aside}",
                    stacklevel=2,
                )
            self._set_aside([s for s in steps if s > step])
            return found
        if not damage:
            return None
        others = [s for s in steps if s != at]
        hint = f"; others: {', '.join(map(str, others))} (--resume STEP)" if at is not None else ""
        raise CheckpointError(f"n2m.train: {'; '.join(damage)}, in {self.folder}{hint}")

    def _steps_of_the_first(self) -> list[int]:
        """What process 0 sees in the folder, which another machine may see a moment later."""
        return json.loads(everyone(json.dumps(self.steps()))[0])

    # Reads go past the manager, in which all processes wait for each other: one that cannot read
    # would never come.

    def _read(self, step: int, target: Any, identity: dict[str, Any]) -> Restored:
        about = self._read_about(step, identity)
        args = ocp.args.StandardRestore(target)
        state = ocp.StandardCheckpointHandler().restore(self._item(step, "state"), args=args)
        return Restored(step, state, about)

    def _read_about(self, step: int, identity: dict[str, Any]) -> dict[str, Any]:
        if (self.folder / str(step) / "default").is_dir():
            raise ForeignRunError(
                f"n2m.train: {self.folder / str(step)} was written by an older version; train on "
                "in a new run folder with --init and the weights exported here"
            )
        about = ocp.JsonCheckpointHandler().restore(self._item(step, "about"))
        check_identity(about, identity, self.folder / str(step))
        return about

    def _item(self, step: int, name: str) -> Path:
        return self.folder / str(step) / name

    def _set_aside(self, steps: list[int]) -> None:
        if steps and jax.process_index() == 0:
            self._aside.mkdir(exist_ok=True)
            for step in steps:
                free = (p for i in count(1) if not (p := self._aside / f"{step}-{i}").exists())
                (self.folder / str(step)).rename(next(free))
        if steps:
            barrier("set aside")
            self._manager.reload()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong while writing, as one line that says what is safe."""
        try:
            yield
            return
        except Exception as error:
            reason = short(error)
        whole = [p.name for p in self.folder.iterdir() if p.name.isdigit()]
        safe = f"checkpoint {max(map(int, whole))} is whole" if whole else "there is no other"
        raise CheckpointError(
            f"n2m.train: a checkpoint could not be written to {self.folder} ({reason}); {safe}"
        )


def _together(read: Callable[[], T]) -> tuple[T | None, str]:
    """(what `read` gives, "") where it gives something on every process, else (None, what is wrong
    with the files): the same answer on all, or the same ForeignRunError."""
    found: T | None = None
    foreign = wrong = ""
    try:
        found = read()
    except ForeignRunError as error:
        foreign = str(error)
    except Exception as error:  # Orbax and TensorStore raise whatever fits
        wrong = short(error)
    for said in everyone(foreign):
        if said:
            raise ForeignRunError(said)
    wrong = next(filter(None, everyone(wrong)), "")
    return (None, wrong) if wrong else (found, "")


def _check_numbers(found: Restored) -> None:
    if _checksums(found.state) != found.about["checksum"]:
        raise ValueError("its numbers are not those that were saved")


def check_identity(about: dict[str, Any], identity: dict[str, Any], where: Path) -> None:
    """ForeignRunError, naming the first value that differs."""
    for path, was, now in differences(about, identity):
        raise ForeignRunError(
            f"n2m.train: {where} is of another model: {path} is {was!r} there and {now!r} here; "
            "use another run folder"
        )


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of every value of `new` that `old` has otherwise or not at all."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in new.items():
            yield from differences(old.get(name), value, f"{path}.{name}" if path else name)
    elif old != new:
        yield path, old, new


def _checksums(state: Any) -> dict[str, str]:
    """The checksum of each part of a TrainState, so that the average can be read by itself."""
    return {name: checksum(part) for name, part in state._asdict().items()}


def checksum(state: Any) -> str:
    """16 hex digits that change with any bit of any tensor, and with no sharding."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    names = "".join(jax.tree_util.keystr(path) for path, _ in leaves)
    # One after the other: on CPUs of several processes, programs that wait for their neighbours
    # fill the threads that these need.
    sums = np.array([jax.block_until_ready(_sum(leaf)) for _, leaf in leaves], np.uint32)
    return f"{zlib.crc32(names.encode()):08x}{zlib.crc32(sums.tobytes()):08x}"


@jax.jit
def _sum(x: Array) -> Array:
    """One program a shape: parameters, average and moments share theirs."""
    bits = lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jnp.uint32(stride % 2**32) * lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        stride *= x.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (place * jnp.uint32(2654435761) + 1))


def short(error: BaseException) -> str:
    """The first line of what is at the root of an error, without the folders of files."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = re.sub(r'"[^"]*/([^"/]*)/?"', r'"\1"', lines[0].partition(" [source")[0])
    return text if len(text) <= 300 else text[:147] + "..." + text[-150:]
