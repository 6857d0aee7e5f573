"""Shards on a Ray cluster: actors that each load the model once and make shards on request.

A shard is a file on a file system that all nodes share, so nothing but its number travels, and what
a lost node was making is made again by another one.
"""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from noise2music.errors import import_extra
from noise2music.label.shards import Stage, describe, is_done, make_shard

_PATIENCE = 60.0  # seconds without any actor that works or starts


class RayRunner:
    """As `shards.Processes`, on a cluster.

    address: auto (the cluster this machine is part of), local (a new one of this machine alone) or
    ray://HOST:PORT. count: actors at most, cpus: processors of each, gpus: GPUs of each.
    """

    def __init__(self, address: str, count: int, *, cpus: float = 1.0, gpus: float = 0.0):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        self._ray: Any = import_extra(
            "ray", extra="pip install 'noise2music[label-ray]'", purpose="running on Ray"
        )
        self.count = count
        if not self._ray.is_initialized():
            where = {} if address == "local" else {"address": address}
            self._ray.init(
                log_to_driver=False, include_dashboard=False if not where else None, **where
            )
        self._actor = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Maker)

    def attempt(
        self, stage: Stage, folder: Path, shards: Iterable[int], done: Callable[[int], None]
    ) -> dict[int, str]:
        ray = self._ray
        queue = collections.deque(shards)
        failed: dict[int, str] = {}
        workers = min(self.count, len(queue))
        starting: dict[Any, Any] = {}  # reference -> actor
        flying: dict[Any, tuple[Any, int]] = {}  # reference -> actor, shard
        idle: list[Any] = []
        began = time.monotonic()
        try:
            while queue or flying:
                while len(starting) + len(flying) + len(idle) < workers:
                    actor = self._actor.remote(stage, folder)
                    starting[actor.ready.remote()] = actor
                while queue and idle:
                    actor, shard = idle.pop(), queue.popleft()
                    flying[actor.make.remote(shard)] = actor, shard
                if flying or idle:
                    began = time.monotonic()
                elif time.monotonic() - began > _PATIENCE:
                    why = f"no node started an actor within {_PATIENCE:g} s"
                    return failed | dict.fromkeys(queue, why)
                ready, _ = ray.wait([*starting, *flying], timeout=1.0)
                for reference in ready:
                    if reference in starting:
                        actor = starting.pop(reference)
                        if self._result(reference) is None:
                            idle.append(actor)
                        continue
                    actor, shard = flying.pop(reference)
                    why, lost = self._result(reference), False
                    if isinstance(why, ray.exceptions.RayError):
                        why, lost = describe(why).partition(". ")[0], True
                    if not lost:
                        idle.append(actor)
                    if why is None or is_done(folder, stage, shard):
                        done(shard)
                    else:
                        failed[shard] = str(why)
        finally:
            for actor in [*starting.values(), *(a for a, _ in flying.values()), *idle]:
                ray.kill(actor)
        return failed

    def _result(self, reference: Any) -> Any:
        """What the actor returned, or the error by which it was lost."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return error

    def close(self) -> None:
        self._ray.shutdown()

    def __enter__(self) -> RayRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Maker:
    """In a process of the cluster."""

    def __init__(self, stage: Stage, folder: Path):
        self._stage, self._folder, self._loaded, self._has = stage, folder, None, False

    def ready(self) -> None:
        """Returns as soon as the process is there."""

    def make(self, shard: int) -> str | None:
        """Why the shard failed, or None."""
        try:
            if not self._has:
                self._loaded, self._has = self._stage.load(), True
            make_shard(self._stage, self._folder, shard, self._loaded)
            return None
        except Exception as error:
            return describe(error)
