"""Evaluation a reader can trust: FAD with its uncertainty, similarity, ablations, listening.

    from noise2music.evaluate import frechet_distance
    frechet_distance(x, y)          # embeddings (n, d) and (m, d)

See docs/evaluate.md. Names are resolved on first use; importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Embedded": "embedding",
    "Estimate": "uncertainty",
    "FadResult": "fad",
    "Moments": "moments",
    "Item": "sounds",
    "compare": "fad",
    "embed_set": "embedding",
    "estimate": "uncertainty",
    "fad_infinity": "frechet",
    "frechet_distance": "frechet",
    "kernel_distance": "kernel_distance",
    "load_encoder": "encoders",
    "per_clip": "frechet",
    "read_set": "sounds",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
