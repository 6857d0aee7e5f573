r"""The K nearest captions of every clip, exactly, from vocabularies that do not fit into memory.

    s_ij = <a_i, v_j> / (|a_i| |v_j|)        a: clips, v: captions, as stored, in float16

The K captions of the largest s, ties to the smaller j. Section 3.5: K = 10 of 4 million.

A block of captions meets a chunk of clips in one float32 product S. Its error has a bound,

    |S_ij - s_ij| <= (d + 8) 2^-24 = e      (d products, two roundings of either factor),

so a caption with S_ij < t_i - e cannot be among the K of clip i, t_i being the K-th best so far;
nor one that is 2 e below the K-th best S of its block. What remains is a handful a clip, and is
computed in float64. There the product of two float16 is a multiple of 2^-48 and the sum stays below
2^5: nothing is rounded, so the ranking depends neither on the order of summation, nor on threads,
blocks or shards.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from noise2music.label.rows import Array, Rows

Progress = Callable[[int, int], None]

_PAIRS = 1 << 14  # that are computed in float64 at once
_AT_ONCE = 2  # chunks of clips


def top_k(
    clips: Array,
    captions: Rows,
    k: int = 10,
    *,
    block: int = 4096,
    chunk: int = 2048,
    on_device: bool = False,
    progress: Progress | None = None,
) -> tuple[Array, Array]:
    """The K nearest captions of N clips, best first.

    Args:
      clips: (N, d) float16 unit rows. captions: (V, d) float16 unit rows on disk, V >= k.
      block: captions at once. chunk: clips at once; 2 block x chunk float32 are resident.
      on_device: S is computed, and its largest are found, by JAX where it runs by default (a GPU),
        else by NumPy on the processor. The answer is the same.
      progress: called with (captions done, V).

    Returns: (N, k) int32 numbers of captions, (N, k) float64 similarities.

    Raises:
      ValueError: k < 1 or k > V, other dimensions, or a row that is not of norm 1 within 1 %.
    """
    if not 1 <= k <= len(captions):
        raise ValueError(
            f"n2m.label: K must be 1 to the size of the vocabulary ({len(captions)}), got {k}"
        )
    if clips.ndim != 2 or clips.dtype != np.float16 or clips.shape[1] != captions.dim:
        raise ValueError(
            f"n2m.label: clips must be float16 (N, {captions.dim}), as the captions, got "
            f"{clips.dtype} {clips.shape}"
        )
    best = _Best(clips, k)
    search = _on_device if on_device else _on_host
    parts = [slice(start, start + chunk) for start in range(0, len(clips), chunk)]
    # The products use all processors by themselves; what follows them does with two at a time.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for first, rows in captions.blocks(block):
            norms = _norms(rows, "captions")
            v = rows.astype(np.float32)
            v /= norms[:, None].astype(np.float32)
            few = min(k, len(rows))
            found = [
                pool.submit(search, best.scaled[part], v, best.floor(part), few, best.e)
                for part in parts
            ]
            for part, pairs in zip(parts, found, strict=True):
                i, j = pairs.result()
                best.merge(i + part.start, j, first, rows, norms)
            if progress is not None:
                progress(min(first + block, len(captions)), len(captions))
    return best.index, best.similarity


class _Best:
    """The K best of every clip so far, in float64."""

    def __init__(self, clips: Array, k: int):
        n, d = clips.shape
        self.k, self.e = k, (d + 8) * 2.0**-24
        self._clips, self._norms = clips, _norms(clips, "clips")
        self.scaled = clips.astype(np.float32) / self._norms[:, None].astype(np.float32)
        self.index = np.full((n, k), -1, np.int32)
        self.similarity = np.full((n, k), -np.inf)

    def floor(self, part: slice) -> Array:
        """What S must reach: t_i - e, as a float32 that is not above it."""
        t = self.similarity[part, -1] - self.e
        return np.nextafter(t.astype(np.float32), np.float32(-np.inf))

    def merge(self, i: Array, j: Array, first: int, rows: Array, norms: Array) -> None:
        """Candidates: clips i, captions first + j."""
        if i.size == 0:
            return
        s = np.concatenate(
            [
                _products(self._clips[i[p]], rows[j[p]]) / (self._norms[i[p]] * norms[j[p]])
                for p in (slice(a, a + _PAIRS) for a in range(0, i.size, _PAIRS))
            ]
        )
        touched, place = np.unique(i, return_inverse=True)
        clip = np.concatenate([np.repeat(np.arange(touched.size), self.k), place])
        value = np.concatenate([self.similarity[touched].reshape(-1), s])
        number = np.concatenate([self.index[touched].reshape(-1), first + j.astype(np.int32)])
        order = np.lexsort((number, -value, clip))
        starts = np.searchsorted(clip[order], np.arange(touched.size))
        kept = order[starts[:, None] + np.arange(self.k)]
        self.similarity[touched], self.index[touched] = value[kept], number[kept]


def _on_host(a: Array, v: Array, floor: Array, k: int, e: float) -> tuple[Array, Array]:
    """Pairs (clip, caption) of a chunk and a block that may be among the K best."""
    s = a @ v.T
    hit = np.flatnonzero(s.max(axis=1) >= floor)
    s = s[hit]
    return _above(s, hit, np.partition(s, -k, axis=1)[:, -k] if hit.size else s[:, 0], floor, e)


def _above(s: Array, hit: Array, kth: Array, floor: Array, e: float) -> tuple[Array, Array]:
    cut = np.maximum(floor[hit], kth - np.float32(2.01 * e))
    # Of the flattened table: NumPy finds few among many ten times faster in one dimension.
    i, j = np.divmod(np.flatnonzero(s >= cut[:, None]), s.shape[1])
    return hit[i], j


def _on_device(a: Array, v: Array, floor: Array, k: int, e: float) -> tuple[Array, Array]:
    """The same pairs; the device returns a few more than K a clip, which nearly always holds all.

    Where the last of them still reaches the cut there may be more: those clips are done here. A TPU
    composes a float32 product of bfloat16 ones, so its error is given eight times the room.
    """
    few = min(k + 6, len(v))
    value, column = (np.asarray(x) for x in _device_search(few)(a, v))
    e = 8 * e
    cut = np.maximum(floor - np.float32(e), value[:, k - 1] - np.float32(2 * e))
    full = (value[:, -1] >= cut) & (few < len(v))
    i, place = np.nonzero((value >= cut[:, None]) & ~full[:, None])
    j = column[i, place]
    rest = np.flatnonzero(full)
    if rest.size == 0:
        return i, j
    more, j2 = _on_host(a[rest], v, floor[rest], k, e)
    return np.concatenate([i, rest[more]]), np.concatenate([j, j2])


_searches: dict[int, Callable[[Array, Array], tuple[Array, Array]]] = {}


def _device_search(few: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    if few not in _searches:
        import jax

        def search(a: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            s = jax.numpy.matmul(a, v.T, precision=jax.lax.Precision.HIGHEST)
            value, column = jax.lax.top_k(s, few)
            return value, column

        _searches[few] = jax.jit(search)
    return _searches[few]


def _norms(rows: Array, name: str) -> Array:
    norms = np.sqrt(_products(rows, rows))
    off = np.flatnonzero(~(np.abs(norms - 1) < 0.01))
    if off.size:
        raise ValueError(
            f"n2m.label: {name} must be rows of norm 1 within 1 %, got {norms[off[0]]:.4g} in row "
            f"{off[0]}; divide them by their norms first"
        )
    return norms


def _products(a: Array, b: Array) -> Array:
    """<a_i, b_i> of float16 rows: without rounding, so whatever the order of summation."""
    return np.einsum("id,id->i", a, b, dtype=np.float64, casting="safe")
