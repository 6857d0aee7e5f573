"""Read the tensors of a TensorFlow V2 checkpoint with numpy.

The index is a LevelDB-style sorted table: a 48-byte footer names the index block, whose entries
name the data blocks, whose entries map a tensor's name to a ``BundleEntryProto`` (dtype, shape,
offset and size in the data file). Blocks hold prefix-compressed keys. Format as documented in
LevelDB's ``doc/table_format.md`` and TensorFlow's ``tensor_bundle.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_TABLE_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_DTYPES: dict[int, type[np.generic]] = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, next position) of the base-128 number at ``at``."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _block_entries(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of the block whose handle (offset, size) is stored at ``at``."""
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
    if data[offset + size] != 0:
        raise ValueError("n2m.evaluate: the checkpoint index must be uncompressed")
    block = data[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the (field number, value) pairs of a protocol buffer message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            yield number, int.from_bytes(message[at : at + width], "little")
            at += width
        else:
            raise ValueError(f"n2m.evaluate: the checkpoint index has an unknown wire type {wire}")


def _shape(message: bytes) -> tuple[int, ...]:
    """TensorShapeProto: repeated field 2 (dim), each with field 1 (size)."""
    sizes = []
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            sizes.append(next((int(v) for n, v in _fields(value) if n == 1), 0))
    return tuple(sizes)


def read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """Return every tensor of the checkpoint, by name.

    Args:
      prefix: folder that holds ``.index`` and ``.data-00000-of-00001``.

    Raises:
      FileNotFoundError: one of the two files is missing.
      ValueError: the index is not a sorted table, is compressed, or spans several data files.
    """
    index = (prefix / ".index").read_bytes()
    payload = (prefix / ".data-00000-of-00001").read_bytes()
    if int.from_bytes(index[-8:], "little") != _TABLE_MAGIC:
        raise ValueError(f"n2m.evaluate: {prefix / '.index'} is not a TensorFlow V2 index")
    footer = index[-_FOOTER_BYTES:]
    _, at = _varint(footer, 0)  # the metaindex handle: offset, size
    _, at = _varint(footer, at)
    index_handle = len(index) - _FOOTER_BYTES + at
    tensors: dict[str, np.ndarray] = {}
    for _, handle in _block_entries(index, index_handle):
        # A handle is two varints inside the entry's value; appending it to the file's bytes lets
        # one function read handles from the footer and from entries.
        for key, value in _block_entries(index + handle, len(index)):
            if not key:
                continue  # the header: number of shards and endianness
            entry = dict(_fields(value))
            if entry.get(3, 0) != 0:
                raise ValueError("n2m.evaluate: the checkpoint must be in one data file")
            dtype = _DTYPES.get(int(entry.get(1, 0)))
            if dtype is None:
                continue
            shape_message = entry.get(2, b"")
            shape = _shape(shape_message if isinstance(shape_message, bytes) else b"")
            offset, size = int(entry.get(4, 0)), int(entry.get(5, 0))
            array = np.frombuffer(payload[offset : offset + size], dtype)
            tensors[key.decode()] = array.reshape(shape)
    return tensors
