"""noise2music: text-conditioned music generation by a cascade of 1D diffusion U-Nets.

    import noise2music
    pipe = noise2music.load("tiny")
    clip = pipe("slow church organ chorale in D minor", seconds=10, seed=0)
    clip.save("out.wav")

Names are resolved on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noise2music.cascade import Pipeline, load
    from noise2music.clip import Clip
    from noise2music.errors import OutputError, UserError

    __version__: str

__all__ = ["Clip", "OutputError", "Pipeline", "UserError", "__version__", "load"]

_HOMES = {
    "Clip": "noise2music.clip",
    "OutputError": "noise2music.errors",
    "Pipeline": "noise2music.cascade",
    "UserError": "noise2music.errors",
    "load": "noise2music.cascade",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    # pyproject.toml holds the version; an installed package carries it in its metadata.
    from importlib import metadata

    try:
        return metadata.version("noise2music")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"
