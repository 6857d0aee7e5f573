"""The native ops: what is computed. ``kernels/README.md`` is the map.

Every op takes ``implementation=``: "auto" (the best for the platform the program is lowered for),
"reference" (plain jnp), "native" (an error where there is none) or "pallas" (for TPU; elsewhere
Pallas's interpreter runs it, slowly).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .ancestral_step.op import OP as _ancestral_step
from .ancestral_step.op import ancestral_step
from .combine_film.op import OP as _combine_film
from .combine_film.op import combine_film
from .common import check as _check
from .common import dispatch as _dispatch
from .common.native import build_info
from .conv1d_block.op import OP as _conv1d_block
from .conv1d_block.op import conv1d_block
from .fft_upsample.op import OP as _fft_upsample
from .fft_upsample.op import fft_upsample

OPS = {op.name: op for op in (_combine_film, _conv1d_block, _fft_upsample, _ancestral_step)}

__all__ = [
    "OPS",
    "ancestral_step",
    "build_info",
    "combine_film",
    "conv1d_block",
    "explain",
    "fft_upsample",
]


def explain(
    op: str, shape: Sequence[int], dtype: Any, platform: str = "cpu", **details: Any
) -> _dispatch.Explanation:
    """Which implementation runs for a first operand of this shape and dtype, and why no other.

    For conv1d_block ``weight=(K, C, D)`` (and ``stride``, ``algorithm``) adds the algorithm of each
    pass.

    >>> print(explain("combine_film", (2, 100, 64), "float32"))  # doctest: +SKIP
    n2m.combine_film (2, 100, 64) float32 on cpu: native
      not pallas: the Pallas kernels are for TPU
      not reference: comes last
    """
    if op not in OPS:
        raise _check.fail("explain", "op", "one of " + ", ".join(sorted(OPS)), repr(op))
    return _dispatch.explain(OPS[op], shape, dtype, platform, details)
