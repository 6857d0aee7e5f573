"""Finds the native library, once, and registers its handlers with JAX.

The only place in this package that reads the environment: ``NOISE2MUSIC_NATIVE=0`` (or off, no,
false) makes every op run as plain JAX.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import jax

_logger = logging.getLogger("noise2music")


def switched_off() -> bool:
    """True if the user asked for a run without the native library."""
    value = os.environ.get("NOISE2MUSIC_NATIVE", "1").strip().lower()
    return value in ("0", "off", "no", "false")


@functools.cache
def _load() -> tuple[ModuleType | None, dict[str, frozenset[str]], str]:
    """(module or None, platform -> target names, why there is none)."""
    if switched_off():
        return None, {}, "NOISE2MUSIC_NATIVE switches it off"
    try:
        module = importlib.import_module("noise2music._native")
    except ModuleNotFoundError:
        return None, {}, "this installation was built without it"
    except ImportError as error:
        return None, {}, f"the library does not load: {error}"
    targets: dict[str, frozenset[str]] = {}
    for platform, handlers in module.registrations().items():
        for name, capsule in handlers.items():
            jax.ffi.register_ffi_target(name, capsule, platform=platform)
        # XLA's registry says "CUDA", jax.lax.platform_dependent "cuda".
        targets[platform.lower()] = frozenset(handlers)
    return module, targets, ""


@functools.cache
def _say_once(reason: str) -> None:
    _logger.warning("noise2music: native kernels are not in use (%s); ops run as plain JAX", reason)


def platforms_of(target: str) -> tuple[str, ...]:
    """The platforms, as JAX names them, that have a handler for this target."""
    return tuple(sorted(p for p, names in _load()[1].items() if target in names))


def why_missing(say: bool = False) -> str:
    """Why there is no native library, "" if there is one. With ``say``, logs it the first time."""
    reason = _load()[2]
    if reason and say:
        _say_once(reason)
    return reason


def cuda_scratch(target: str, **sizes: int) -> int:
    """Floats of scratch that the CUDA kernel of this target needs, by the library's own count."""
    module = _load()[0]
    assert module is not None  # a target is asked for where there is one
    return int(module.cuda_scratch(target, sizes))


def conv1d_block_plan(*arguments: Any) -> str:
    """The algorithm of each pass of conv1d_block, by the library's own planner."""
    module = _load()[0]
    return "" if module is None else str(module.conv1d_block_plan(*arguments))


def conv1d_block_cuda_plan(sizes: dict[str, int], major: int, processors: int) -> str:
    """The kernel of each pass of conv1d_block on a GPU of this compute capability and size."""
    module = _load()[0]
    assert module is not None  # asked for where there is a handler for CUDA
    return str(module.conv1d_block_cuda_plan(sizes, major, processors))


def build_info() -> dict[str, Any]:
    """How the native library was built and which instruction set it uses; {} if there is none."""
    module = _load()[0]
    return dict(module.build_info()) if module is not None else {}
