"""The rooms and their cases, for every test in this folder."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from noise2music import kernels
from noise2music.kernels.common import native
from noise2music.kernels.common.cases import Case, normal

ROOMS = tuple(kernels.OPS)
HAS_NATIVE = not native.why_missing()
IMPLEMENTATIONS = ("native", "reference") if HAS_NATIVE else ("reference",)


@cache
def cases_of(room: str) -> ModuleType:
    return importlib.import_module(f"noise2music.kernels.{room}.cases")


def small_cases(room: str) -> list[Case]:
    return [case for case in cases_of(room).CASES if not case.hot]


def case_named(room: str, name: str) -> Case:
    return next(case for case in cases_of(room).CASES if case.name == name)


def flat(result: Any) -> list[Any]:
    """The outputs of a public function as a list without the absent ones."""
    outputs = result if isinstance(result, tuple | list) else (result,)
    return [y for y in outputs if y is not None]


def as_float64(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def error(got: Any, exact: Any) -> float:
    """Largest difference relative to the largest exact value; 0 for empty arrays."""
    exact = as_float64(exact)
    if exact.size == 0:
        return 0.0
    difference = np.abs(as_float64(got) - exact).max()
    return float(difference / max(np.abs(exact).max(), 1e-30))


def cotangents(case: Case, outputs: list[Any]) -> list[Any]:
    """Fixed random cotangents. Those of sums are small, since sums are large."""
    scales = [
        1.0 if i == 0 or y.ndim != 3 or y.shape[-1] != 2 else 1e-2 for i, y in enumerate(outputs)
    ]
    return [
        normal(case, f"cotangent {i}", y.shape, y.dtype, scale)
        for i, (y, scale) in enumerate(zip(outputs, scales, strict=True))
    ]
