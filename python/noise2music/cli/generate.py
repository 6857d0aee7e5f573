"""`noise2music generate`, `replay` and `enhance`: from options to files."""

from __future__ import annotations

import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from noise2music import arguments, audio, pages, plot
from noise2music.cli.devices import spread
from noise2music.cli.progress import Progress
from noise2music.config import ROUTES, STAGES
from noise2music.errors import UserError

if TYPE_CHECKING:
    from noise2music.cascade import Pipeline
    from noise2music.cli.commands import Enhance, Generate, Replay, _Sampling
    from noise2music.clip import Clip

# Clips that are made at once. More would need more memory and save little time.
_AT_ONCE = 4
ENHANCERS = ("super_resolution_cascader", "waveform_cascader", "spectrogram_vocoder")


def generate(options: Generate) -> int:
    """Makes len(prompts) * batch clips; everything that can be wrong is checked before."""
    prompts = _prompts(options)
    seconds = arguments.check_seconds(options.seconds)
    route = arguments.check_choice(options.route, ROUTES, kind="route")
    batch = arguments.check_count(options.batch, name="--batch", maximum=1000)
    negative = None if options.negative is None else _cut(options.negative, "the negative prompt")
    settings = _settings(options, ROUTES[route])
    jobs = [prompt for prompt in prompts for _ in range(batch)]
    paths = [_numbered(options.output, i, len(jobs)) for i in range(len(jobs))]
    plots = None
    if options.plot:
        plots = [_numbered(options.plot, i, len(jobs)) for i in range(len(jobs))]
    _check_outputs(options, paths, plots)
    gate = None if options.check_duplicates is None else _Gate(options.check_duplicates)

    at_once = spread(len(jobs), _AT_ONCE, options.devices, options.mesh)
    pipe = _load(options.model, route=route, dtype=options.dtype)
    for first in range(0, len(jobs), at_once):
        group = jobs[first : first + at_once]
        label = f"[{first + 1}-{first + len(group)}/{len(jobs)}] " if len(jobs) > at_once else ""
        with Progress(force=options.progress, label=label) as progress:
            clips = pipe(
                group,
                seconds=seconds,
                route=route,
                negative=negative,
                index=first,
                denoising=options.denoising,
                progress=progress,
                device=options.device,
                devices=options.devices,
                mesh=options.mesh,
                **settings,
            )
        for i, clip in enumerate(cast("list[Clip]", clips), start=first):
            if gate is None or gate.lets_through(clip, paths[i]):
                _write(options, clip, paths[i], plots[i] if plots else None)
    return 1 if gate is not None and gate.stopped else 0


class _Gate:
    """Keeps back clips that are copies of training clips."""

    def __init__(self, path: pathlib.Path):
        from noise2music.label import duplicates

        self._index = duplicates.Index.load(path)
        self._encoder = duplicates.load_index_encoder(self._index)
        self.stopped = 0

    def lets_through(self, clip: Clip, path: pathlib.Path) -> bool:
        from noise2music.evaluate.sounds import RATE

        samples = audio.resample(clip.samples, clip.sample_rate, RATE)
        match = self._index.search(path.name, samples, self._encoder)
        if match.verdict == "new":
            return True
        print(f"noise2music: {match.describe()}", file=sys.stderr)
        self.stopped += match.verdict == "copy"
        return match.verdict != "copy"


def replay(options: Replay) -> int:
    """Makes the clip of a file again."""
    stored = audio.read_metadata(options.file)
    wanted = ("prompt", "seed", "seconds", "route", "model_hash")
    if stored is None or any(key not in stored for key in wanted):
        raise UserError(
            f"{str(options.file)!r} holds no settings of noise2music: only files written by "
            "`noise2music generate` or clip.save can be replayed"
        )
    output = options.output or options.file.with_stem(options.file.stem + "-replay")
    audio.check_output(output, list(audio.FORMATS))
    name = options.model or str(stored.get("model", "tiny"))
    try:
        pipe = _load(name, route=stored["route"], dtype=stored.get("dtype", "auto"))
    except UserError as error:
        if options.model is None:
            raise UserError(
                f"the file was made by model {name!r}: {error} (see --model)"
            ) from error
        raise
    if pipe.model_hash != stored["model_hash"] and not options.force:
        raise UserError(
            f"the file was made by other weights ({stored['model_hash']}) than those of model "
            f"{name!r} ({pipe.model_hash}): name the right ones with --model, or take these "
            "with --force"
        )
    from noise2music import __version__

    if stored.get("version") != __version__:
        warnings.warn(
            f"the file was made by version {stored.get('version')}, this is {__version__}: the "
            "clip may differ",
            stacklevel=2,
        )
    optional = ("steps", "guidance", "sampler", "gamma", "denoising", "negative", "index", "until")
    with Progress(force=options.progress) as progress:
        clips = pipe(
            [stored["prompt"]],
            seconds=stored["seconds"],
            seed=stored["seed"],
            route=stored["route"],
            progress=progress,
            device=options.device,
            **{key: stored[key] for key in optional if stored.get(key) is not None},
        )
    clip = cast("list[Clip]", clips)[0]
    clip.save(output, bits=stored.get("bits", 16), normalize=stored.get("normalize", False))
    print(f"{output}: {_describe(clip)}")
    return 0


