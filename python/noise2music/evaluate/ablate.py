"""Sweeps of inference parameters that survive a kill: what is there is not made again.

A sweep's folder holds `sweep.json` (what is swept; a run with other settings is refused),
`clips/SETTING/0000.wav`, ..., `times.jsonl`, `embeddings/` and `results.json`. A later run may ask
for more clips, more times or other judges.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from noise2music.audio import replacing, write_audio
from noise2music.cascade import AT_ONCE
from noise2music.errors import OutputError, UserError
from noise2music.evaluate import ablation_times
from noise2music.evaluate.ablation_points import Progress, Results, judge_clips, load_judges
from noise2music.evaluate.sweep import Setting, Sweep


def run(sweep: Sweep, *, timed: int = 1, progress: Progress | None = None) -> Results:
    """Makes what is missing, measures, and writes `results.json`.

    timed: batches of four clips whose time is taken, after one that is not counted, for each
    setting with another number of steps.

    Raises:
      UserError: the folder holds another sweep, a prompt is missing, or too few clips.
    """
    prompts = [item.text for item in sweep.partners]
    if len(prompts) < max(4, sweep.count) or not all(prompts):
        raise UserError(
            f"the reference must begin with {max(4, sweep.count)} clips that have a prompt, "
            f"got {sum(map(bool, prompts))}"
        )
    if len(sweep.others) < 4:
        raise UserError(
            f"the reference must have clips beyond the {sweep.count} whose prompts are used, at "
            f"least 4 for FAD, got {len(sweep.others)}: use a larger set, or a smaller --count"
        )
    judges = load_judges(sweep, progress)  # before the work, not after it
    _claim(sweep)
    settings = sweep.settings()
    makers = sweep.makers(settings)
    distinct = [s for s in settings if makers[s.name] is s]
    for number, setting in enumerate(distinct):
        _make_clips(sweep, setting, prompts)
        if progress is not None:
            progress("settings", number + 1, len(distinct))
    times = ablation_times.take(sweep, distinct, wanted=timed, progress=progress)
    found = judge_clips(sweep, judges, settings, makers, times)
    text = json.dumps(_without_nan(dataclasses.asdict(found)), indent=1, allow_nan=False)
    with replacing(sweep.out / "results.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return found


def _without_nan(value: Any) -> Any:
    """None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _claim(sweep: Sweep) -> None:
    """Makes the folder; UserError where it holds other clips. More prompts of the same are fine."""
    path = sweep.out / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = sweep.identity()
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        both = min(len(found["prompts"]), len(wanted["prompts"]))
        if any(
            found[key] != wanted[key]
            if key != "prompts"
            else found[key][:both] != wanted[key][:both]
            for key in wanted
        ):
            raise UserError(
                f"{str(sweep.out)!r} holds a sweep of another model, seed, length or other "
                "prompts: choose another --out"
            )
        if len(found["prompts"]) > both:
            return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _make_clips(sweep: Sweep, setting: Setting, prompts: Sequence[str]) -> None:
    """Makes the clips that are not there; those that the model gives up leave a FIRST-LAST.failed.

    A clip is the same whichever others are made with it, so a batch that was cut short is no loss.
    """
    folder = sweep.out / "clips" / setting.name
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(prompts), AT_ONCE):
        group = range(first, min(first + AT_ONCE, len(prompts)))
        paths = [folder / f"{i:04d}.wav" for i in group]
        lost = folder / f"{group[0]:04d}-{group[-1]:04d}.failed"
        if lost.is_file() or all(path.is_file() for path in paths):
            continue
        try:
            clips = sweep.generate(setting, [prompts[i] for i in group], first)
        except OutputError as error:  # a setting may be beyond what the model can do
            lost.write_text(str(error) + "\n", encoding="utf-8")
            continue
        for path, clip in zip(paths, clips, strict=True):
            write_audio(path, clip.samples, clip.sample_rate)
