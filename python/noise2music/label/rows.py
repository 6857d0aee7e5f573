"""Embeddings on disk: unit rows in float16, in one or more .npy files, read block by block.

4M x 512 rows are 4 GB. They are read, not mapped: pages of a mapped file count as resident, and
what is wanted here is that one block is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate.encoders.protocol import unit_rows

Array = np.ndarray

DTYPE = np.dtype("<f2")


def round_rows(rows: Array) -> Array:
    """(N, d) -> rows over their norms, rounded to float16. ValueError on a row of zeros or NaN."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"n2m.label: embeddings must be finite (N, d), got {rows.shape}")
    return unit_rows(rows).astype(DTYPE)


def to_bytes(rows: Array) -> bytes:
    """The .npy file of an array."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()


class Rows:
    """Rows 0 .. len - 1 of .npy files, one after the other; each file (n, d) float16, C order.

    Raises:
      UserError: a file that is missing, cut short, or of another type or dimension.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files: list[tuple[Path, int, int]] = []  # path, bytes before the rows, rows
        self.dim = 0
        for path in map(Path, paths):
            offset, count, dim = _header(path)
            if self.dim not in (0, dim):
                raise UserError(f"{path} holds rows of {dim} numbers, those before it {self.dim}")
            self.dim = dim
            self._files.append((path, offset, count))
        self._length = sum(count for _, _, count in self._files)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Array:
        """Rows start .. stop - 1 (fewer at the end), (n, d) float16."""
        parts = []
        for path, offset, count in self._files:
            if start < count and stop > 0:
                first, last = max(start, 0), min(stop, count)
                where = offset + first * self.dim * DTYPE.itemsize
                n = (last - first) * self.dim
                parts.append(np.fromfile(path, DTYPE, n, offset=where).reshape(-1, self.dim))
            start, stop = start - count, stop - count
        if not parts:
            return np.zeros((0, self.dim), DTYPE)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def blocks(self, size: int) -> Iterator[tuple[int, Array]]:
        """(number of the first row, rows) from first to last."""
        for start in range(0, len(self), size):
            yield start, self.read(start, start + size)


def _header(path: Path) -> tuple[int, int, int]:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a .npy file of embeddings: {error}") from error
    if len(shape) != 2 or fortran or dtype != DTYPE:
        raise UserError(f"{path} must hold (n, d) float16 in C order, got {shape} {dtype}")
    if path.stat().st_size != offset + shape[0] * shape[1] * DTYPE.itemsize:
        raise UserError(f"{path} is not whole: it was cut short or is still being written")
    return offset, shape[0], shape[1]
