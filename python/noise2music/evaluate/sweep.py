"""What a sweep varies: one inference parameter at a time, stage by stage (sections 4.5, 4.6)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.cascade import Pipeline
from noise2music.clip import Clip
from noise2music.config import ROUTES
from noise2music.evaluate.encoders.protocol import DEFAULT_ENCODERS
from noise2music.evaluate.sounds import Item
from noise2music.stage import Sampler
from noise2music.weights import file_hash

GUIDANCE = (1.0, 2.0, 5.0, 10.0, 15.0)  # Figure 2
DENOISING = ("front_heavy", "uniform", "back_heavy")
STEPS = (0.25, 0.5, 2.0)  # times the model's own number
GAMMA = (0.0, 0.5, 1.0)
AXES = ("guidance", "denoising", "steps", "gamma")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point: its name, the stage and parameter that are varied, the value, what `pipe` gets.

    stage: "" where both are. parameter: one of AXES; "" is the model as shipped.
    """

    name: str
    stage: str
    parameter: str
    value: str
    options: dict[str, Any]


AS_SHIPPED = Setting("base", "", "", "", {})


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A model's route, captioned clips, and who judges what is made.

    The first `count` clips of the reference give the prompts and are what similarity is measured
    to; the others are FAD's reference, so that the first have a distance of their own: that of real
    clips. encoder: of FAD. similarity: of similarity, one that reads text. components, draws,
    force: see `fad.compare`. workers: processes that hear.
    """

    pipe: Pipeline
    route: str
    reference: list[Item]
    count: int
    out: Path
    axes: tuple[str, ...] = AXES
    seconds: float = 10.0
    seed: int = 0
    encoder: str = DEFAULT_ENCODERS[0]
    similarity: str = "joint"
    components: int | None = None
    draws: int = 100
    force: bool = False
    workers: int = 1

    @property
    def stages(self) -> tuple[str, str]:
        """The generator, and the cascader or vocoder up to 16 kHz."""
        return ROUTES[self.route][:2]

    @property
    def partners(self) -> list[Item]:
        """The clips whose prompts are used."""
        return self.reference[: self.count]

    @property
    def others(self) -> list[Item]:
        """FAD's reference."""
        return self.reference[self.count :]

    def settings(self) -> list[Setting]:
        """The model as shipped, and every point of the axes, its own value included."""
        made = [AS_SHIPPED]
        for axis in self.axes:
            made += getattr(self, f"_{axis}")()
        return made

    def _guidance(self) -> Iterator[Setting]:
        for stage in self.stages:
            config = self.pipe.stages[stage]
            if config.unet.has_text:
                own = 1.0 if config.guidance is None else config.guidance
                for w in sorted({*GUIDANCE, own}):
                    yield _setting(stage, "guidance", f"{w:g}", {"guidance": {stage: w}})

    def _denoising(self) -> Iterator[Setting]:
        for stage in self.stages:
            for name in DENOISING:
                yield _setting(stage, "denoising", name, {"denoising": {stage: name}})

    def _steps(self) -> Iterator[Setting]:
        for stage in self.stages:
            own = len(self.pipe.stage(stage).coefficients().t)
            for n in sorted({max(1, round(f * own)) for f in STEPS} | {own}):
                yield _setting(stage, "steps", str(n), {"steps": {stage: n}})

    def _gamma(self) -> Iterator[Setting]:
        for gamma in GAMMA:
            yield Setting(f"gamma-{gamma:g}", "", "gamma", f"{gamma:g}", {"gamma": gamma})

    def makers(self, settings: Sequence[Setting]) -> dict[str, Setting]:
        """Name of each setting -> the first one that makes the same clips (often itself)."""
        first: dict[str, Setting] = {}
        return {s.name: first.setdefault(self._fingerprint(s), s) for s in settings}

    def _fingerprint(self, setting: Setting) -> str:
        """Hash of the samplers' coefficients: nothing else of a clip depends on the setting."""
        digest = hashlib.sha256()
        for stage in self.stages:
            own = {
                key: value.get(stage) if isinstance(value, dict) else value
                for key, value in setting.options.items()
            }
            table = self.pipe.stage(stage).coefficients(Sampler(**own))
            for rows in (table.t, table.step, table.c_p):
                digest.update(np.ascontiguousarray(rows).tobytes())
        return digest.hexdigest()

    def generate(self, setting: Setting, prompts: Sequence[str], index: int = 0) -> list[Clip]:
        """Clips of a setting at 16 kHz, before super-resolution; `index` as for the pipeline."""
        clips = self.pipe(
            list(prompts), seconds=self.seconds, seed=self.seed, route=self.route, index=index,
            until=self.stages[1], **setting.options,
        )  # fmt: skip
        assert isinstance(clips, list)
        return clips

    def identity(self) -> dict[str, Any]:
        """All that a clip depends on beside its setting; of the model, the stages that make it."""
        folder = Path(self.pipe.folder)
        names = (*self.stages, "text_encoder")
        files = [folder / f"{name}.safetensors" for name in names]
        return {
            "model": self.pipe.name,
            "weights": file_hash([path for path in files if path.is_file()]),
            "route": self.route,
            "seconds": self.seconds,
            "seed": self.seed,
            "prompts": [item.text for item in self.partners],
        }


def _setting(stage: str, parameter: str, value: str, options: dict[str, Any]) -> Setting:
    return Setting(f"{stage}-{parameter}-{value}", stage, parameter, value, options)
