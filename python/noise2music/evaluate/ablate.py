"""Sweeps of inference parameters, one at a time (sections 4.5 and 4.6), that survive a kill.

A sweep's folder holds `sweep.json` (what is swept; a run with other settings is refused),
`clips/SETTING/0000.wav`, ..., `times.jsonl` and `results.json`. What is there is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from noise2music.cascade import AT_ONCE, Pipeline
from noise2music.config import ROUTES
from noise2music.errors import OutputError, UserError
from noise2music.evaluate import evaluation, sounds
from noise2music.weights import file_hash

GUIDANCE = (1.0, 2.0, 5.0, 10.0, 15.0)  # Figure 2
DENOISING = ("front_heavy", "uniform", "back_heavy")
STEPS = (0.25, 0.5, 2.0)  # times the model's own number
GAMMA = (0.0, 0.5, 1.0)
AXES = ("guidance", "denoising", "steps", "gamma")

Progress = Callable[[str, int, int], None]

_NONE = (math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point: its name, the line of the figures it belongs to, its value, what `pipe` gets."""

    name: str
    axis: str
    value: str
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """A setting and what was found: fad (FAD-infinity) and similarity with their intervals.

    failed: clips that a stage gave up (NaN, silence) or that cannot be judged; with fewer than four
    left there are no figures (NaN). seconds: the median time of a clip, of `timed` batches of four;
    None where not timed.
    """

    setting: Setting
    clips: int
    failed: int
    seconds: float | None
    timed: int
    rows: int = 0
    d: int = 0
    kind: str = "audio"
    fad: tuple[float, float, float] = _NONE
    plain_fad: float = math.nan
    similarity: tuple[float, float, float] = _NONE


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is swept: the model's route, prompts with their reference clips, and the encoder."""

    pipe: Pipeline
    route: str
    reference: list[sounds.Item]
    count: int
    out: Path
    axes: tuple[str, ...] = AXES
    seconds: float = 10.0
    seed: int = 0
    options: evaluation.Options = evaluation.Options()

    @property
    def stages(self) -> tuple[str, str]:
        """The generator, and the cascader or vocoder up to 16 kHz."""
        return ROUTES[self.route][:2]

    def settings(self) -> list[Setting]:
        """The model's own settings, "base", and every point of the axes."""
        made = [Setting("base", "base", "", {})]
        for axis in self.axes:
            made += getattr(self, f"_{axis}")()
        return made

    def _guidance(self) -> Iterator[Setting]:
        for stage in self.stages:
            if self.pipe.stages[stage].unet.has_text:
                for w in GUIDANCE:
                    yield _setting(stage, "guidance", f"{w:g}", {"guidance": {stage: w}})

    def _denoising(self) -> Iterator[Setting]:
        for stage in self.stages:
            for name in DENOISING:
                yield _setting(stage, "denoising", name, {"denoising": {stage: name}})

    def _steps(self) -> Iterator[Setting]:
        for stage in self.stages:
            own = len(self.pipe.stage(stage).coefficients().t)
            for n in sorted({max(1, round(f * own)) for f in STEPS} - {own}):
                yield _setting(stage, "steps", str(n), {"steps": {stage: n}})

    def _gamma(self) -> Iterator[Setting]:
        for gamma in GAMMA:
            yield Setting(f"gamma-{gamma:g}", "gamma", f"{gamma:g}", {"gamma": gamma})

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
            "prompts": [item.text for item in self.reference[: self.count]],
        }


def _setting(stage: str, axis: str, value: str, options: dict[str, Any]) -> Setting:
    return Setting(f"{stage}-{axis}-{value}", f"{stage} {axis}", value, options)


def run(sweep: Sweep, *, timed: int = 1, progress: Progress | None = None) -> list[Point]:
    """Makes what is missing, measures, and writes `results.json`.

    timed: batches of four clips whose time is taken, after one that is not counted, for each
    setting with another number of steps.

    Raises:
      UserError: the folder holds another sweep, or a prompt is missing.
    """
    prompts = [item.text for item in sweep.reference[: sweep.count]]
    if len(prompts) < max(4, sweep.count) or not all(prompts):
        raise UserError(
            f"the reference must begin with {max(4, sweep.count)} clips that have a prompt, "
            f"got {sum(map(bool, prompts))}"
        )
    _claim(sweep)
    settings = sweep.settings()
    silent: dict[str, int] = {}
    for number, setting in enumerate(settings):
        silent[setting.name] = _make_clips(sweep, setting, prompts)
        if progress is not None:
            progress("settings", number + 1, len(settings))
    times = _take_times(sweep, settings, prompts, timed)
    points = [_measure(sweep, s, silent[s.name], times.get(s.name, [])) for s in settings]
    rows = [_without_nan(dataclasses.asdict(p)) for p in points]
    text = json.dumps(rows, indent=1, allow_nan=False)
    (sweep.out / "results.json").write_text(text + "\n", encoding="utf-8")
    return points


