"""The public function: checks, and the op built from its two kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import ShapeDtypeStruct

from ..common import check, native, pallas
from ..common.dispatch import Arrays, Kernel, Op
from . import pallas_plan, reference


def _forward_outputs(x: Any, *, up: int, down: int) -> tuple[Any]:
    b, t, c = x.shape
    return (ShapeDtypeStruct((b, t * up // down, c), x.dtype),)


def _backward_outputs(dy: Any, *, up: int, down: int) -> tuple[Any]:
    b, t, c = dy.shape
    return (ShapeDtypeStruct((b, t * down // up, c), dy.dtype),)


def _forward_reference(x: Any, *, up: int, down: int) -> tuple[Any]:
    return (reference.fft_upsample(x, up, down),)


def _backward_reference(dy: Any, *, up: int, down: int) -> tuple[Any]:
    return (reference.adjoint(dy, up, down),)


def _forward_scratch(x: Any, *, up: int, down: int) -> int:
    b, t, c = x.shape
    return native.cuda_scratch("n2m_fft_upsample_fwd", B=b, T=t, C=c, up=up, down=down)


def _backward_scratch(dy: Any, *, up: int, down: int) -> int:
    b, t, c = dy.shape
    t = t * down // up
    return native.cuda_scratch("n2m_fft_upsample_bwd", B=b, T=t, C=c, up=up, down=down)


def _does_not_factor(length: int, up: int, down: int) -> str:
    """Why a TPU leaves a signal of this length to XLA, or ""."""
    p = pallas_plan.plan(length, up, down)
    if p.fits:
        return ""
    return f"{length} only factors into {p.n1} x {p.n2}, whose matrices do not fit into VMEM"


def _yields_on_tpu(
    shape: tuple[int, ...], dtype: str, *, up: int = 1, down: int = 1, **_: Any
) -> str:
    divisor = math.gcd(up, down)
    return _does_not_factor(shape[1], up // divisor, down // divisor)


FORWARD = Kernel(
    "n2m_fft_upsample_fwd",
    rule="b t c -> b u c",
    outputs=_forward_outputs,
    reference=_forward_reference,
    pallas=pallas.from_room(__package__, "forward"),
    pallas_yields=lambda x, *, up, down: _does_not_factor(x.shape[1], up, down),
    cuda_scratch=_forward_scratch,
)
BACKWARD = Kernel(
    "n2m_fft_upsample_bwd",
    rule="b u c -> b t c",
    outputs=_backward_outputs,
    reference=_backward_reference,
    pallas=pallas.from_room(__package__, "backward"),
    pallas_yields=lambda dy, *, up, down: _does_not_factor(dy.shape[1] * down // up, up, down),
    cuda_scratch=_backward_scratch,
)


def _backward(
    run: Callable[..., Arrays],
    operands: Arrays,
    outputs: Arrays,
    cotangents: Arrays,
    *,
    up: int,
    down: int,
) -> Arrays:
    return run(BACKWARD, cotangents[0], up=up, down=down)


OP = Op("fft_upsample", FORWARD, _backward, pallas_yields=_yields_on_tpu)


def fft_upsample(
    x: jax.Array, up: int, down: int = 1, *, implementation: str = "auto"
) -> jax.Array:
    """y = (T'/T) irfft_T'(P rfft_T(x)), T' = T * up / down: band-limited resampling by up / down.

    P zero-pads (or cuts) the spectrum with the Nyquist bin split in half (or summed), so that the
    result equals ``scipy.signal.resample(x, T', axis=1)``. The signal is taken as periodic.

    Args:
      x: (B, T, C), float32, or bfloat16 computed in float32.
      up: positive int. 5 takes 3.2 kHz to 16 kHz.
      down: positive int; T * up must be divisible by it. up=3, down=2 takes 16 kHz to 24 kHz.
      implementation: "auto", "reference", "native" or "pallas".

    Returns:
      (B, T', C) in the dtype of x. Differentiable in x.

    Raises:
      ValueError, TypeError: an argument has a wrong shape, dtype, type or value.
    """
    name = "fft_upsample"
    up = check.positive_int(name, "up", up)
    down = check.positive_int(name, "down", down)
    x = check.array(name, "x", x, ("B", "T", "C"))
    divisor = math.gcd(up, down)
    up, down = up // divisor, down // divisor
    if x.shape[1] % down:
        raise check.fail(
            name, "T", f"divisible by down={down}", x.shape[1], f"pad x to a multiple of {down}"
        )
    (y,) = OP(x, up=up, down=down, implementation=implementation)
    return y  # type: ignore[no-any-return]
