r"""Noise schedules (appendix A.1) and denoising step schedules (appendix A.2, Table 8).

q(x_t | x) = N(alpha_t x, sigma_t^2 I)  (Equation 2), alpha_t = sqrt(1 - sigma_t^2),
lambda_t = ln(alpha_t^2 / sigma_t^2)  (Equation 3), t in [0, 1].

Every function takes numpy float64 (step coefficients) or jax arrays (training) and answers in kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BETA_0, BETA_1 = 1e-4, 0.02  # Ho et al. 2020: beta ramps over 1000 steps
_B = math.atan(math.exp(-10.0))
_A = math.atan(math.exp(10.0)) - _B


def _np(t: Any) -> Any:
    return jnp if isinstance(t, jax.Array) else np


def alpha_sigma(schedule: str, t: Any) -> tuple[Any, Any]:
    r"""(alpha_t, sigma_t) for t in [0, 1], any shape.

    linear:  log alpha_t^2 = -1000 (beta_0 t + (beta_1 - beta_0) t^2 / 2)
             (Ho et al. 2020 in continuous time; Equation 5 as printed leaves sigma_1^2 = 0.02,
             from which sampling fails: docs/design/paper_faults.md)
    cosine:  alpha_t = cos(a t + b)   (Equation 6), lambda_0 = 20, lambda_1 = -20.
    """
    xp = _np(t)
    if schedule == "linear":
        log_alpha2 = -1000.0 * (BETA_0 * t + 0.5 * (BETA_1 - BETA_0) * t * t)
        return xp.exp(0.5 * log_alpha2), xp.sqrt(-xp.expm1(log_alpha2))
    if schedule == "cosine":
        return xp.cos(_A * t + _B), xp.sin(_A * t + _B)
    raise ValueError(f"n2m.schedules: schedule must be 'linear' or 'cosine', got {schedule!r}")


def table8(stage: str, name: str) -> list[tuple[float, int]]:
    """A denoising schedule of Table 8 as segments.

    front_heavy, back_heavy (front_heavy reversed), uniform, or the spectrogram generator's
    back_heavy_eval. ValueError names those that the stage has.
    """
    path = resources.files("noise2music") / "presets" / "table8.json"
    lists = json.loads(path.read_text(encoding="utf-8")).get(stage)
    if lists is None:
        raise ValueError(f"n2m.schedules: stage must be one of the five of Table 8, got {stage!r}")
    lists = lists | {"back_heavy": lists["front_heavy"][::-1]}
    if name not in lists:
        raise ValueError(
            f"n2m.schedules: the denoising schedule of {stage} must be one of "
            f"{', '.join(sorted(lists))}, got {name!r}"
        )
    return [(float(total), int(n)) for total, n in lists[name]]


def denoising_times(segments: Sequence[tuple[float, int]], steps: int | None = None) -> np.ndarray:
    r"""0 = t_0 < ... < t_N = 1 from Table 8's segments, float64 (N + 1,).

    A segment is [total time, number of steps].

    t_n = sum_{i<=n} delta_i, delta constant within a segment. `steps` rescales the schedule to
    N = steps: the same curve t(n / N), piecewise linear, read at N + 1 even positions.
    """
    total = sum(n for _, n in segments)
    if total < 1 or any(n < 1 or not d > 0 for d, n in segments):
        raise ValueError(
            "n2m.schedules: every segment must be (time > 0, steps >= 1), got "
            + repr(list(segments))
        )
    times = np.cumsum([0.0] + [d for d, _ in segments])
    if not math.isclose(times[-1], 1.0, rel_tol=1e-9):
        raise ValueError(f"n2m.schedules: the times must add up to 1, got {times[-1]}")
    knots = np.cumsum([0] + [n for _, n in segments]) / total
    n = total if steps is None else steps
    if n < 1:
        raise ValueError(f"n2m.schedules: steps must be at least 1, got {n}")
    t = np.interp(np.arange(n + 1) / n, knots, times / times[-1])
    t[0], t[-1] = 0.0, 1.0
    return t


def check_times(t: Any) -> np.ndarray:
    """A step list of the user's: 0 = t_0 < t_1 < ... < t_N = 1."""
    t = np.asarray(t, np.float64)
    if t.ndim != 1 or t.size < 2 or t[0] != 0.0 or t[-1] != 1.0 or not np.all(np.diff(t) > 0):
        raise ValueError(
            "n2m.schedules: times must rise strictly from 0 to 1 (at least two values), got "
            + repr(t)
        )
    return t
