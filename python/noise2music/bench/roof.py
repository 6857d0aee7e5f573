"""What this machine can do, measured on the spot: a large matrix product and a large copy."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.bench import device


@dataclasses.dataclass(frozen=True)
class Roof:
    """flops: operations a second of the best matrix product, by dtype. copy: bytes a second, read
    and written, of the best copy. how: who was the best."""

    flops: dict[str, float]
    copy: float
    how: dict[str, str]

    def seconds(self, bytes_moved: float, flops: float, dtype: str) -> float:
        """The roofline's bound: max(bytes / copy, flops / rate)."""
        return max(bytes_moved / self.copy, flops / self.flops[dtype])

    def highest(self, other: Roof) -> Roof:
        """The higher of two runs' roofs, each figure with who reached it."""
        flops, how = {**other.flops, **self.flops}, {**other.how, **self.how}
        for dtype, rate in other.flops.items():
            if rate > flops[dtype]:
                flops[dtype], how[dtype] = rate, other.how[dtype]
        if other.copy > self.copy:
            how["copy"] = other.how["copy"]
        return Roof(flops, max(self.copy, other.copy), how)


def measure(dtypes: tuple[str, ...], *, size: int = 2048, megabytes: int = 256) -> Roof:
    """n x n x n products and copies of an array far above the caches; the fastest of a few.
    On a GPU sizes that fill it, in device time, and always the same."""
    flops, how = {}, {}
    if device.on_gpu():
        size, megabytes = 8192, 1024
    for dtype in dtypes:
        best = _fastest(_products(dtype, size))
        flops[dtype], how[dtype] = 2.0 * size**3 / best[0], best[1]
    best = _fastest(_copies(megabytes << 20))
    how["copy"] = best[1]
    return Roof(flops, 2.0 * (megabytes << 20) / best[0], how)


def _fastest(calls: dict[str, Callable[[], Any]]) -> tuple[float, str]:
    found = []
    for name, call in calls.items():
        if device.on_gpu():
            found.append((min(device.seconds_on_device(call) for _ in range(3)), name))
            continue
        call()
        times = []
        for _ in range(9):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        found.append((min(times), name))  # a roof is what can be reached, not what is usual
    return min(found)


def _products(dtype: str, size: int) -> dict[str, Callable[[], Any]]:
    values = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    a = jnp.asarray(values).astype(dtype)
    dot = jax.jit(lambda a: a @ a)
    calls: dict[str, Callable[[], Any]] = {"XLA": lambda: jax.block_until_ready(dot(a))}
    if device.on_gpu():
        return calls
    if dtype == "float32":
        calls["NumPy"] = lambda: values @ values
    if importlib.util.find_spec("torch"):
        import torch

        b = torch.from_numpy(values).to(getattr(torch, dtype))
        calls["PyTorch"] = lambda: b @ b
    return calls


def _copies(size: int) -> dict[str, Callable[[], Any]]:
    x = jnp.ones(size // 4, jnp.float32)
    negative = jax.jit(lambda x: -x)
    if device.on_gpu():
        return {"XLA": lambda: jax.block_until_ready(negative(x))}
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    target[:] = 0  # the pages exist before they are timed
    cores = len(os.sched_getaffinity(0))
    cuts = np.linspace(0, size, cores + 1).astype(int)

    def copy() -> None:
        def part(i: int) -> None:  # NumPy lets go of the interpreter's lock while it copies
            np.copyto(target[cuts[i] : cuts[i + 1]], source[cuts[i] : cuts[i + 1]])

        threads = [threading.Thread(target=part, args=(i,)) for i in range(cores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {"XLA": lambda: jax.block_until_ready(negative(x)), "memcpy": copy}
