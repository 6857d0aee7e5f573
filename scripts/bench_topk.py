"""Times the exact search for the K nearest captions, and tells how much memory it takes.

    python scripts/bench_topk.py                                  # 4M captions x 10,000 clips x 512
    python scripts/bench_topk.py --captions 200000 --check 20     # and compares 20 clips to float64

OPENBLAS_NUM_THREADS=1 before it where others use the machine: two chunks of clips are always in
work, and threads of one product that wait for each other lose more.

Random unit rows. They are written to --folder first (4 GB for 4M), which is not timed, and removed.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from noise2music.label.rows import Rows, round_rows, to_bytes
from noise2music.label.topk import top_k

_PART = 100_000  # rows of a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=4_000_000)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--check", type=int, default=0, help="clips to compare with brute force")
    parser.add_argument("--on-device", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = _write(Path(folder), args.captions, args.dim)
        clips = _unit(np.random.default_rng(1), args.clips, args.dim)
        load, began, worked = os.getloadavg()[0], time.perf_counter(), time.process_time()
        index, _ = top_k(
            clips, rows, args.k, block=args.block, chunk=args.chunk, on_device=args.on_device
        )
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        work = 2e-9 * args.captions * args.clips * args.dim
        print(
            f"{args.captions} captions x {args.clips} clips x {args.dim}: {seconds:.1f} s "
            f"({worked:.0f} s of processor), {work / seconds:.0f} GFLOP/s, at most {peak:.2f} GiB "
            f"resident; load {load:.2f} before, {os.getloadavg()[0]:.2f} after"
        )
        if args.check:
            wrong = _check(clips[: args.check], rows, index[: args.check], args.k)
            print(f"{args.check} clips against float64 brute force: {wrong} differ")


def _unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return round_rows(rng.standard_normal((n, dim), np.float32))


def _write(folder: Path, count: int, dim: int) -> Rows:
    rng, paths = np.random.default_rng(0), []
    for start in range(0, count, _PART):
        paths.append(folder / f"{start}.npy")
        paths[-1].write_bytes(to_bytes(_unit(rng, min(_PART, count - start), dim)))
    return Rows(paths)


def _check(clips: np.ndarray, rows: Rows, index: np.ndarray, k: int) -> int:
    """Clips whose K differ from those of float64 products of everything."""
    a = clips.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    s = np.empty((len(a), len(rows)))
    for first, part in rows.blocks(_PART):
        v = part.astype(np.float64)
        s[:, first : first + len(v)] = a @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T
    best = [np.lexsort((np.arange(s.shape[1]), -row))[:k] for row in s]
    return int((np.stack(best) != index).any(axis=1).sum())


if __name__ == "__main__":
    main()
