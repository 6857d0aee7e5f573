"""ancestral_step on a TPU: one pass over memory, the clip in VMEM in between.

x_t and eps come in tile by tile, the next one while x_0 of the last is formed; x_t and x_0 stay in
VMEM. Then the percentile is found there (pallas_percentile.py), while z comes in that XLA drew
(docs/design/noise.md), if it is not drawn here (pallas_noise.py). Then x_s and x_0 are formed where
x_t and x_0 lie, and go out tile by tile.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..common.pallas import LANES, round_up
from .pallas_layout import ROWS, as_rows, from_rows
from .pallas_noise import hardware_bits, hashed_bits, normal
from .pallas_percentile import (
    KEPT,
    into_lists,
    over_rows,
    percentile,
    pieces,
    scratch,
    whole,
)
from .reference import (
    C_0,
    C_NOISE,
    C_X,
    CLIP_FLOOR,
    CLIP_PERCENTILE,
    INV_ALPHA_T,
    SIGMA_OVER_ALPHA_T,
    W,
)

_TILE = 512 * LANES  # values that are copied at once, at most
_FEWEST = 2  # tiles of a clip: nothing is done while the first comes in and the last goes out
# Values of a step: what the registers hold without spilling.
_READ, _WRITE = 64 * LANES, 128 * LANES
_TILE_WORD = np.uint32(0x9E3779B9).astype(np.int32)


def _kernel(coefficients: Any, *refs: Any, guided: bool, draws: Any, count: int) -> None:
    rest = list(refs)
    seeds_ref = rest.pop(0) if draws is not None else None
    x_in = rest.pop(0)
    eps_in = [rest.pop(0) for _ in range(1 + guided)]
    z_in = rest.pop(0) if draws is None else None
    x_s_out, x_0_out, x, x_0 = (rest.pop(0) for _ in range(4))
    z = rest.pop(0) if draws is None else None
    eps, lists, percentile_ref, arrived, z_arrived, left = rest
    rows, lanes = x.shape
    clip = pl.program_id(0)
    clips = coefficients[CLIP_PERCENTILE] > 0
    slots = lists.shape[0] // (KEPT * 8)
    tile_rows = eps.shape[2]
    read_rows, write_rows = (max(8, step // lanes // 8 * 8) for step in (_READ, _WRITE))

    def copies_in(tile: Any, start: Any, size: int) -> list[Any]:
        at, half = pl.ds(start, size), tile & 1
        copies = [(x_in.at[clip, at], x.at[at])]
        copies += [
            (ref.at[clip, at], eps.at[half, i, pl.ds(0, size)]) for i, ref in enumerate(eps_in)
        ]
        return [
            pltpu.make_async_copy(source, target, arrived.at[half, i])
            for i, (source, target) in enumerate(copies)
        ]

    def copies_of_z(tile: Any, start: Any, size: int) -> list[Any]:
        if z is None or z_in is None:
            return []
        at = pl.ds(start, size)
        return [pltpu.make_async_copy(z_in.at[clip, at], z.at[at], z_arrived.at[tile])]

    def copies_out(tile: Any, start: Any, size: int) -> list[Any]:
        at = pl.ds(start, size)
        return [
            pltpu.make_async_copy(source.at[at], target.at[clip, at], left.at[i])
            for i, (source, target) in enumerate(((x, x_s_out), (x_0, x_0_out)))
        ]

    def read(tile: Any, start: Any, size: int) -> None:
        w = coefficients[W]

        def magnitude(here: Any, at: Any) -> Any:
            """Of a register of eps and of the clip, whose x_0 is kept."""
            e = eps[tile & 1, 0, *here].astype(jnp.float32)
            if guided:
                e = w * e + (1 - w) * eps[tile & 1, 1, *here].astype(jnp.float32)
            y = coefficients[INV_ALPHA_T] * x[at] - coefficients[SIGMA_OVER_ALPHA_T] * e
            if rows * lanes == count:
                x_0[at] = y
                return whole(jnp.abs(y))
            row, lane = (jax.lax.broadcasted_iota(jnp.int32, y.shape, axis) for axis in (0, 1))
            place = (at[0].start + row) * lanes + at[1].start + lane
            x_0[at] = jnp.where(place < count, y, jnp.nan)
            return whole(jnp.where(place < count, jnp.abs(y), -1.0))

        def body(i: Any, row: Any, some: int, carry: Any) -> Any:
            both = list(zip(*(pieces(at, some, lanes) for at in (row, start + row)), strict=True))
            for first in range(0, len(both), KEPT):
                slot = (tile + i * -(-len(both) // KEPT) + first // KEPT) & (slots - 1)
                into_lists(lists, slot, [magnitude(*at) for at in both[first : first + KEPT]])
            return carry

        over_rows(size, body, 0, read_rows)

    def write(tile: Any, start: Any, size: int) -> None:
        floor, c_noise = coefficients[CLIP_FLOOR], coefficients[C_NOISE]
        s = jnp.maximum(percentile_ref[0:1, 0:1], floor)
        gain = jnp.where(clips, floor / s, 1.0)
        s = jnp.where(clips, s, jnp.inf)
        if seeds_ref is not None:
            # The generator takes two words: the tile is mixed into the second.
            word = jnp.asarray(tile, jnp.int32) * _TILE_WORD
            random_bits = draws(seeds_ref[clip, 0], seeds_ref[clip, 1] ^ word)

        def body(i: Any, row: Any, some: int, carry: Any) -> Any:
            places = pieces(start + row, some, lanes)
            if z is None:
                drawn = normal(random_bits, i, len(places), c_noise)
            for at in places:
                y = jnp.minimum(jnp.maximum(x_0[at], -s), s) * gain
                x_0[at] = y
                noise = next(drawn)[:, : at[1].size] if z is None else c_noise * z[at]
                x[at] = coefficients[C_X] * x[at] + coefficients[C_0] * y + noise
            return carry

        over_rows(size, body, 0, write_rows)

    def begin(copies: list[Any]) -> None:
        for copy in copies:
            copy.start()

    def finish(copies: list[Any]) -> None:
        for copy in copies:
            copy.wait()

    full, last = divmod(rows, tile_rows)

    def over_tiles(body: Any) -> None:
        def one(tile: Any, start: Any, size: int, carry: Any) -> Any:
            body(tile, start, size)
            return carry

        over_rows(rows, one, 0, tile_rows)

    def read_tile(tile: Any, start: Any, size: int) -> None:
        if size == tile_rows:
            follows = pl.multiple_of(start + size, ROWS)

            @pl.when(tile + 1 < full)
            def next_tile() -> None:
                begin(copies_in(tile + 1, follows, size))

            if last:

                @pl.when(tile + 1 == full)
                def last_tile() -> None:
                    begin(copies_in(full, full * tile_rows, last))

        finish(copies_in(tile, start, size))
        read(tile, start, size)

    def write_tile(tile: Any, start: Any, size: int) -> None:
        finish(copies_of_z(tile, start, size))
        write(tile, start, size)
        begin(copies_out(tile, start, size))

    begin(copies_in(0, 0, min(rows, tile_rows)))
    lists[...] = jnp.full(lists.shape, -1.0, jnp.float32)
    over_tiles(read_tile)
    over_tiles(lambda *tile: begin(copies_of_z(*tile)))

    @pl.when(clips)
    def search() -> None:
        percentile(lists, x_0, percentile_ref, count, coefficients[CLIP_PERCENTILE])

    over_tiles(write_tile)
    over_tiles(lambda *tile: finish(copies_out(*tile)))


def step(
    x_t: Any, eps_cond: Any, eps_uncond: Any, z: Any, coefficients: Any, *, interpret: Any
) -> tuple[Any, Any]:
    """(x_s, x_0), as `reference.step`."""
    return _call(x_t, eps_cond, eps_uncond, z, None, coefficients, interpret)


def step_with_noise(
    x_t: Any, eps_cond: Any, eps_uncond: Any, seeds: Any, coefficients: Any, *, interpret: Any
) -> tuple[Any, Any]:
    """The same with z drawn in the kernel. seeds (B, 4): words of a key and of `first_counter`."""
    key = jax.random.wrap_key_data(seeds[:, :2], impl="threefry2x32")
    for i in (2, 3):
        key = jax.vmap(jax.random.fold_in)(key, seeds[:, i])
    words = jax.random.key_data(key)
    return _call(x_t, eps_cond, eps_uncond, None, words, coefficients, interpret)


def _call(
    x_t: Any, eps_cond: Any, eps_uncond: Any, z: Any, seeds: Any, coefficients: Any, interpret: Any
) -> tuple[Any, Any]:
    batch, length, channels = x_t.shape
    count = length * channels
    given = [a for a in (x_t, eps_cond, eps_uncond, z) if a is not None]
    arrays = [as_rows(a) for a in given]
    _, rows, lanes = arrays[0].shape
    tile = min(max(ROWS, _TILE // lanes // ROWS * ROWS), round_up(-(-rows // _FEWEST), ROWS))
    tiles = -(-rows // tile)
    scalars = [coefficients]
    draws = None
    if seeds is not None:
        scalars.append(jax.lax.bitcast_convert_type(seeds, jnp.int32))
        draws = hashed_bits if interpret else hardware_bits
    kept = [pltpu.VMEM((rows, lanes), jnp.float32)] * (2 + (z is not None))
    guided = eps_uncond is not None
    eps = pltpu.VMEM((2, 1 + guided, tile, lanes), eps_cond.dtype)
    semaphores = [pltpu.SemaphoreType.DMA(n) for n in ((2, 2 + guided), (tiles,), (2,))]
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    x_s, x_0 = pl.pallas_call(
        functools.partial(_kernel, guided=guided, draws=draws, count=count),
        name="n2m_ancestral_step_fwd",
        grid=(batch,),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(scalars) + [anywhere] * len(arrays),
        out_specs=[anywhere, anywhere],
        out_shape=[ShapeDtypeStruct(arrays[0].shape, jnp.float32)] * 2,
        scratch_shapes=[*kept, eps, *scratch(rows, lanes), *semaphores],
        # x_s takes the place of x_t, which is read before anything is written.
        input_output_aliases={len(scalars): 0},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=pl.CostEstimate(
            flops=(14 + 3 * 10) * batch * count,
            transcendentals=0 if z is not None else batch * count,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays) + 8 * batch * count,
        ),
        interpret=interpret,
    )(*scalars, *arrays)
    return from_rows(x_s, x_t.shape), from_rows(x_0, x_t.shape)