def _without_nan(value: Any) -> Any:
    """None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _claim(sweep: Sweep) -> None:
    path = sweep.out / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(sweep.identity(), indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{str(sweep.out)!r} holds a sweep of another model, seed, length or other prompts: "
            "choose another --out"
        )
    path.write_text(text, encoding="utf-8")


def _generate(sweep: Sweep, setting: Setting, prompts: Sequence[str], index: int) -> list[Any]:
    clips = sweep.pipe(
        list(prompts), seconds=sweep.seconds, seed=sweep.seed, route=sweep.route, index=index,
        until=sweep.stages[1], **setting.options,
    )  # fmt: skip
    assert isinstance(clips, list)
    return clips


def _make_clips(sweep: Sweep, setting: Setting, prompts: Sequence[str]) -> int:
    """Makes the clips that are not there; returns how many the model gave up (NaN, silence)."""
    from noise2music.audio import write_audio

    folder = sweep.out / "clips" / setting.name
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for first in range(0, len(prompts), AT_ONCE):
        group = range(first, min(first + AT_ONCE, len(prompts)))
        paths = [folder / f"{i:04d}.wav" for i in group]
        lost = folder / f"{first:04d}.failed"
        if lost.is_file():
            failed += len(paths)
        elif not all(path.is_file() for path in paths):
            try:
                clips = _generate(sweep, setting, [prompts[i] for i in group], first)
            except OutputError as error:  # a setting may be beyond what the model can do
                lost.write_text(str(error) + "\n", encoding="utf-8")
                failed += len(paths)
                continue
            for path, clip in zip(paths, clips, strict=True):
                write_audio(path, clip.samples, clip.sample_rate)
    return failed


def _take_times(
    sweep: Sweep, settings: Sequence[Setting], prompts: Sequence[str], wanted: int
) -> dict[str, list[float]]:
    """Setting -> seconds a clip of each timed batch; those of earlier runs are kept."""
    path = sweep.out / "times.jsonl"
    times: dict[str, list[float]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            times.setdefault(row["setting"], []).append(row["seconds_a_clip"])
    for setting in settings:
        if setting.axis != "base" and "steps" not in setting.options:
            continue
        missing = wanted - len(times.get(setting.name, []))
        if missing <= 0:
            continue
        group = prompts[:AT_ONCE]
        _generate(sweep, setting, group, 0)  # compiles
        for _ in range(missing):
            begin = time.perf_counter()
            _generate(sweep, setting, group, 0)
            spent = (time.perf_counter() - begin) / len(group)
            times.setdefault(setting.name, []).append(spent)
            with path.open("a", encoding="utf-8") as file:
                row = {"setting": setting.name, "seconds_a_clip": spent}
                file.write(json.dumps(row) + "\n")
    return times


def _measure(sweep: Sweep, setting: Setting, lost: int, times: Sequence[float]) -> Point:
    folder = sweep.out / "clips" / setting.name
    partners = {f"{i:04d}": item for i, item in enumerate(sweep.reference[: sweep.count])}
    paths = sorted(folder.glob("*.wav"))
    generated = [sounds.Item(partners[p.stem].id, p, partners[p.stem].text) for p in paths]
    seconds = float(np.round(median(times), 4)) if times else None
    if len(paths) < 4:
        return Point(setting, 0, lost + len(paths), seconds, len(times))
    found = evaluation.evaluate(generated, sweep.reference, sweep.options)
    fad, likeness = found.fad[0], found.similarity[0].rows["generated"]
    kind = "text" if likeness["text"] else "audio"
    average = likeness[kind]
    assert average is not None
    return Point(
        setting=setting,
        clips=len(found.generated),
        failed=lost + len(found.failures["generated"]),
        rows=fad.rows,
        d=fad.d,
        fad=(fad.infinity, fad.low, fad.high),
        plain_fad=fad.fad,
        similarity=(average.mean, average.low, average.high),
        kind=kind,
        seconds=seconds,
        timed=len(times),
    )
