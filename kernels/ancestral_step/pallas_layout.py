"""How a clip lies in the memory of a TPU while ancestral_step works on it: (rows, lanes)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..common.pallas import LANES

ROWS = 16  # of a tile of bfloat16, in which eps may be


def turned(length: int, channels: int) -> bool:
    """Whether channels by time takes fewer registers than time by channels. It lies so already
    where XLA convolves few channels (conv1d_block/xla_tpu.py)."""

    def registers(rows: int, lanes: int) -> int:
        return -(-rows // 8) * -(-lanes // LANES)

    return registers(channels, length) < registers(length, channels)


def as_rows(a: Any) -> Any:
    """(B, T, C) -> (B, rows, lanes): flattened if C fills less than half of a register, else as it
    is or turned; rows are padded to whole tiles of the memory."""
    batch, length, channels = a.shape
    if channels < LANES // 2:
        a = jnp.pad(a.reshape(batch, -1), ((0, 0), (0, -length * channels % LANES)))
        a = a.reshape(batch, -1, LANES)
    elif turned(length, channels):
        a = a.swapaxes(1, 2)
    rows = a.shape[1]
    return jnp.pad(a, ((0, 0), (0, -rows % ROWS), (0, 0))) if rows % ROWS else a


def from_rows(a: Any, shape: tuple[int, ...]) -> Any:
    """The reverse."""
    batch, length, channels = shape
    if channels < LANES // 2:
        return a.reshape(batch, -1)[:, : length * channels].reshape(shape)
    if turned(length, channels):
        return a[:, :channels].swapaxes(1, 2)
    return a[:, :length]
