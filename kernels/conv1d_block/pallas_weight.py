"""The gradient of the weight of conv1d_block on a TPU.

    dweight[k] = sum over items and rows of  tap_k(h)^T dy

h comes through the same load and windows as in the forward pass. dy is transposed, once a tile, and
stays on the left: dy^T tap_k is a product on the MXU, of shape (D, C), which XLA turns round.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ..common.pallas import CORES, LANES
from .pallas_conv import product, tap
from .pallas_load import Job, load
from .pallas_plan import Plan, plan

# Bytes of the gradient of one chunk of D, float32, of which there are two buffers.
_GRADIENT_BYTES = 2_400_000


def weight_plan(*sizes: int) -> Plan:
    """`plan` of the forward pass with chunks of D whose gradient fits, for the grid below."""
    p = plan(*sizes)
    width = LANES
    if p.outs % 256 == 0 and p.kernel * p.channels * 256 * 4 <= _GRADIENT_BYTES:
        width = 256
    cores = ""
    if p.outs // width % CORES == 0:
        cores = "width"
    elif p.tiles % CORES == 0:
        cores = "time"
    return dataclasses.replace(p, width=width, joined=1, cores=cores)


def parts(p: Plan) -> int:
    """Gradients that are left to add: one of each core that took other rows."""
    return CORES if p.cores == "time" else 1


def kernel(job: Job, p: Plan, *refs: Any) -> None:
    """One step of the grid (cores, chunks of D, outer, items)."""
    rest = list(refs)

    def take(there: bool = True) -> Any:
        return rest.pop(0) if there else None

    core, chunk, outer, item = (pl.program_id(i) for i in range(4))
    _, tile, _ = p.place(core, outer, chunk, item)
    pieces = [(take(), None) for _ in range(1 if p.tiles == 1 else 3)]
    affine = take(job.load == "norm")
    dy_ref, y_ref, share = take(), take(job.sums), take(job.sums)
    out, loaded, windows = rest
    kept = p.grid[1] == 1  # the windows of every item stay for the next chunk of D

    @pl.when((outer == 0) & (item == 0))
    def start_from_zero() -> None:
        out[...] = jnp.zeros(out.shape, out.dtype)

    @pl.when((chunk == 0) if kept else (chunk >= 0))
    def load_tile() -> None:
        load(job, p, 0, pieces, affine, tile, loaded, windows.at[item])

    def step(start: Any, size: int) -> None:
        at = (0, pl.ds(start, size), slice(None))
        dy = dy_ref[at].astype(jnp.float32)
        if share is not None:
            dy = dy + share[0, 0:1, :] + 2 * y_ref[at].astype(jnp.float32) * share[0, 1:2, :]
        if p.outs_length % p.rows:
            row = tile * p.rows + start + jax.lax.broadcasted_iota(jnp.int32, dy.shape, 0)
            dy = jnp.where(row < p.outs_length, dy, 0)
        if size < p.step:
            dy = jnp.concatenate([dy, jnp.zeros((p.step - size, dy.shape[1]), dy.dtype)])
        turned = dy.T.astype(dy_ref.dtype)
        for k in range(p.kernel):
            for c in range(0, p.chunks, 2):
                chunks = range(c, min(c + 2, p.chunks))
                columns = slice(chunks.start * LANES, chunks.stop * LANES)
                out[0, k, :, columns] += product(turned, tap(p, windows, item, k, chunks, start))

    def one(i: Any, carry: Any) -> Any:
        step(pl.multiple_of(i * p.step, p.step), p.step)
        return carry

    whole = p.rows // p.step
    if whole:
        jax.lax.fori_loop(0, whole, one, 0)
    if p.rows % p.step:
        step(whole * p.step, p.rows % p.step)
