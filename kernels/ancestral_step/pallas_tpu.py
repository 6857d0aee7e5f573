"""ancestral_step on a TPU: one pass over memory, the clip in VMEM in between.

A clip goes through the grid twice. The first time x_t and eps are read, x_0 is formed and kept in
VMEM with x_t. Then the percentile is found there (pallas_percentile.py). The second time x_s and
x_0 are written, with z that XLA drew (docs/design/noise.md) or that is drawn here
(pallas_noise.py).
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

from ..common.pallas import LANES, divide, row_tiles
from .pallas_noise import hardware_bits, hashed_bits, normal
from .pallas_percentile import STEP_ROWS, into_lists, over_rows, percentile, scratch
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

_TILE_ROWS = 560
_TILE_WORD = np.uint32(0x9E3779B9).astype(np.int32)


def _kernel(
    coefficients: Any, *refs: Any, guided: bool, draws: Any, count: int
) -> None:
    rest = list(refs)
    seeds_ref = rest.pop(0) if draws is not None else None
    x_ref, cond_ref = rest.pop(0), rest.pop(0)
    uncond_ref = rest.pop(0) if guided else None
    z_ref = rest.pop(0) if draws is None else None
    x_s_ref, x_0_ref, x_kept, x_0_kept, lists, percentile_ref = rest
    _, rows, lanes = x_ref.shape
    clip, second, tile = (pl.program_id(i) for i in range(3))
    tiles = x_kept.shape[0] // rows
    clips = coefficients[CLIP_PERCENTILE] > 0
    at_tile = pl.multiple_of(tile * rows, 8)
    slots = lists.shape[0] // STEP_ROWS

    @pl.when((second == 0) & (tile == 0))
    def empty_lists() -> None:
        lists[...] = jnp.full(lists.shape, -1.0, jnp.float32)

    def read(padded: bool) -> None:
        w = coefficients[W]

        def body(i: Any, start: Any, size: int, carry: Any) -> Any:
            at = (0, pl.ds(start, size), slice(None))
            eps = cond_ref[at].astype(jnp.float32)
            if uncond_ref is not None:
                eps = w * eps + (1 - w) * uncond_ref[at].astype(jnp.float32)
            x = x_ref[at]
            x_0 = coefficients[INV_ALPHA_T] * x - coefficients[SIGMA_OVER_ALPHA_T] * eps
            magnitude = jnp.abs(x_0)
            if padded:
                row = at_tile + start + jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
                column = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
                value = row * lanes + column < count
                x_0 = jnp.where(value, x_0, jnp.nan)
                magnitude = jnp.where(value, magnitude, -1.0)
            kept = pl.ds(at_tile + start, size)
            x_kept[kept, :] = x
            x_0_kept[kept, :] = x_0
            into_lists(lists, (tile + i) & (slots - 1), magnitude)
            return carry

        over_rows(rows, body, 0)

    if tiles * rows * lanes == count:
        pl.when(second == 0)(lambda: read(padded=False))
    else:
        pl.when((second == 0) & (tile < tiles - 1))(lambda: read(padded=False))
        pl.when((second == 0) & (tile == tiles - 1))(lambda: read(padded=True))

    @pl.when((second == 1) & (tile == 0) & clips)
    def search() -> None:
        percentile(lists, x_0_kept, percentile_ref, count, coefficients[CLIP_PERCENTILE])

    @pl.when(second == 1)
    def write() -> None:
        floor = coefficients[CLIP_FLOOR]
        s = jnp.maximum(percentile_ref[0:1, 0:1], floor)
        gain = jnp.where(clips, floor / s, 1.0)
        s = jnp.where(clips, s, jnp.inf)
        if seeds_ref is not None:
            # The generator takes two words: the tile is mixed into the second.
            random_bits = draws(seeds_ref[clip, 0], seeds_ref[clip, 1] ^ tile * _TILE_WORD)

        def body(i: Any, start: Any, size: int, carry: Any) -> Any:
            kept = pl.ds(at_tile + start, size)
            at = (0, pl.ds(start, size), slice(None))
            x_0 = jnp.minimum(jnp.maximum(x_0_kept[kept, :], -s), s) * gain
            x_0_ref[at] = x_0
            x_s = coefficients[C_X] * x_kept[kept, :] + coefficients[C_0] * x_0
            z = z_ref[at] if z_ref is not None else normal(random_bits, i, size, lanes)
            x_s_ref[at] = x_s + coefficients[C_NOISE] * z
            return carry

        over_rows(rows, body, 0)


def _as_rows(a: Any, count: int) -> Any:
    """(B, rows, lanes): as it is if half of a register is used, else flattened; rows are padded to
    a multiple of 8."""
    batch, rows, lanes = a.shape
    if lanes < LANES // 2:
        a = jnp.pad(a.reshape(batch, count), ((0, 0), (0, -count % LANES)))
        a = a.reshape(batch, -1, LANES)
        rows = a.shape[1]
    return jnp.pad(a, ((0, 0), (0, -rows % 8), (0, 0))) if rows % 8 else a


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
    arrays = [_as_rows(a, count) for a in given]
    _, padded_rows, lanes = arrays[0].shape
    rows, tiles = row_tiles(padded_rows, _TILE_ROWS, multiple=8)
    shape = (1, rows, lanes)
    first = pl.BlockSpec(shape, lambda b, s, t: (b, jnp.where(s == 0, t, tiles - 1), 0))
    second = pl.BlockSpec(shape, lambda b, s, t: (b, jnp.where(s == 0, 0, t), 0))
    scalars = [coefficients]
    draws = None
    if seeds is not None:
        scalars.append(jax.lax.bitcast_convert_type(seeds, jnp.int32))
        draws = hashed_bits if interpret else hardware_bits
    kept = pltpu.VMEM((rows * tiles, lanes), jnp.float32)
    x_s, x_0 = pl.pallas_call(
        functools.partial(
            _kernel, guided=eps_uncond is not None, draws=draws, count=count
        ),
        name="n2m_ancestral_step_fwd",
        grid=(batch, 2, tiles),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(scalars)
        + [first] * (len(arrays) - (z is not None))
        + [second] * (z is not None),
        out_specs=[second, second],
        out_shape=[ShapeDtypeStruct(arrays[0].shape, jnp.float32)] * 2,
        scratch_shapes=[kept, kept, *scratch(tiles, rows, lanes)],
        # x_s takes the place of x_t, which is read before anything is written.
        input_output_aliases={len(scalars): 0},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=(14 + 3 * 10) * batch * count,
            transcendentals=0 if z is not None else batch * count,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays) + 8 * batch * count,
        ),
        interpret=interpret,
    )(*scalars, *arrays)
    if x_s.shape != x_t.shape:
        x_s, x_0 = (a.reshape(batch, -1)[:, :count].reshape(x_t.shape) for a in (x_s, x_0))
    return x_s, x_0
