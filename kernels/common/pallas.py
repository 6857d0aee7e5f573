"""Pallas kernels for TPU: reached lazily, and what the rooms share.

A Pallas kernel is bound as one primitive. Its body is traced where a program is lowered for a TPU
(or, with ``implementation="pallas"`` elsewhere, for the interpreter), and nowhere else: a program
for the processor neither imports Pallas nor pays for tracing it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

LANES = 128
ROWS = 16  # of a tile: 8 sublanes of float32, or of pairs of bfloat16
CORES = 2  # TensorCores of a v4 or v5p chip, over which a "parallel" axis is split
VMEM_BYTES = 16 * 2**20  # of a v4 core


def from_room(package: str, function: str) -> Callable[..., Any]:
    """``package.pallas_tpu.function``, imported when it is called."""

    def call(*operands: Any, **static: Any) -> Any:
        module = importlib.import_module(f"{package}.pallas_tpu")
        return getattr(module, function)(*operands, **static)

    return call


# `run(*arrays, interpret=...)` is made by dispatch; `shapes` are the outputs.
_kernel_p = Primitive("n2m_pallas")
_kernel_p.multiple_results = True


@_kernel_p.def_abstract_eval
def _abstract(*arrays: Any, run: Callable[..., Any], shapes: tuple[Any, ...]) -> Any:
    return [jax.core.ShapedArray(shape, dtype) for shape, dtype in shapes]


def _lowered(interpret: bool) -> Any:
    def body(*arrays: Any, run: Callable[..., Any], shapes: tuple[Any, ...]) -> Any:
        return run(*arrays, interpret=interpret)

    return mlir.lower_fun(body, multiple_results=True)


mlir.register_lowering(_kernel_p, _lowered(True))
mlir.register_lowering(_kernel_p, _lowered(False), platform="tpu")


def bind(run: Callable[..., Any], arrays: tuple[Any, ...], outputs: tuple[Any, ...]) -> Any:
    """``run(*arrays, interpret=)`` -> a tuple of arrays like ``outputs``, as one primitive."""
    shapes = tuple((tuple(y.shape), jax.numpy.dtype(y.dtype)) for y in outputs)
    return tuple(_kernel_p.bind(*arrays, run=run, shapes=shapes))


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def divide(a: Any, b: int) -> tuple[Any, Any]:
    """Quotient and remainder of a >= 0, traced or not. Mosaic has no cheap floor division."""
    if isinstance(a, int):
        return divmod(a, b)
    return jax.lax.div(a, jax.numpy.int32(b)), jax.lax.rem(a, jax.numpy.int32(b))


@functools.cache
def row_tiles(length: int, most: int, fewest: int = 1, multiple: int = ROWS) -> tuple[int, int]:
    """(rows of a tile, tiles) for an axis: at most ``most`` rows a tile, at least ``fewest`` tiles.

    Tiles are multiples of ``multiple`` rows, the last may be partly past the end. A number of tiles
    that divides the axis evenly is preferred, up to twice as many; it needs no masks.
    """
    if length <= multiple or (fewest == 1 and length <= most):
        return length, 1
    fewest = max(fewest, -(-length // most))
    fewest = min(fewest, -(-length // multiple))
    for count in range(fewest, 2 * fewest + 1):
        if length % count == 0 and (length // count) % multiple == 0:
            return length // count, count
    rows = round_up(-(-length // fewest), multiple)
    return rows, -(-length // rows)