def enhance(options: Enhance) -> int:
    """Runs one stage on a sound file."""
    stage = arguments.check_choice(options.stage, ENHANCERS, kind="stage")
    prompt = _cut(options.prompt, "the prompt")
    negative = None if options.negative is None else _cut(options.negative, "the negative prompt")
    settings = _settings(options, (stage,))
    _check_outputs(options, [options.output], [options.plot] if options.plot else None)
    samples, rate = audio.read_audio(options.file)
    arguments.check_seconds(len(samples) / rate, name=f"the length of {str(options.file)!r}")
    pipe = _load(options.model, stage=stage)
    with Progress(force=options.progress) as progress:
        clip = pipe.run_stage(
            stage,
            samples,
            rate,
            prompt=prompt,
            negative=negative,
            progress=progress,
            device=options.device,
            **settings,
        )
    _write(options, clip, options.output, options.plot)
    return 0


def _load(
    model: str, *, route: str | None = None, stage: str | None = None, dtype: str = "auto"
) -> Pipeline:
    """The model with the stages that are needed: a broken file shows before work is spent."""
    import noise2music

    pages.keep()  # this process makes music and nothing else
    pipe = noise2music.load(model, dtype=dtype)
    if route is not None:
        arguments.check_choice(route, pipe.routes, kind=f"route of model {pipe.name!r}")
    for name in ROUTES[route] if route else [stage] if stage else []:
        pipe.stage(name)
    return pipe


def _settings(options: _Sampling, stages: Sequence[str]) -> dict[str, Any]:
    """The options that all stages share, checked; those left out are the model's own."""
    settings: dict[str, Any] = {"seed": arguments.check_seed(options.seed)}
    steps = per_stage(options.steps, "--steps", int)
    if steps is not None:
        settings["steps"] = arguments.check_per_stage(
            steps,
            stages,
            lambda value, name: arguments.check_count(value, name=name, maximum=10_000),
            name="--steps",
        )
    guidance = per_stage(options.guidance, "--guidance", float)
    if guidance is not None:
        arguments.check_per_stage(
            guidance,
            stages,
            lambda value, name: arguments.check_number(value, name=name, minimum=0, maximum=100),
            name="--guidance",
        )
        settings["guidance"] = guidance
    if options.sampler is not None:
        settings["sampler"] = options.sampler
    if options.gamma is not None:
        settings["gamma"] = arguments.check_number(
            options.gamma, name="--gamma", minimum=0, maximum=1
        )
    return settings


def per_stage(
    text: str | None, name: str, number: Callable[[str], float]
) -> float | dict[str, float] | None:
    """Reads "20" or "spectrogram_generator=50,spectrogram_vocoder=10"."""
    if text is None:
        return None
    kind = "a whole number" if number is int else "a number"
    try:
        if "=" not in text:
            return number(text)
        pairs = (item.partition("=") for item in text.split(",") if item.strip())
        return {stage.strip(): number(value) for stage, _, value in pairs}
    except ValueError:
        raise UserError(
            f"{name} must be {kind}, or stage={'number' if number is float else 'count'} pairs "
            f"with commas between (stages: {', '.join(STAGES)}), got {text!r}"
        ) from None


def _prompts(options: Generate) -> list[str]:
    prompts = list(options.prompts)
    if options.prompts_file is not None:
        name = str(options.prompts_file)
        try:
            text = (
                sys.stdin.read()
                if name == "-"
                else options.prompts_file.read_text(encoding="utf-8")
            )
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"cannot read the prompts in {name!r}: {reason}") from error
        lines = (line.strip() for line in text.splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserError(f"there is no prompt in {name!r}")
        prompts += found
    if not prompts:
        raise UserError(
            'give a prompt in quotes, as in: noise2music generate "slow church organ chorale in D '
            'minor" -o out.wav ("" makes music without any wish)'
        )
    return [_cut(prompt, f"prompt {i}") for i, prompt in enumerate(prompts, start=1)]


def _cut(prompt: str, name: str) -> str:
    text, was_cut = arguments.check_prompt(prompt, name=name)
    if was_cut:
        warnings.warn(
            f"{name} has {len(prompt)} characters: only the first "
            f"{arguments.MAX_PROMPT_CHARACTERS} are kept, and the model reads fewer still",
            stacklevel=2,
        )
    return text


def _numbered(path: pathlib.Path, index: int, count: int) -> pathlib.Path:
    if count == 1:
        return path
    return path.with_stem(f"{path.stem}-{index + 1:0{len(str(count))}d}")


def _check_outputs(
    options: _Sampling, paths: Sequence[pathlib.Path], plots: Sequence[pathlib.Path] | None
) -> None:
    for path in paths:
        audio.check_output(path, list(audio.FORMATS))
    if plots:
        plot.require_matplotlib()
        for path in plots:
            audio.check_output(path, list(plot.SUFFIXES))
    if options.stages_dir is not None:
        try:
            options.stages_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {str(options.stages_dir)!r}: {error.strerror or error}"
            ) from error
        audio.check_output(options.stages_dir / "stage.wav", list(audio.FORMATS))


def _write(
    options: _Sampling, clip: Clip, path: pathlib.Path, picture: pathlib.Path | None
) -> None:
    clip.save(path, bits=options.bits, normalize=options.normalize)
    if picture is not None:
        clip.plot(picture)
    if options.stages_dir is not None:
        for stage, data in clip.stages.items():
            stem = options.stages_dir / f"{path.stem}-{stage}"
            with audio.replacing(stem.with_name(stem.name + ".npy")) as temporary:
                np.save(temporary, data)
            if data.ndim == 1:
                rate = round(clip.stage_rates[stage])
                audio.write_audio(stem.with_name(stem.name + ".wav"), data, rate, bits=options.bits)
    print(f"{path}: {_describe(clip)}")


def _describe(clip: Clip) -> str:
    return f"{clip.seconds:.2f} s, {clip.sample_rate} Hz, seed {clip.seed}"
