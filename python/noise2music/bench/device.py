"""Time on a GPU: what the kernels of a call take there, not what Python takes to queue them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from noise2music.errors import UserError

PLATFORMS = ("cpu", "cuda")
CALLS = 10  # a trace
TRACES = 3


def use(platform: str | None) -> None:
    """Makes this platform JAX's default; None keeps JAX's choice. UserError where there is none."""
    if platform is None:
        return
    if platform not in PLATFORMS:
        raise UserError(f"platform must be one of {', '.join(PLATFORMS)}, got {platform!r}")
    try:
        first = jax.devices(platform)[0]
    except RuntimeError as error:
        raise UserError(f"JAX sees no {platform} device here: {error}") from error
    jax.config.update("jax_default_device", first)


def chosen() -> str | None:
    """The platform that `use` was told; None where the choice is JAX's."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = getattr(device, "platform", device)
    return "cuda" if platform == "gpu" else platform


def on_gpu() -> bool:
    """Whether JAX computes on a GPU unless told otherwise."""
    return (chosen() or jax.default_backend()) in ("gpu", "cuda")


def busy_and_span(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """(time in which at least one interval runs, time from the first start to the last end).

    Kernels on several streams may overlap, and memory copies with them: a sum would count twice.
    """
    ordered = sorted(intervals)
    if not ordered:
        return 0.0, 0.0
    busy, end = 0.0, ordered[0][0]
    for start, stop in ordered:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy, end - ordered[0][0]


def kernel_intervals(folder: Path) -> list[tuple[float, float]]:
    """(start, end) in seconds of everything that ran on a GPU, from a trace that JAX wrote."""
    (path,) = folder.glob("**/*.xplane.pb")
    found = []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):  # the others are sums by module and by name
                found += [
                    (e.start_ns * 1e-9, (e.start_ns + e.duration_ns) * 1e-9) for e in line.events
                ]
    return found


def seconds_on_device(call: Callable[[], object], calls: int = CALLS) -> float:
    """Busy seconds of the GPU for one call; CUPTI sees PyTorch's kernels as it sees XLA's.

    Raises RuntimeError where a trace holds no kernel.
    """
    return _traced(call, calls)[0] / calls


def idle_share(call: Callable[[], object]) -> float:
    """Of the time from the first kernel of a call to its last, the part in which none runs.

    Raises RuntimeError where a trace holds no kernel.
    """
    busy, span = _traced(call, 1)
    return 1.0 - busy / span


def _traced(call: Callable[[], object], calls: int) -> tuple[float, float]:
    call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        busy, span = busy_and_span(kernel_intervals(Path(folder)))
    if busy == 0.0:
        raise RuntimeError("n2m.bench: the profiler must see kernels on the GPU, got none")
    return busy, span


def interleave(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Device seconds of each contender, traced in turn: a list of TRACES means of CALLS calls."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TRACES):
        for name, call in calls.items():
            samples[name].append(seconds_on_device(call))
    return samples
