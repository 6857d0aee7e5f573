"""Argument checks with one form of message: ``n2m.<op>: <argument> must be ..., got ...``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("auto", "reference", "native", "pallas")
FLOATS = ("float32", "bfloat16")


def fail(op: str, argument: str, must: str, got: object, hint: str = "") -> ValueError:
    """The error to raise: ``raise fail("fft_upsample", "up", "a positive integer", up)``."""
    return ValueError(
        f"n2m.{op}: {argument} must be {must}, got {got}{'; ' + hint if hint else ''}"
    )


def array(
    op: str,
    name: str,
    value: Any,
    shape: Sequence[int | None | str],
    dtypes: Sequence[str] = FLOATS,
) -> jax.Array:
    """``value`` as a JAX array of the given shape and one of the dtypes, or an error that names it.

    Args:
      shape: one entry an axis: a size, or a letter for an axis of any size (shown in the message).
    Raises:
      TypeError: if value is not an array. ValueError: if shape or dtype is wrong.
    """
    if value is None or not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"n2m.{op}: {name} must be an array, got {type(value).__name__}")
    wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
    if len(value.shape) != len(shape) or any(
        isinstance(s, int) and s != got for s, got in zip(shape, value.shape, strict=True)
    ):
        raise fail(op, name, f"of shape {wanted}", tuple(value.shape))
    dtype = jnp.dtype(value.dtype).name
    if dtype not in dtypes:
        hint = "cast it with .astype" if dtype.startswith(("float", "int")) else ""
        raise fail(op, name, " or ".join(dtypes), dtype, hint)
    return jnp.asarray(value)


def positive_int(op: str, name: str, value: Any) -> int:
    """``value`` as a Python int of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise fail(op, name, "a positive integer", repr(value))
    return int(value)


def groups(op: str, name: str, value: Any, channels: int) -> int:
    """``value`` as a positive divisor of the number of channels."""
    count = positive_int(op, name, value)
    if channels % count:
        raise fail(op, name, f"a divisor of the {channels} channels", count)
    return count


def implementation(op: str, value: Any) -> str:
    """One of ``IMPLEMENTATIONS``."""
    if value not in IMPLEMENTATIONS:
        raise fail(op, "implementation", "one of " + ", ".join(IMPLEMENTATIONS), repr(value))
    return str(value)
