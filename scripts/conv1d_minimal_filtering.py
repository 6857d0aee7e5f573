"""Would float16 minimal filtering F(2, 7) beat direct bfloat16 on tensor cores?

Its error: emulates both in numpy on one tile of random activations: operands rounded as tensor
cores read them, products and sums in float32, against float64. And its traffic: counts what a block
moves through shared memory. ``docs/design/conv1d_cuda.md`` draws the conclusion.

  python scripts/conv1d_minimal_filtering.py
"""

from __future__ import annotations

import argparse

import numpy as np
from noise2music.kernels.conv1d_block import toom_cook

ROWS, OUTS = 64, 64


def bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def float16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def direct(h: np.ndarray, weight: np.ndarray, rounded) -> np.ndarray:
    h, weight = rounded(h), rounded(weight)
    taps = weight.shape[0]
    return sum(h[k : k + ROWS] @ weight[k] for k in range(taps))


def minimal_filtering(h: np.ndarray, weight: np.ndarray, m: int, rounded) -> np.ndarray:
    """y = A^T ((G g) * (B^T d)) with V = B^T d and U = G g rounded, the rest float32."""
    taps = weight.shape[0]
    a, g, b = (np.array(x, float) for x in toom_cook.matrices(m, taps))
    # Each point's row of B^T may be scaled by a power of two, and its row of A back: that is exact,
    # and brings all V to one size.
    scale = 2.0 ** np.round(np.log2(np.abs(b).sum(axis=1)))
    b, a = b / scale[:, None], a * scale[:, None]
    d = np.stack([h[i : i + m + taps - 1] for i in range(0, ROWS, m)])
    v = rounded(np.einsum("pl,blc->pbc", b, d).astype(np.float32))
    u = rounded(np.einsum("pk,kcd->pcd", g, weight).astype(np.float32))
    product = np.matmul(v, u)  # float32
    y = np.einsum("pi,pbd->bid", a.astype(np.float32), product)
    return y.reshape(ROWS, -1)


def error(y: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Largest and root-mean-square error, over the largest exact value and over its RMS."""
    e = y - exact
    return float(np.abs(e).max() / np.abs(exact).max()), float(e.std() / exact.std())


# A Hopper multiprocessor: bytes of shared memory a clock, clocks of a wgmma m64n128k16, the bytes
# that it reads (both operands in shared memory), and accumulators that its registers hold.
SHARED_BYTES, MMA_CLOCKS, MMA_BYTES, REGISTERS = 128, 64, (64 + 128) * 16 * 2, 64 << 10
CHUNK, TAPS, COLUMNS = 64, 7, 128


def traffic(rows: int, m: int, passes: int) -> dict[str, float]:
    """Clocks a chunk of 64 channels takes a block of (rows, 128) outputs: products, shared memory.

    m = 1 is direct: x goes in, is normalised in place and read by every tap. F(m, 7) also reads the
    normalised rows and writes V. ``passes``: the points are taken in so many parts, so that their
    accumulators fit, and x is brought in for each.
    """
    points = m + TAPS - 1 if m > 1 else TAPS
    products = points * (rows // m) // 64 * (CHUNK // 16)
    x = (rows + TAPS - 1) * CHUNK * 2
    moved = products * MMA_BYTES + points * CHUNK * COLUMNS * 2 + passes * 3 * x
    accumulators = rows * COLUMNS
    if m > 1:
        moved += passes * x + points * (rows // m) * CHUNK * 2
        accumulators += points // passes * (rows // m) * COLUMNS
    return {
        "products": products * MMA_CLOCKS,
        "shared": moved / SHARED_BYTES,
        "registers": accumulators / REGISTERS,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| C | K | how | products | largest error | RMS error | x rounding y to bfloat16 |")
    print("|---|---|---|---|---|---|---|")
    for channels, taps in ((256, 7), (512, 7), (1024, 7)):
        random = np.random.default_rng(0)
        u = random.standard_normal((ROWS + taps - 1, channels))
        h = u / (1 + np.exp(-u))  # a normalised activation after swish
        weight = random.standard_normal((taps, channels, OUTS)) / np.sqrt(taps * channels)
        exact = sum(h[k : k + ROWS] @ weight[k] for k in range(taps))
        h32, weight32 = h.astype(np.float32), weight.astype(np.float32)
        unit = error(bfloat16(exact), exact)[1]
        ways = {
            ("direct, bfloat16", 1.0): direct(h32, weight32, bfloat16),
            ("direct, float16", 1.0): direct(h32, weight32, float16),
            ("F(2, 7), float16", 8 / 14): minimal_filtering(h32, weight32, 2, float16),
            ("F(2, 7), bfloat16", 8 / 14): minimal_filtering(h32, weight32, 2, bfloat16),
            ("F(4, 7), float16", 10 / 28): minimal_filtering(h32, weight32, 4, float16),
        }
        for (name, products), y in ways.items():
            largest, rms = error(y, exact)
            print(
                f"| {channels} | {taps} | {name} | {products:.3f} | {largest:.1e} | {rms:.1e} | "
                f"{rms / unit:.2f} |"
            )
    print()
    print("| block | how | products, clocks | shared memory, clocks | of the registers |")
    print("|---|---|---|---|---|")
    for rows, m, passes in ((256, 1, 1), (128, 1, 1), (256, 2, 1), (128, 2, 1), (128, 2, 2)):
        t = traffic(rows, m, passes)
        how = "direct" if m == 1 else f"F({m}, 7), {passes} pass" + ("es" if passes > 1 else "")
        print(
            f"| {rows} x {COLUMNS} | {how} | {t['products']} | {t['shared']:.0f} | "
            f"{t['registers']:.2f} |"
        )


if __name__ == "__main__":
    main()
