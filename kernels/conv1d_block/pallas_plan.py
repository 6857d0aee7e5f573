"""How a convolution is cut into tiles for a TPU: all static, all Python integers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from ..common.pallas import CORES, LANES, ROWS, divide, round_up


@dataclasses.dataclass(frozen=True)
class Plan:
    """y[u] = sum_k h[u stride + k - first] weight[k], u < outs_length, in tiles.

    A tile is `rows` outputs of one item; `items` of them whose items follow one another share a
    chunk of weights, `width` of the D outputs. The grid is (cores, outer, D chunks, items), with
    `joined` items in a step of it, whose rows are one product.

    Attributes:
      edge: rows before and after a tile, loaded with it, or zeros where a tile is the whole item.
      step: rows of one product on the MXU, of each item that is joined.
      cores: of which axis each core takes half: "time", "width", "items", or "" for one core.
      taps: for each k (window, shift): tap k of output u reads row u + shift of that window.
      windows: (phase, odd): row j of a window is row (j + odd) stride + phase of the loaded tile.
    """

    batch: int
    length: int
    outs_length: int
    channels: int
    outs: int
    kernel: int
    stride: int
    first: int
    packed: bool
    rows: int
    tiles: int
    edge: int
    step: int
    width: int
    items: int
    joined: int
    cores: str
    taps: tuple[tuple[int, int], ...]
    windows: tuple[tuple[int, int], ...]

    @property
    def chunks(self) -> int:
        return self.channels // LANES

    @property
    def steps(self) -> int:
        return -(-self.rows // self.step)

    @property
    def loaded_rows(self) -> int:
        """Rows of the array that a tile is loaded into."""
        last = (self.window_rows + 1) * self.stride
        return round_up(max(2 * self.edge + self.rows * self.stride, last) + 1, ROWS)

    @property
    def window_rows(self) -> int:
        return round_up(self.steps * self.step + max(shift for _, shift in self.taps), ROWS) + ROWS

    @property
    def in_words(self) -> bool:
        """Whether a tile is loaded as bfloat16, two rows to a word. With an even stride the rows of
        a window then lie in the same half of words that a strided load finds; else in float32."""
        return self.packed and self.stride % 2 == 0

    @property
    def aligned_window(self) -> int | None:
        """The window whose row j is row j of the loaded tile, two to a word, if it holds all."""
        written = 2 * self.edge + self.rows
        if self.packed and self.stride == 1 and written <= self.window_rows:
            return self.windows.index((0, 0)) if (0, 0) in self.windows else None
        return None

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """(cores, outer, D chunks, groups of joined items)."""
        halves = {"": 1}.get(self.cores, CORES)
        outer = self.batch // self.items * self.tiles
        chunks = self.outs // self.width
        if self.cores == "width":
            return halves, outer, chunks // CORES, self.items // self.joined
        return halves, outer // halves, chunks, self.items // self.joined

    def place(self, core: Any, outer: Any, chunk: Any, item: Any) -> tuple[Any, Any, Any]:
        """(group of joined items, tile, chunk of D) of a step of the grid."""
        _, outers, chunks, items = self.grid
        tiles = self.tiles
        if self.cores == "width":
            chunk = core * chunks + chunk
        elif self.cores == "items":
            outer = core * outers + outer
        elif self.cores == "time":
            tiles //= CORES
        group, tile = divide(outer, tiles)
        if self.cores == "time":
            tile = core * tiles + tile
        return group * items + item, tile, chunk


def _windows(
    kernel: int, stride: int, edge: int, first: int, packed: bool
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """taps and windows. Two bfloat16 rows share a word, so an odd shift needs a window of its own
    in which the rows are paired differently; its shift is then even."""
    taps, windows = [], []
    for k in range(kernel):
        shift, phase = divmod(edge + k - first, stride)
        odd = shift % 2 if packed else 0
        if (phase, odd) not in windows:
            windows.append((phase, odd))
        taps.append((windows.index((phase, odd)), shift - odd))
    return tuple(taps), tuple(windows)


def _step(rows: int) -> int:
    """Rows of one product. With 256 a weight is pushed into the MXU for long enough."""
    return round_up(-(-rows // -(-rows // STEP_ROWS)), ROWS)


def _joined(items: int, step: int) -> int:
    """Items of few rows that fill a product together."""
    return max(
        n for n in range(1, items + 1) if items % n == 0 and n * step <= max(STEP_ROWS, step)
    )


def _tiles(length: int, few: int, most: int, besides: int, multiple: int) -> tuple[int, int]:
    """(rows, tiles): one tile of few rows, or rather an even number of at most so many, with the
    least work: rows that are computed, some of them in vain, and as many as a tile takes besides.
    """
    if length <= min(few, most):
        return length, 1

    def shape(count: int) -> tuple[int, int]:
        rows = round_up(-(-length // count), multiple)
        return rows, -(-length // rows)

    def cost(option: tuple[int, int]) -> tuple[int, int, int]:
        rows, tiles = option
        return tiles % CORES, tiles * (round_up(rows, _step(rows)) + besides), tiles

    fewest = round_up(-(-length // most), CORES)
    return min((shape(n) for n in range(fewest - 1, 2 * fewest + 1)), key=cost)


STEP_ROWS = 256
_PRODUCTS_A_WORD = 4 * LANES * LANES  # of the four MXUs of a core
MOST_ROWS = 2048  # of a tile
_FEW_ROWS = 512  # of the only tile, or of one of more than half of the bytes below
_TILE_BYTES = 2**20
_WORDS_A_TILE = 500  # that a step of the grid takes besides its rows
# Bytes of one buffer of weights, of which there are two, and of the windows of a group of items:
# fewer where 128 outputs alone have more weights, in float32.
_WEIGHT_BYTES = 2_500_000
_WINDOW_BYTES = 3_500_000


@functools.cache
def plan(
    batch: int,
    length: int,
    channels: int,
    outs: int,
    kernel: int,
    stride: int,
    first: int,
    itemsize: int,
) -> Plan:
    """channels and outs are multiples of 128."""
    packed = itemsize == 2
    outs_length = -(-length // stride)
    fitting = max(64, _TILE_BYTES // (channels * itemsize))
    few = min(_FEW_ROWS, fitting) // stride * min(stride, 2)
    most = min(MOST_ROWS, fitting, max(_FEW_ROWS, fitting // 2)) // stride * min(stride, 2)
    # More rows only where each core has two tiles: the first is copied in before anything runs.
    most = min(most, max(few, -(-outs_length // (2 * CORES))))
    edge = round_up(kernel + stride, ROWS)
    besides = _WORDS_A_TILE * _PRODUCTS_A_WORD // (kernel * channels * outs)
    rows, tiles = _tiles(outs_length, few, most, besides, edge)
    width = LANES
    for candidate in (512, 256):
        if outs % candidate == 0 and kernel * channels * candidate * itemsize <= _WEIGHT_BYTES:
            width = candidate
            break
    chunks = outs // width
    if tiles > 1 and tiles % CORES == 0:
        cores = "time"
    elif batch % CORES == 0 and tiles == 1 and chunks % CORES and batch > 1:
        cores = "items"
    elif chunks % CORES == 0:
        cores = "width"
    elif width > LANES:
        width //= 2
        cores = "width"
    else:
        cores = ""
    step = _step(rows)
    taps, windows = _windows(kernel, stride, edge, first, packed)
    fields: dict[str, Any] = {
        "batch": batch, "length": length, "outs_length": outs_length, "channels": channels,
        "outs": outs, "kernel": kernel, "stride": stride, "first": first, "packed": packed,
        "rows": rows, "tiles": tiles, "edge": edge, "step": step, "width": width, "items": 1,
        "joined": 1, "cores": cores, "taps": taps, "windows": windows,
    }  # fmt: skip
    one = Plan(**fields)
    if tiles == 1:
        bytes_an_item = len(windows) * channels * one.window_rows * itemsize
        group = batch // CORES if cores == "items" else batch
        beyond = max(0, kernel * channels * width * itemsize - _WEIGHT_BYTES)
        fitting = max(_WINDOW_BYTES - beyond, bytes_an_item)
        for items in range(group, 0, -1):
            if group % items == 0 and items * bytes_an_item <= fitting:
                joined = _joined(items, step) if one.steps == 1 else 1
                return dataclasses.replace(one, items=items, joined=joined)
    return one
