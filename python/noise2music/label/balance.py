r"""How often a caption is chosen, and the draw that evens it out (section 3.5).

    n_j = number of clips with caption j among their K nearest
    of the K of a clip, K' are drawn without replacement, with p_j proportional to 1 / n_j.

The draw is a race: caption j of a clip arrives at time E_j n_j, with E_j exponential of mean 1, and
the first K' to arrive win. That is drawing one after the other, each time in proportion to 1 / n_j
of those that are left (Efraimidis and Spirakis 2006). E_j is a hash of the seed, the vocabulary,
the clip's id and j: a clip's draw knows nothing of other clips but their counts, so it depends
neither on order nor on shards, and a larger n_j never makes j arrive earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

Array = np.ndarray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def frequency(index: Array, size: int) -> Array:
    """(N, K) numbers of captions -> n (size,) int64. Counts of parts add up to those of the whole.

    Raises:
      ValueError: a number outside the vocabulary.
    """
    flat = np.asarray(index).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= size):
        raise ValueError(
            f"n2m.label: captions must be 0 to {size - 1}, got {flat.min()} to "
            f"{flat.max()}; the vocabulary is another one"
        )
    return np.bincount(flat, minlength=size).astype(np.int64)


def clip_keys(ids: Sequence[str], vocabulary: str, seed: int) -> Array:
    """One uint64 a clip: what its draw depends on."""
    start = hashlib.blake2b(f"{seed}\0{vocabulary}\0".encode(), digest_size=8)
    keys = np.empty(len(ids), np.uint64)
    for i, id in enumerate(ids):
        digest = start.copy()
        digest.update(id.encode("utf-8", "surrogatepass"))
        keys[i] = int.from_bytes(digest.digest(), "little")
    return keys


def draw(keys: Array, index: Array, counts: Array, k: int) -> Array:
    """Which K' of the K captions of each clip are kept.

    Args:
      keys: (N,) uint64 of `clip_keys`. index: (N, K) numbers of captions, no caption twice in a
        row. counts: (V,) frequency counts, at least 1 where drawn. k: K'.

    Returns: (N, k) int64 places 0 .. K - 1, ascending: the most similar first.

    Raises:
      ValueError: K' < 1, K' > K, or a caption of a clip that was never counted.
    """
    if not 1 <= k <= index.shape[1]:
        raise ValueError(
            f"n2m.label: K' must be 1 to K = {index.shape[1]}, got {k}; draw fewer captions or "
            "select more"
        )
    n = counts[index]
    if n.size and n.min() < 1:
        raise ValueError("n2m.label: counts must be at least 1 for every caption of a clip, got 0")
    arrival = _exponential(keys, index) * n
    order = np.lexsort((index, arrival), axis=1)
    return np.sort(order[:, :k], axis=1)


def entropy(counts: Array) -> float:
    """H = -sum p log2 p in bits, p = counts / sum; 0 where nothing is counted."""
    n = np.asarray(counts, np.float64)
    n = n[n > 0]
    if n.size == 0:
        return 0.0
    p = n / n.sum()
    return float(max(0.0, -(p * np.log2(p)).sum()))


def _exponential(keys: Array, index: Array) -> Array:
    """(N, K) exponential variates of mean 1, a hash of (key, caption)."""
    with np.errstate(over="ignore"):
        x = keys[:, None] + (index.astype(np.uint64) + np.uint64(1)) * _STEP
        # The finaliser of splitmix64 (Steele, Lea and Flood 2014).
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(uniform)
