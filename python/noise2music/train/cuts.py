"""Where training snippets are cut: lengths that the U-Net takes, starts on whole samples."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music.config import StageConfig


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Snippets of `length` target samples (or mel frames) out of clips of `seconds`.

    A snippet starts at a multiple of `unit`, so that its condition too is cut at whole samples;
    `covered` is the length in whole units; there are `places` of them to start at.
    """

    length: int
    unit: int
    covered: int
    places: int

    @classmethod
    def of(cls, config: StageConfig, seconds: Fraction) -> Cuts:
        """ValueError where a clip is shorter than one unit of the U-Net."""
        compression = config.unet.compression
        available = int(seconds * config.rate)
        length = config.legal_length(round(config.train_seconds * config.rate))
        if length > available:
            length = available // compression * compression
        if length == 0:
            raise ValueError(
                f"n2m.train: clips must be at least {compression / config.rate:.2f} s "
                f"long for {config.name}, got {float(seconds):.2f} s"
            )
        unit = {"stacked": lambda: config.up[0], "aligned": lambda: compression}.get(
            config.condition, lambda: 1
        )()
        covered = -(-length // unit) * unit  # a stacked condition covers whole units
        # A clip that ends inside the last unit has one place all the same, its start.
        places = max(0, (available - covered) // unit) + 1
        return cls(length, unit, covered, 1 if config.train_from == "start" else places)


def as_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """int16 samples to [-1, 1); others as they are; float32."""
    scale = np.float32(1 / 32768) if values.dtype == np.int16 else np.float32(1)
    return values.astype(np.float32) * scale
