"""The public function: checks, and the op built from its three kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from ..common import check, native, pallas, shards
from ..common.dispatch import Arrays, Kernel, Op
from . import reference


def _forward_outputs(x: Any, emb: Any, kernel: Any, bias: Any, *, groups: int) -> tuple[Any, Any]:
    sums = ShapeDtypeStruct((x.shape[0], groups, 2), jnp.float32) if groups else None
    return ShapeDtypeStruct(x.shape, x.dtype), sums


def _backward_outputs(
    x: Any, emb: Any, kernel: Any, bias: Any, dy: Any, dsums: Any, *, groups: int
) -> tuple[Any, Any]:
    dfilm = ShapeDtypeStruct((x.shape[0], 2 * x.shape[2]), jnp.float32)
    return ShapeDtypeStruct(x.shape, x.dtype), dfilm


def _backward_params_outputs(emb: Any, kernel: Any, dfilm: Any) -> tuple[Any, Any, Any]:
    shapes = (emb.shape, kernel.shape, dfilm.shape[1:])
    return tuple(ShapeDtypeStruct(s, jnp.float32) for s in shapes)  # type: ignore[return-value]


def _scratch(target: str) -> Callable[..., int]:
    def floats(x: Any, *operands: Any, groups: int) -> int:
        b, t, c = x.shape
        return native.cuda_scratch(target, B=b, T=t, C=c, G=groups)

    return floats


FORWARD = Kernel(
    "n2m_combine_film_fwd",
    rule="b t c, b e, e f, f -> b t c, b g s",
    outputs=_forward_outputs,
    reference=reference.forward,
    pallas=pallas.from_room(__package__, "forward"),
    cuda_scratch=_scratch("n2m_combine_film_fwd"),
)
BACKWARD = Kernel(
    "n2m_combine_film_bwd",
    rule="b t c, b e, e f, f, b t c, b g s -> b t c, b f",
    outputs=_backward_outputs,
    reference=reference.backward,
    pallas=pallas.from_room(__package__, "backward"),
    cuda_scratch=_scratch("n2m_combine_film_bwd"),
)
BACKWARD_PARAMS = Kernel(
    "n2m_combine_film_bwd_params",
    rule="b e, e f, b f -> b e, e f, f",
    outputs=_backward_params_outputs,
    reference=reference.backward_params,
)


def _backward(
    run: Callable[..., Arrays],
    operands: Arrays,
    outputs: Arrays,
    cotangents: Arrays,
    *,
    groups: int,
) -> Arrays:
    x, emb, kernel, bias = operands
    dy, dsums = cotangents
    dx, dfilm = run(BACKWARD, x, emb, kernel, bias, dy, dsums, groups=groups)
    return dx, *run(BACKWARD_PARAMS, emb, kernel, dfilm)


OP = Op("combine_film", FORWARD, _backward)


def combine_film(
    x: jax.Array,
    emb: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    groups: int | None = None,
    time_axis: str | None = None,
    implementation: str = "auto",
) -> Any:
    """y = x * (1 + scale) + shift, with [scale, shift] = emb @ kernel + bias.

    Args:
      x: (B, T, C), float32 or bfloat16.
      emb: (B, E), one embedding an item, float32 or bfloat16, as kernel and bias.
      kernel: (E, 2C), the scale columns first.
      bias: (2C,).
      groups: G, a divisor of C: also return the group sums of y that a GroupNorm after it needs.
      time_axis: the axis of the ``shard_map`` around the call that splits time: x and y are one
        device's rows, sums the mean over the devices of their own sums (see ``conv1d_block``).
      implementation: "auto", "reference", "native" or "pallas".

    Returns:
      y (B, T, C) in the dtype of x; with groups, the pair (y, sums), where sums is float32
      (B, G, 2): the sum and the sum of squares of y, as stored, over time and the C/G contiguous
      channels of a group.

    Raises:
      ValueError, TypeError: an argument has a wrong shape, dtype or type; the message names it.
    """
    name = "combine_film"
    x = check.array(name, "x", x, ("B", "T", "C"))
    b, _, c = x.shape
    emb = check.array(name, "emb", emb, (b, "E"))
    kernel = check.array(name, "kernel", kernel, (emb.shape[1], 2 * c))
    bias = check.array(name, "bias", bias, (2 * c,))
    count = 0 if groups is None else check.groups(name, "groups", groups, c)
    # Parameters enter as float32: their gradients are sums over the batch.
    emb, kernel, bias = (p.astype(jnp.float32) for p in (emb, kernel, bias))
    y, sums = OP(x, emb, kernel, bias, groups=count, implementation=implementation)
    if time_axis is not None and shards.size(name, "time_axis", time_axis) > 1 and count:
        sums = shards.mean(sums, time_axis)
    return y if groups is None else (y, sums)
