"""int8 weights of convolutions and dense layers, for files a quarter of the size of float32.

Symmetric, a scale for each output channel d (the last axis):

    s_d = max_i |w_{i, d}| / 127,   q_{i, d} = round(w_{i, d} / s_d),   w'_{i, d} = s_d q_{i, d}

so that |w' - w| <= s_d / 2. Arithmetic stays in floating point: w' is formed once, on loading.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SCALE = ".int8_scale"  # behind a tensor's name: its s (D,), float32


def quantize(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights (..., D) of two or more axes as int8 with their scales; others as float16."""
    out = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            out[name] = tensor.astype(np.float16)
            continue
        w = tensor.astype(np.float32)
        # A channel with NaN or Inf gets such a scale, and the writer refuses that.
        scale = np.abs(w).max(axis=tuple(range(w.ndim - 1)), initial=0.0) / np.float32(127)
        with np.errstate(invalid="ignore"):
            q = np.rint(w / np.where(scale > 0, scale, 1))
        out[name] = np.nan_to_num(q).astype(np.int8)
        out[name + SCALE] = scale.astype(np.float32)
    return out


def dequantize(tensors: Mapping[str, np.ndarray], path: object) -> dict[str, np.ndarray]:
    """The tensors of a file with w' in place of its int8 weights and their scales.

    ValueError where one is without the other.
    """
    out = {n: t for n, t in tensors.items() if t.dtype != np.int8 and not n.endswith(SCALE)}
    for name, tensor in tensors.items():
        if tensor.dtype == np.int8:
            scale = tensors.get(name + SCALE)
            if scale is None or scale.shape != tensor.shape[-1:]:
                raise ValueError(
                    f"n2m.weights: {path}: tensor {name} must have its scales, "
                    f"{name}{SCALE} of shape {tensor.shape[-1:]}, as it is int8"
                )
            out[name] = tensor * scale.astype(np.float32)
        elif name.endswith(SCALE) and tensors.get(name[: -len(SCALE)], tensor).dtype != np.int8:
            raise ValueError(f"n2m.weights: {path}: {name} must belong to a tensor of int8")
    return out
