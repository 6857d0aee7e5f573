"""`--devices` and `--mesh`: how many devices make the clips, and how they share them."""

from __future__ import annotations

import contextlib
import math
import os

from noise2music import arguments
from noise2music.errors import UserError

_MOST_CPUS = 64  # devices that one CPU is shown as


def spread(clips: int, at_once: int, devices: int, mesh: str | None) -> int:
    """Readies the devices; how many of the clips to make at once. Call it before jax runs.

    Raises UserError for a count or mesh that is none, and where the mesh does not divide the clips.
    """
    devices = arguments.check_count(devices, name="--devices", maximum=1024)
    if mesh is None:
        _show_cpus(devices)
        return max(at_once, devices)
    from noise2music.mesh import AXES, check_clips, parse_sizes

    sizes = parse_sizes(mesh, AXES, UserError, "data=2,time=2")
    data = sizes.get("data", 1)
    check_clips(data, clips)
    _show_cpus(math.prod(sizes.values()))
    return max(at_once, data) // data * data


def _show_cpus(count: int) -> None:
    """Makes the CPU show itself as `count` devices; other platforms have what they have."""
    asked = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if asked or not 1 < count <= _MOST_CPUS:
        return
    import jax

    with contextlib.suppress(RuntimeError):  # jax runs already; the pipeline counts what it has
        jax.config.update("jax_num_cpu_devices", count)
