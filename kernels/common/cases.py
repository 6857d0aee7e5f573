"""What a room's ``cases.py`` is made of. Tests and benchmarks read the same cases."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One named shape of an op.

    Attributes:
      name: unique in its room. Every room has "small", "length_1", "empty_batch" and "primes".
      shape: axis letter -> size, for instance {"B": 2, "T": 100, "C": 64}.
      options: keyword arguments of the public function besides the arrays.
      hot: a shape of a full-size preset: benchmarked, too large for the tests.
    """

    name: str
    shape: Mapping[str, int]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hot: bool = False

    def __getattr__(self, axis: str) -> int:
        try:
            return self.shape[axis]
        except KeyError:
            raise AttributeError(axis) from None


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one forward call: the least bytes moved, and floating-point operations."""

    bytes: int
    flops: int


def normal(case: Case, name: str, shape: tuple[int, ...], dtype: Any, scale: float = 1.0) -> Any:
    """Standard normal numbers times ``scale``; the same for a case and name on any machine."""
    seed = zlib.crc32(f"{case.name}/{name}".encode())
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return jnp.asarray(values.astype(np.float32)).astype(dtype)


def itemsize(dtype: Any) -> int:
    return int(jnp.dtype(dtype).itemsize)


def to_float64(tree: Any) -> Any:
    """Every floating-point array as float64; call it inside ``jax.enable_x64(True)``."""

    def wide(x: Any) -> Any:
        if not jax.dtypes.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(np.asarray(x.astype(jnp.float32)), jnp.float64)

    return jax.tree.map(wide, tree)
