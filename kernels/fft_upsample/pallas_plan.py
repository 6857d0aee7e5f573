"""fft_upsample on a TPU: how a length is split into rows, and the matrices of the chain.

With T = N1 N2, T' = N1 N2', n = N2 n1 + n2, n' = N2' n1' + n2' and k = k1 + N1 k2, row k1 of the
spectrum holds the P = min(N2, N2') bins around frequency f = k1 + c N1 (c = -1/2, or 0 for odd P)
that both lengths have. So a row is shifted down by f, interpolated from N2 to N2' points by a real
(Dirichlet) kernel, and shifted up again:

    z[k1, n2]  = e^{-2 pi i f n2 / T} sum_n1 e^{-2 pi i k1 n1 / N1} x[n1, n2]
    u[k1, n2'] = e^{2 pi i f n2' / T'} w_k1 / N1 sum_n2 z[k1, n2] D[n2, n2']
    y[n1', n2'] = Re sum_k1 e^{2 pi i k1 n1' / N1} u[k1, n2']
    D[n2, n2'] = sin(pi P d) / (N2 sin(pi d)),   d = n2' / N2' - n2 / N2.

x is real: rows k1 and N1 - k1 are conjugates, so that k1 <= N1 / 2 suffices with w = 2, and 1 for
the rows 0 and N1 / 2 that are their own. The real part makes a cosine of the bin at half the
shorter length K = min(T, T'), which is in row 0 with a negative frequency alone; going down both
of its signs are kept (`half_bin`). The adjoint is the chain transposed.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ..common.pallas import LANES, round_up

ROWS = 128  # of a product: half of them real, half imaginary
_LEFT_BYTES = 8_000_000  # of what stands on the left of a product, once in VMEM
_RIGHT_BYTES = 1_500_000  # of 128 columns of what stands on the right, twice in VMEM
_PARTS_BYTES = 6  # of a number as its three bfloat16 parts


@dataclasses.dataclass(frozen=True)
class Plan:
    """n1 rows; n2 columns become n2_new; half: rows k1 of the spectrum that are computed."""

    n1: int
    n2: int
    n2_new: int

    @property
    def half(self) -> int:
        return self.n1 // 2 + 1

    @property
    def spectrum_rows(self) -> int:
        """Real and imaginary rows, padded."""
        return round_up(2 * self.half, LANES)

    @property
    def signal_rows(self) -> int:
        return round_up(self.n1, LANES)

    @property
    def columns(self) -> tuple[int, int]:
        return round_up(self.n2, LANES), round_up(self.n2_new, LANES)

    @property
    def products(self) -> int:
        """Multiplications and additions of a signal, once through the chain."""
        narrow, wide = self.columns
        outside = self.signal_rows * (narrow + wide)
        return self.spectrum_rows * (outside + narrow * wide)

    @property
    def fits(self) -> bool:
        left = self.spectrum_rows * max(self.signal_rows, *self.columns)
        right = LANES * max(self.signal_rows, self.spectrum_rows, *self.columns)
        return _PARTS_BYTES * left <= _LEFT_BYTES and _PARTS_BYTES * right <= _RIGHT_BYTES


@functools.lru_cache
def plan(length: int, up: int, down: int) -> Plan:
    """The split of fewest products among those that fit VMEM, or among all if none does. Rows of an
    even signal have an even number of bins, so that all rows have them around one center."""
    common = length // down  # of T and T' the greatest common divisor
    shorter = min(length, common * up)
    sizes = [
        n
        for n in range(1, common + 1)
        if common % n == 0 and (shorter % 2 or shorter // n % 2 == 0)
    ]
    plans = [Plan(n, length // n, common * up // n) for n in sizes]
    return min(plans, key=lambda p: (not p.fits, p.products))


def _turn(rows: np.ndarray, columns: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part of e^{-2 pi i r c / points}."""
    values = np.exp(-2j * np.pi * (np.outer(rows, columns) % points) / points)
    return values.real, values.imag


def _rows_in_tiles(p: Plan, real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """(2 half, ...) padded: in each tile of ROWS rows half are real and half imaginary."""
    missing = p.spectrum_rows // 2 - p.half
    parts = [np.pad(a, ((0, missing), (0, 0))) for a in (real, imaginary)]
    tiles = np.stack([a.reshape(-1, ROWS // 2, a.shape[1]) for a in parts], 1)
    return tiles.reshape(p.spectrum_rows, -1)


def _padded(a: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(a, ((0, rows - a.shape[0]), (0, columns - a.shape[1])))


@dataclasses.dataclass(frozen=True)
class Tables:
    """left (2 half, N1), before (2 half, M), middle (M, M'), after (2 half, M'), in float64 and
    padded; M is N2 and M' is N2', the other way round for the adjoint."""

    left: np.ndarray
    before: np.ndarray
    middle: np.ndarray
    after: np.ndarray


def tables(p: Plan, adjoint: bool) -> Tables:
    bins = min(p.n2, p.n2_new)
    k1 = np.arange(p.half)
    twice_f = 2 * k1 - p.n1 * (bins % 2 == 0)
    weight = np.where(2 * k1 % p.n1 == 0, 1, 2)[:, None] / p.n1
    narrow, wide = p.columns
    left = _rows_in_tiles(p, *_turn(k1, np.arange(p.n1), p.n1))

    def shift(n2: int, sign: int, factor: np.ndarray | float, columns: int) -> np.ndarray:
        real, imaginary = _turn(twice_f, np.arange(n2), 2 * p.n1 * n2)
        tiles = _rows_in_tiles(p, factor * real, sign * factor * imaginary)
        return _padded(tiles, p.spectrum_rows, columns)

    # d = m / (N2 N2'), in whole numbers.
    m = np.arange(p.n2_new)[None, :] * p.n2 - np.arange(p.n2)[:, None] * p.n2_new
    angle = np.pi * m / (p.n2 * p.n2_new)
    with np.errstate(invalid="ignore"):
        dirichlet = np.where(m == 0, bins, np.sin(bins * angle) / np.sin(angle)) / p.n2
    down, up = shift(p.n2, 1, 1.0, narrow), shift(p.n2_new, -1, weight, wide)
    down_back, up_back = shift(p.n2, -1, 1.0, narrow), shift(p.n2_new, 1, weight, wide)
    left = _padded(left, p.spectrum_rows, p.signal_rows)
    middle = _padded(dirichlet, narrow, wide)
    if adjoint:
        return Tables(left, up_back, middle.T, down_back)
    return Tables(left, down, middle, up)


def half_bin(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(a, b): what y[n'] = b[n'] sum_n a[n] x[n] adds to the chain: on the way down to an even
    length, the bin at T' / 2 with its other sign."""
    if new_length > length or new_length % 2:
        return None
    angles = np.arange(length) * new_length % (2 * length)
    return np.cos(np.pi * angles / length), np.cos(np.pi * np.arange(new_length)) / length
