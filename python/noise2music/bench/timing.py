"""Timing of several contenders in one run, in turn, so that a disturbance meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

PAUSE = 0.003  # seconds between contenders: threads of a pool that spins go to sleep
ROUND = 0.04  # seconds of timed calls a contender gets at a turn


def interleave(
    calls: Mapping[str, Callable[[], object]], *, seconds: float, least: int = 5
) -> dict[str, list[float]]:
    """Seconds of each timed call, a list a contender: A B A B until `seconds` have passed.

    Every turn begins with a call that is not timed, so that the caches hold what this contender
    reads. `least`: rounds that are made at any rate.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, min(50, round(ROUND / (time.perf_counter() - start))))
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()
            for _ in range(repeats[name]):
                start = time.perf_counter()
                call()
                samples[name].append(time.perf_counter() - start)
        rounds += 1
    return samples


def spread(samples: list[float]) -> float:
    """Distance of the quartiles over the median: 0.02 is a quiet machine, 0.2 is not."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / middle
