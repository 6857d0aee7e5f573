"""Seconds a clip of a sweep's settings, for Figure 3; a later run adds to those of an earlier one.

A line of `times.jsonl` is one batch of four clips: the setting, its seconds a clip, and the
machine. Removing the file takes all times anew.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from noise2music.cascade import AT_ONCE
from noise2music.errors import OutputError
from noise2music.evaluate.sweep import AS_SHIPPED, Setting, Sweep


class Time(NamedTuple):
    """One batch: seconds a clip, and where."""

    seconds: float
    machine: str


def take(
    sweep: Sweep,
    settings: Sequence[Setting],
    *,
    wanted: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Time]]:
    """Name -> the batches that were timed, of the model as shipped and of other numbers of steps.

    Each has a batch before the first that is not counted, in which its program is compiled. A
    setting whose clips the model gives up has no time.
    """
    path = sweep.out / "times.jsonl"
    times = _read(path)
    timed = [s for s in settings if s == AS_SHIPPED or s.parameter == "steps"]
    prompts = [item.text for item in sweep.partners[:AT_ONCE]]
    for number, setting in enumerate(timed):
        missing = wanted - len(times.get(setting.name, []))
        if missing > 0:
            try:
                sweep.generate(setting, prompts)  # compiles
                for _ in range(missing):
                    found = _time(sweep, setting, prompts)
                    times.setdefault(setting.name, []).append(found)
                    with path.open("a", encoding="utf-8") as file:
                        row = {"setting": setting.name, **found._asdict()}
                        file.write(json.dumps(row) + "\n")
            except OutputError:  # counted where its clips are made
                continue
        if progress is not None and wanted > 0:
            progress("times", number + 1, len(timed))
    return times


def _time(sweep: Sweep, setting: Setting, prompts: Sequence[str]) -> Time:
    begin = time.perf_counter()
    sweep.generate(setting, prompts)
    return Time((time.perf_counter() - begin) / len(prompts), machine())


def _read(path: Path) -> dict[str, list[Time]]:
    times: dict[str, list[Time]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            times.setdefault(row.pop("setting"), []).append(Time(**row))
    return times


def machine() -> str:
    """The device's kind; of a processor its name, as far as it tells, and the cores in use."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    names = [platform.processor() or platform.machine()]
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8").splitlines()
        names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")] or names
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return f"{names[0]}, {cores} core{'s' if cores != 1 else ''}"
