"""Clips on several devices: a mesh `data x time` (docs/design/sequence_sharding.md).

    data   splits the clips of a batch
    time   splits each clip: device i of n holds the i-th n-th of it at every level of the U-Net

A mesh is written "data=2,time=2"; an axis that is left out has size 1. Clips are the same on any
mesh, to rounding.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noise2music.arguments import MAX_SECONDS, MIN_SECONDS
from noise2music.config import MEL_HOP, StageConfig
from noise2music.errors import UserError, unknown_name

AXES = ("data", "time")
CLIPS = PartitionSpec("data")
PIECES = PartitionSpec("data", "time")


def parse_sizes(
    spec: str, axes: Sequence[str], fail: Callable[[str], Exception], example: str
) -> dict[str, int]:
    """Sizes by axis of "data=2,time=2". Raises fail(what is wrong) for what is no such text."""
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        name, _, value = (p.strip() for p in part.partition("="))
        if name not in axes:
            near = difflib.get_close_matches(name, axes, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise fail(f"mesh has the axes {', '.join(axes)}, got {name!r}{hint}")
        if not value.isdecimal() or int(value) < 1 or name in sizes:
            raise fail(
                f"mesh must give each axis one positive size, as in {example!r}, got {spec!r}"
            )
        sizes[name] = int(value)
    return sizes


def nearest_sizes(
    shape: Sequence[int], axes: Sequence[str], candidates: Iterable[tuple[int, ...]]
) -> str:
    """Of the legal sizes the one with the least change, counted in doublings; the first axis gives
    way first."""

    def change(sizes: tuple[int, ...]) -> float:
        steps = (abs(math.log2(a / b)) for a, b in zip(sizes, shape, strict=True))
        return sum((1 + 0.01 * i) * step for i, step in enumerate(steps))

    best = min(candidates, key=change)
    return ",".join(f"{axis}={size}" for axis, size in zip(axes, best, strict=True))


def make_mesh(spec: str | Mesh, devices: Sequence[Any]) -> Mesh:
    """A mesh data x time of the first of `devices`; of a jax Mesh, the same with both axes.

    Raises UserError for an unknown axis, a size that is no positive integer, and more devices than
    there are; the message names the nearest legal mesh.
    """
    if isinstance(spec, Mesh):
        unknown = ",".join(f"{axis}=1" for axis in spec.axis_names)
        parse_sizes(unknown, AXES, UserError, "data=2,time=2")
        order = [spec.axis_names.index(axis) for axis in AXES if axis in spec.axis_names]
        shape = tuple(spec.shape.get(axis, 1) for axis in AXES)
        return Mesh(np.transpose(spec.devices, order).reshape(shape), AXES)
    sizes = parse_sizes(spec, AXES, UserError, "data=2,time=2")
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    if math.prod(shape) > len(devices):
        legal = (s for n in range(1, len(devices) + 1) for s in _factors(n))
        raise UserError(
            f"mesh {spec!r} takes {math.prod(shape)} devices, but this machine has {len(devices)}; "
            f"the nearest that fits is {nearest_sizes(shape, AXES, legal)!r}{more_devices(devices)}"
        )
    return _mesh(shape, devices)


def choose_mesh(devices: Sequence[Any], clips: int, units: Iterable[int]) -> Mesh:
    """All `devices` on `clips` clips of stages with so many units each (`units_of`): the mesh on
    which a device has least to do. Time is split where it divides; a batch may be filled up."""
    together = math.gcd(*units)
    legal = [s for s in _factors(len(devices)) if together % s[1] == 0]
    return _mesh(min(legal, key=lambda s: (math.ceil(clips / s[0]) / s[1], s[1])), devices)


def _mesh(shape: tuple[int, ...], devices: Sequence[Any]) -> Mesh:
    first = list(devices[: math.prod(shape)])
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * 2, devices=first)


def _factors(count: int) -> Iterator[tuple[int, int]]:
    return ((n, count // n) for n in range(1, count + 1) if count % n == 0)


def devices_of(device: str | None, least: int) -> list[Any]:
    """The devices of a platform, from the one that is named on; at least so many."""
    platform, _, number = (device or jax.default_backend()).partition(":")
    if platform not in ("cpu", "gpu", "cuda", "tpu"):
        raise unknown_name("device", device, ("cpu", "gpu", "tpu"))
    try:
        found = jax.local_devices(backend=platform)
    except RuntimeError as error:
        here = sorted({d.platform for d in jax.local_devices()})
        raise UserError(
            f"device {device!r} is not on this machine, which has: {', '.join(here)}"
        ) from error
    if number:
        if not number.isdigit() or int(number) >= len(found):
            raise UserError(
                f"device {device!r} must be {platform}:0 to {platform}:{len(found) - 1}"
            )
        found = found[int(number) :]
    if least > len(found):
        raise UserError(
            f"devices must be at most {len(found)} on this machine, got {least}"
            f"{more_devices(found)}"
        )
    return found


def more_devices(devices: Sequence[Any]) -> str:
    """What to do where these are too few, "" if nothing."""
    if devices[0].platform != "cpu":
        return ""
    return (
        '. A CPU is one device unless jax.config.update("jax_num_cpu_devices", n) comes first '
        "(see docs/python.md)"
    )


def units_of(config: StageConfig, length: int) -> int:
    """Rows at the bottom of the U-Net for a target of this length: what time has to divide."""
    return config.legal_length(length) // config.unet.compression


def target_length(config: StageConfig, seconds: float) -> int:
    """Frames or samples that a stage of the cascade makes: a whole number of mel frames (10 ms),
    so that 3.2, 16 and 24 kHz all have whole samples."""
    n16 = math.ceil(seconds * 16_000 / MEL_HOP) * MEL_HOP
    return round(n16 * config.rate / 16_000)


def check_clips(data: int, clips: int) -> None:
    """Raises UserError where the size of data does not divide the clips."""
    if clips % data:
        nearest = data * max(1, round(clips / data))
        sizes = [n for n in range(1, clips + 1) if clips % n == 0]
        size = min(sizes, key=lambda n: abs(math.log2(n / data)))
        raise UserError(
            f"data={data} of mesh must divide the clips, which are {clips}; the nearest that does "
            f"is data={size}, the nearest number of clips {nearest}"
        )


def check_length(mesh: Mesh, config: StageConfig, length: int) -> None:
    """Raises UserError where time does not divide a target of this length."""
    time, unit = mesh.shape["time"], config.unet.compression
    units = units_of(config, length)
    if units % time:
        nearest = time * max(1, round(units / time)) * unit
        raise UserError(
            f"time={time} of mesh must divide the {units} units of {unit} that {config.name} makes "
            f"of a length of {length}; the nearest that does is time={_nearest_time(time, units)}, "
            f"the nearest length {nearest}"
        )


def check_seconds(mesh: Mesh, configs: Sequence[StageConfig], seconds: float) -> None:
    """Raises UserError where time does not divide what each of the stages makes of `seconds`; the
    message names the nearest length that all can split."""
    time = mesh.shape["time"]
    units = {c.name: units_of(c, target_length(c, seconds)) for c in configs}
    wrong = [name for name, n in units.items() if n % time]
    if not wrong:
        return
    near = nearest_seconds(time, configs, seconds)
    length = "" if near is None else f", the nearest length of the clip {near:g} seconds"
    size = _nearest_time(time, math.gcd(*units.values()))
    raise UserError(
        f"time={time} of mesh must divide the clip at every stage, but {seconds:g} seconds are "
        f"{units[wrong[0]]} units of {wrong[0]}; the nearest that divides is time={size}{length}"
    )


def nearest_seconds(time: int, configs: Sequence[StageConfig], seconds: float) -> float | None:
    """The nearest length that time divides at each of the stages, None if there is none."""

    def legal(frame: int) -> bool:
        return all(units_of(c, target_length(c, frame / 100)) % time == 0 for c in configs)

    first, last = (round(100 * s) for s in (MIN_SECONDS, MAX_SECONDS))
    frames = [f for f in range(first, last + 1) if legal(f)]
    return min(frames, key=lambda f: (abs(f - 100 * seconds), -f)) / 100 if frames else None


def _nearest_time(time: int, units: int) -> int:
    legal = (n for n in range(1, units + 1) if units % n == 0)
    return min(legal, key=lambda n: abs(math.log2(n / time)))


def place(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    """Arrays with this spec on the mesh."""
    return NamedSharding(mesh, spec)
