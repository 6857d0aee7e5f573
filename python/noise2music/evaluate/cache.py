"""Embeddings on disk, in Parquet: what was heard once is not heard again, also after a kill.

One folder a combination of encoder, weights, rate, resampler and window (its hash is the folder's
name, and the whole of it stands in every file's metadata); in it parts of up to some dozen clips,
each written under another name and then renamed. A row is a window: `clip` (sha256 of the file's
bytes and the excerpt), `window` (its number) and `embedding` (d float32).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.errors import UserError, import_extra
from noise2music.evaluate.encoders.protocol import Array, AudioEncoder
from noise2music.evaluate.sounds import RATE, RESAMPLER, Item

FORMAT = 1  # of what is written, and of how sound is cut and resampled before the encoder


def cache_key(content: str, item: Item) -> str:
    """What a clip is: the file's bytes and the excerpt."""
    return f"{content}/{item.start:g}+{'' if item.seconds is None else format(item.seconds, 'g')}"


def settings_of(encoder: AudioEncoder) -> dict[str, Any]:
    """All that an embedding depends on beside the clip."""
    import soxr

    return {
        "format": FORMAT,
        "encoder": encoder.name,
        "weights": encoder.weights_hash,
        "sample_rate": encoder.sample_rate,
        "window": encoder.window,
        "dim": encoder.dim,
        "judged_at": RATE,
        "resampler": f"{RESAMPLER} {soxr.__version__}",
    }


class EmbeddingCache:
    """Embeddings of one encoder. In memory alone where `folder` is None."""

    def __init__(self, folder: Path | None, encoder: AudioEncoder):
        self._settings = settings_of(encoder)
        text = json.dumps(self._settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in encoder.name)
        self._folder = None if folder is None else Path(folder) / f"{name}-{digest}"
        self._known: dict[str, Array] = {}
        self._new: dict[str, Array] = {}
        if self._folder is not None:
            pyarrow()
            for path in sorted(self._folder.glob("*.parquet")):
                self._known |= _read(path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Array | None:
        """(windows, d) float32, or None."""
        return self._known.get(key)

    def put(self, key: str, rows: Array) -> None:
        """Remembers a clip's embedding; `flush` writes it."""
        self._known[key] = self._new[key] = rows

    def flush(self) -> None:
        """Writes what is new as one part."""
        if self._folder is None or not self._new:
            self._new.clear()
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder, self._new, self._settings)
        self._new.clear()


def pyarrow() -> Any:
    """pyarrow.parquet, or a UserError that says how to install it."""
    return import_extra(
        "pyarrow.parquet",
        extra="pip install 'noise2music[evaluate]' (or run without --cache)",
        purpose="the cache of embeddings",
    )


def _write(folder: Path, clips: Mapping[str, Array], settings: Mapping[str, Any]) -> None:
    parquet = pyarrow()
    import pyarrow as pa

    rows = np.concatenate(list(clips.values())).astype(np.float32)
    counts = [len(r) for r in clips.values()]
    flat = pa.array(rows.reshape(-1), pa.float32())
    table = pa.table(
        {
            "clip": pa.array(np.repeat(list(clips), counts).tolist(), pa.string()),
            "window": pa.array(np.concatenate([np.arange(c) for c in counts]), pa.int32()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
        },
        metadata={"noise2music": json.dumps(settings, sort_keys=True)},
    )
    name = f"part-{secrets.token_hex(8)}"
    temporary = folder / f".{name}.tmp"
    parquet.write_table(table, temporary, compression="zstd")
    os.replace(temporary, folder / f"{name}.parquet")


def _read(path: Path) -> dict[str, Array]:
    parquet = pyarrow()
    try:
        table = parquet.read_table(path)
        names = table.column("clip").to_pylist()
        lists = table.column("embedding").combine_chunks()
        rows = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(names), -1)
    except Exception as error:  # pyarrow's errors are its own: whatever it is, the part is no use
        raise UserError(
            f"{path} cannot be read ({error}): remove it, and its clips are heard again"
        ) from error
    starts = [i for i, n in enumerate(names) if i == 0 or n != names[i - 1]]
    parts = np.split(rows.astype(np.float32), starts[1:])
    return {names[i]: part for i, part in zip(starts, parts, strict=True)}
