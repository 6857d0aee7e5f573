"""Rows of whole networks: a U-Net step, a training step, the sampler's loop of a preset."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from noise2music import config
from noise2music.bench import device, shapes, timing
from noise2music.bench.ops import Row
from noise2music.bench.roof import Roof

KINDS = ("unet", "train", "sampler")
# Copies of the weights that live at once: a training step has the weights, their average, two
# moments, gradients and updates.
_COPIES = {"unet": 1.3, "sampler": 1.3, "gradient": 2.3, "train": 6.3}
_ROOM = 2.0e9  # for activations, the programs and Python


@dataclasses.dataclass(frozen=True)
class Network:
    """One row to time: kind of step, preset, dtype, length of the clip (None: of its training)."""

    kind: str
    preset: str
    dtype: str
    clip_seconds: float | None = None
    batch: int | None = None  # clips at once; None: one

    @property
    def case_name(self) -> str:
        return self.preset

    @property
    def command(self) -> str:
        options = shapes.options_of(self.batch, self.clip_seconds)
        return f"noise2music bench {self.kind} --case {self.preset} --dtype {self.dtype}{options}"


class DoesNotFit(RuntimeError):
    """The machine has too little memory for this row."""


def measure(network: Network, roof: Roof, *, seconds: float, least: int) -> Row:
    """The time of both in one process, then, on a CPU, the memory of each in one of its own.

    Where a training step does not fit, its loss and gradients alone are measured and the row says
    "gradient". Raises DoesNotFit where even that is too much.
    """
    from noise2music import unet1d

    stage = config.load_preset(network.preset)
    weights = 4.0 * unet1d.count_parameters(stage.unet)
    kinds = ("train", "gradient") if network.kind == "train" else (network.kind,)
    available = _available()
    fitting = [k for k in kinds if _COPIES[k] * weights + _ROOM <= available]
    if not fitting:
        need = min(_COPIES[k] for k in kinds) * weights + _ROOM
        raise DoesNotFit(
            f"{network.kind} of {network.preset} needs about {need / 1e9:.0f} GB of memory, "
            f"{available / 1e9:.0f} GB are free"
        )
    spec = {
        "kind": fitting[0],
        "preset": network.preset,
        "dtype": network.dtype,
        "clip_seconds": network.clip_seconds or stage.train_seconds,
        "batch": network.batch or 1,
        "platform": device.chosen(),
    }
    timed = _child({**spec, "seconds": seconds, "least": least})
    # What the process holds says nothing of the memory of a GPU.
    weighed = {
        name: _child({**spec, "task": "memory", "contender": name})
        for name in (() if device.on_gpu() else ("ours", "xla"))
    }
    median = {name: statistics.median(times) for name, times in timed["seconds"].items()}
    ours, flops = median["ours"], timed["flops"]
    return Row(
        op=fitting[0],
        case=network.preset,
        dtype=network.dtype,
        passes="step",
        seconds=median,
        spread={name: timing.spread(times) for name, times in timed["seconds"].items()},
        gbytes_per_second=0.0,
        gflops=flops / ours / 1e9,
        roof_percent=100 * flops / roof.flops[network.dtype] / ours,
        error=timed["error"],
        command=network.command,
        memory={name: w["beyond"] for name, w in weighed.items()},
        idle=timed.get("idle", {}),
    )


def _child(spec: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "noise2music.bench.child", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0 or "RESOURCE_EXHAUSTED" in done.stderr:
        raise DoesNotFit(f"{spec['kind']} of {spec['preset']} ran out of memory")
    if done.returncode:
        raise RuntimeError(f"n2m.bench: {spec['kind']} of {spec['preset']}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _available() -> float:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return float("inf")
