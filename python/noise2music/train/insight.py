"""What a run tells of itself: its log, its speed, and the validation loss by diffusion time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from noise2music.data.prepare.records import WriteError, write_text
from noise2music.errors import import_extra
from noise2music.train.step import Networks, draw

BUCKETS = 5  # of t, equal parts of [0, 1]
# Multiply-adds count two. Makers' figures for bfloat16 without sparsity, a chip.
_PEAKS = {"TPU v4": 275e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12}


class Log:
    """`log.jsonl`, one line a `log_every` steps; on request TensorBoard's event files as well.

    A run that goes on from step n drops what an interrupted one wrote after it, so that no step is
    in the log twice and none is missing.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False):
        self.path = run / "log.jsonl"
        self._events = _events(run / "tensorboard", step) if tensorboard else None
        kept = [json.dumps(row) for row in read_log(self.path) if row["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise WriteError(self.path, error) from error
        if self._events is not None:
            for name, value in scalars(row).items():
                self._events.add_scalar(name, value, row["step"])
            self._events.flush()

    def sync(self) -> None:
        """Returns when all lines are on disk: a checkpoint must not be newer than its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _events(folder: Path, step: int) -> Any:
    """TensorBoard's writer; what it has after `step` is void."""
    module = import_extra(
        "tensorboardX",
        extra="pip install 'noise2music[tensorboard]' (or pip install tensorboardX)",
        purpose="--tensorboard",
    )
    return module.SummaryWriter(str(folder), purge_step=step + 1)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. A last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a log line but step and time; a list gives name/0, name/1, ..."""
    out: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            out |= {f"{name}/{i}": v for i, v in enumerate(value) if v is not None}
        elif name not in ("step", "time"):
            out[name] = value
    return out


class Meter:
    """Clips a second, share of the time spent waiting for data, and model FLOP/s utilisation.

    utilisation = FLOPs of a step / (seconds of a step * peak). The FLOPs are those of the plain-XLA
    program of one step, as XLA counts them before it optimises.
    """

    def __init__(self, batch_size: int, flops: float, peak: float):
        self._batch_size, self._flops, self._peak = batch_size, flops, peak
        self.reset()

    def reset(self) -> None:
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self, waited: float) -> None:
        """One step was taken; `waited` seconds were spent on its batch."""
        self._steps += 1
        self._waited += waited

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in here is no part of training: validation, demos."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """What was measured since the last call."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        out = {
            "clips_per_second": _digits(self._batch_size * self._steps / seconds),
            "data_wait": _digits(self._waited / seconds),
            "utilisation": _digits(self._flops * self._steps / (seconds * self._peak)),
        }
        self.reset()
        return out


def flops_of(step: Any, state: Any, batch: Any) -> float:
    """Operations of one call of a jitted step, as XLA counts them; nothing is compiled."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, batch))
    analysis = step.lower(*shapes).cost_analysis() or {}
    return float(analysis.get("flops", 0.0))


def peak_flops(dtype: str) -> float:
    """Operations a second that all devices together can do.

    From a table where the chip is in it and computes in bfloat16, else the best of a few large
    matrix products on the spot. Host devices share their cores and count as one.
    """
    device = jax.devices()[0]
    for name, peak in _PEAKS.items():
        if name in device.device_kind and dtype == "bfloat16":
            return peak * jax.device_count()
    size = 1024 if device.platform == "cpu" else 8192
    x = jax.device_put(jnp.ones((size, size), dtype), jax.local_devices()[0])
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - start)
    devices = jax.process_count() if device.platform == "cpu" else jax.device_count()
    return 2.0 * size**3 / min(times) * devices


class Validation:
    """The loss of the averaged weights on fixed clips, noise and times, in all and by t.

    The N clips of all batches have the times (i + 1/2) / N, so every bucket of t has its share.
    """

    def __init__(self, networks: Networks, batches: list[Any]):
        self._batches = batches
        sizes = [b["x"].shape[0] for b in batches]
        total = sum(sizes)
        # Batch b gets the times b, b + n, b + 2n, ...: each spans [0, 1].
        self._times = [
            ((np.arange(size) * len(batches) + b + 0.5) / total).astype(np.float32)
            for b, size in enumerate(sizes)
        ]

        def losses(params: Any, batch: dict[str, Array], t: Array, seed: Array) -> Array:
            draws = draw(jax.random.key(seed), t.shape[0], 0.0)._replace(t=t)
            batch, draws = networks.on_mesh("activation", (batch, draws))
            return networks.losses(params, batch, draws)

        whole = None
        if networks.mesh is not None:
            whole = jax.sharding.NamedSharding(networks.mesh, jax.sharding.PartitionSpec())
        self._losses = jax.jit(losses, out_shardings=whole)

    def __call__(self, ema: Any) -> dict[str, Any]:
        """validation_loss, and validation_by_t: BUCKETS means (None where no clip fell)."""
        found = [
            jax.block_until_ready(self._losses(ema, batch, t, np.uint32(i)))
            for i, (batch, t) in enumerate(zip(self._batches, self._times, strict=True))
        ]
        loss = np.concatenate([np.asarray(a) for a in jax.device_get(found)])
        bucket = np.minimum((np.concatenate(self._times) * BUCKETS).astype(int), BUCKETS - 1)
        by_t = [loss[bucket == b] for b in range(BUCKETS)]
        return {
            "validation_loss": float(loss.mean()),
            "validation_by_t": [float(a.mean()) if a.size else None for a in by_t],
        }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
