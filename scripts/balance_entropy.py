"""What the draw does to the entropy of captions, where a few captions fit nearly every clip.

    python scripts/balance_entropy.py

Random unit embeddings with a common direction, as encoders give them: a few captions lie near it
and are among the K of nearly every clip. No music is involved.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from noise2music.label import balance
from noise2music.label.rows import Rows, round_rows, to_bytes
from noise2music.label.topk import top_k

CLIPS, CAPTIONS, DIM, K, QUOTA = 4000, 5000, 64, 10, 3


def main() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal(DIM)
    clips, captions = (
        round_rows(rng.standard_normal((n, DIM)) + 0.7 * common) for n in (CLIPS, CAPTIONS)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.npy"
        path.write_bytes(to_bytes(captions))
        index, _ = top_k(clips, Rows([path]), K)
    counts = balance.frequency(index, CAPTIONS)
    keys = balance.clip_keys([str(i) for i in range(CLIPS)], "lf", 0)
    drawn = np.take_along_axis(index, balance.draw(keys, index, counts, QUOTA), axis=1)
    for name, part in (("the K", index), ("K' nearest", index[:, :QUOTA]), ("K' drawn", drawn)):
        n = balance.frequency(part, CAPTIONS)
        used, top = int((n > 0).sum()), n.max() / len(index)
        print(
            f"{name}: {balance.entropy(n):.2f} bits of {np.log2(CAPTIONS):.2f}, {used} captions "
            f"used, the most frequent in {100 * top:.1f} % of clips"
        )


if __name__ == "__main__":
    main()
