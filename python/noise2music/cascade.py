"""The cascade (section 3.3): text -> intermediate representation -> 16 kHz -> 24 kHz, two routes.

spectrogram:  spectrogram_generator -> spectrogram_vocoder -> super_resolution_cascader
waveform:     waveform_generator -> waveform_cascader -> super_resolution_cascader
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from noise2music import arguments, weights
from noise2music.clip import Clip
from noise2music.config import MEL_HOP, ROUTES, STAGES, StageConfig
from noise2music.errors import UserError, unknown_name
from noise2music.mel import log_mel
from noise2music.mesh import (
    check_clips,
    check_seconds,
    choose_mesh,
    devices_of,
    make_mesh,
    nearest_seconds,
    target_length,
    units_of,
)
from noise2music.schedules import table8
from noise2music.stage import Progress, Sampler, Stage, Text
from noise2music.text.tempo import stated_tempo

DTYPES = ("auto", "float32", "bfloat16")
AT_ONCE = 4  # clips in one batch; more are made one batch after the other


def load(
    model: str | os.PathLike[str] = "tiny",
    *,
    implementation: str = "auto",
    dtype: str = "auto",
    mesh: str | Mesh | None = None,
) -> Pipeline:
    """The cascade of a model: the name of a shipped one ("tiny"), or a folder with model.json.

    implementation, dtype, mesh: see Pipeline.
    """
    how: dict[str, Any] = {"implementation": implementation, "dtype": dtype, "mesh": mesh}
    shipped = resources.files("noise2music") / "models"
    names = sorted(f.name for f in shipped.iterdir() if (f / "model.json").is_file())
    if str(model) in names:
        return Pipeline(Path(str(shipped / str(model))), **how)
    if (Path(model) / "model.json").is_file():
        return Pipeline(Path(model), **how)
    if Path(model).is_dir():
        raise UserError(f"{str(model)!r} is not a model: it has no model.json")
    raise unknown_name("model", str(model), names)


class Pipeline:
    """A text-to-music cascade. Stages are read from disk when they are first used.

    >>> pipe = noise2music.load("tiny")
    >>> clip = pipe("slow church organ chorale in D minor", seconds=10, seed=0)
    >>> clip.save("out.wav")

    implementation: of the kernels. dtype: of the stages' weights and activations: "float32",
    "bfloat16" (faster on a processor with AMX, nearly the same clip), or "auto", which is bfloat16
    on a GPU or TPU and float32 elsewhere. mesh: over how many devices clips ("data") and each clip
    ("time") are split, as "data=2,time=2" or a jax Mesh with these axes; also for a single call.
    """

    def __init__(
        self,
        folder: Path,
        *,
        implementation: str = "auto",
        dtype: str = "auto",
        mesh: str | Mesh | None = None,
    ):
        self.folder = Path(folder)
        self.implementation = implementation
        self.dtype = arguments.check_choice(dtype, DTYPES, kind="dtype")
        self.mesh = mesh
        try:
            card = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
            self.name, names = str(card["name"]), list(card["stages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'model.json'} cannot be read: {error}") from error
        for name in names:
            arguments.check_choice(name, STAGES, kind="stage")
        self._files = {name: self.folder / f"{name}.safetensors" for name in names}
        missing = [p.name for p in self._files.values() if not p.is_file()]
        if missing:
            raise UserError(
                f"model {self.name!r} in {str(self.folder)!r} lacks {', '.join(missing)}"
            )
        self._stages: dict[str, Stage] = {}
        self._text: tuple[Any, Callable[..., Any]] | None = None
        self._hash: str | None = None

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes whose stages this model has."""
        return tuple(r for r, stages in ROUTES.items() if all(s in self._files for s in stages))

    @property
    def stages(self) -> dict[str, StageConfig]:
        """Name -> config of every stage of this model."""
        return {name: self.stage(name).config for name in self._files}

    @property
    def model_hash(self) -> str:
        """sha256 over all the model's files, 16 hex digits."""
        if self._hash is None:
            extra = [self.folder / n for n in ("text_encoder.safetensors", "tokenizer.json")]
            paths = [*self._files.values(), *(p for p in extra if p.is_file())]
            self._hash = weights.file_hash(sorted(paths))
        return self._hash

    def stage(self, name: str) -> Stage:
        """One stage by name, loaded."""
        if name not in self._files:
            raise unknown_name("stage", name, self._files)
        if name not in self._stages:
            try:
                self._stages[name] = Stage.load(
                    self._files[name], implementation=self.implementation, dtype=self.dtype
                )
            except ValueError as error:
                raise UserError(str(error)) from error
        return self._stages[name]

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seconds: float = 10.0,
        seed: int = 0,
        route: str = "spectrogram",
        steps: int | Mapping[str, int] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        negative: str | None = None,
        batch: int = 1,
        sampler: str | None = None,
        gamma: float | None = None,
        denoising: str | Mapping[str, str] | None = None,
        index: int = 0,
        progress: Progress | None = None,
        device: str | None = None,
        devices: int = 1,
        mesh: str | Mesh | None = None,
        until: str | None = None,
    ) -> Clip | list[Clip]:
        """Music for one prompt (a Clip; a list if batch > 1) or several (a list).

        Several prompts give `batch` clips a prompt.

        seconds   0.1 to 60
        steps, guidance   one value for every stage, or {stage: value}; default: the model's
        denoising a schedule of Table 8 (front_heavy, back_heavy, uniform) in place of the model's,
                  for every stage that has it, or {stage: schedule}
        negative  what the music should keep away from, in place of the unconditional branch
        index     position of the first clip in the noise contract: clip `index + i` of a seed is
                  the same whether it is made alone, in a batch, or on several devices
        progress  called with (stage, steps done, steps in all); raising in it cancels
        device    "cpu", "gpu", "tpu" or one of several as "gpu:1" (the first of `devices`)
        devices   how many to use: they share the clips, and split each clip where that is faster
        mesh      how they do so: "data=2,time=2", two pairs that each split a clip in time;
                  default: the pipeline's
        until     the last stage to run, and the clip's sound; default: all

        Raises UserError for bad arguments, OutputError where a stage makes NaN, Inf or silence.
        """
        single = isinstance(prompt, str)
        given = [prompt] if isinstance(prompt, str) else list(prompt)
        if not given:
            raise UserError(
                "prompt must be a string or a list with at least one, got an empty list"
            )
        seconds = arguments.check_seconds(seconds)
        seed = arguments.check_seed(seed)
        index = arguments.check_count(index, name="index", minimum=0, maximum=2**31)
        batch = arguments.check_count(batch, name="batch", maximum=1000)
        arguments.check_choice(route, ROUTES, kind="route")
        if route not in self.routes:
            raise unknown_name(f"route of model {self.name!r}", route, self.routes)
        names: tuple[str, ...] = ROUTES[route]
        if until is not None:
            sounding = [s for s in names if self.stage(s).config.target == "waveform"]
            names = names[: names.index(arguments.check_choice(until, sounding, kind="stage")) + 1]
        options = self._options(names, steps, guidance, sampler, gamma, denoising)
        prompts = [_cut_prompt(p, "prompt") for p in given for _ in range(batch)]
        negative = None if negative is None else _cut_prompt(negative, "negative")
        chosen = self._mesh(device, devices, mesh, len(prompts), seconds, names)
        data = 1 if chosen is None else chosen.shape["data"]

        clips: list[Clip] = []
        group = max(AT_ONCE, data) // data * data
        for first in range(0, len(prompts), group):
            part = prompts[first : first + group]
            outputs = self._run(
                part, seconds, seed, options, negative, index + first, progress, chosen
            )
            for i, name_to_output in enumerate(outputs):
                metadata = {
                    "model": self.name, "model_hash": self.model_hash, "version": _version(),
                    "prompt": part[i], "negative": negative, "seconds": seconds, "seed": seed,
                    "index": index + first + i, "route": route,
                    "steps": {s: len(self.stage(s).coefficients(o).t) for s, o in options.items()},
                    "guidance": {
                        s: o.guidance if o.guidance is not None else self.stage(s).config.guidance
                        for s, o in options.items()
                        if self.stage(s).config.unet.has_text
                    },
                    "sampler": sampler, "gamma": gamma, "denoising": denoising, "until": until,
                }  # fmt: skip
                if self.dtype != "auto":
                    metadata["dtype"] = self.dtype
                clips.append(self._clip(name_to_output, part[i], seed, metadata, seconds))
        return clips[0] if single and batch == 1 else clips

    def run_stage(
        self,
        stage: str,
        audio: Any,
        sample_rate: int,
        *,
        prompt: str = "",
        negative: str | None = None,
        seed: int = 0,
        steps: int | Mapping[str, int] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        sampler: str | None = None,
        gamma: float | None = None,
        progress: Progress | None = None,
        device: str | None = None,
    ) -> Clip:
        """One stage alone on audio (n,) of the user's, at any rate.

        It is resampled to what the stage reads: super_resolution_cascader 16 kHz,
        waveform_cascader 3.2 kHz, spectrogram_vocoder the mel spectrogram.
        """
        from noise2music.audio import resample

        config = self.stage(stage).config
        if config.condition == "none":
            raise UserError(f"stage {stage!r} starts from text alone; call the pipeline itself")
        samples = np.asarray(audio, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise UserError("audio must be finite samples of shape (n,); mix several channels down")
        seconds = arguments.check_seconds(
            len(samples) / sample_rate, name="the length of the audio"
        )
        options = self._options((stage,), steps, guidance, sampler, gamma)[stage]
        mesh = None if device is None else make_mesh("data=1", devices_of(device, 1))
        if config.condition == "aligned":
            low = resample(samples, sample_rate, config.rate)
            low = np.pad(low, (0, -len(low) % MEL_HOP))
            condition = log_mel(low)
            length = len(low)
        else:
            assert config.condition_rate is not None
            low = resample(samples, sample_rate, config.condition_rate)
            up, down = config.up
            low = np.pad(low, (0, -len(low) % down))
            condition, length = low[:, None], len(low) * up // down
        text = None
        if config.unet.has_text:
            prompt = _cut_prompt(prompt, "prompt")
            negative = None if negative is None else _cut_prompt(negative, "negative")
            text = self._embed([prompt], negative)
        out = self.stage(stage).sample(
            length, np.array([0]), seed=arguments.check_seed(seed), options=options, text=text,
            condition=jnp.asarray(condition)[None], progress=progress, mesh=mesh,
        )[0, : round(seconds * config.rate), 0]  # fmt: skip
        metadata = {
            "model": self.name,
            "model_hash": self.model_hash,
            "version": _version(),
            "stage": stage,
        }
        return Clip(out, config.rate, prompt, seed, {stage: out}, {stage: config.rate}, metadata)

    def _options(
        self,
        stages: Sequence[str],
        steps: Any,
        guidance: Any,
        sampler: str | None,
        gamma: float | None,
        denoising: str | Mapping[str, str] | None = None,
    ) -> dict[str, Sampler]:
        """Checked settings of every stage."""

        def count(value: object, name: str) -> int:
            return arguments.check_count(value, name=name, maximum=10_000)

        def scale(value: object, name: str) -> float:
            return arguments.check_number(value, name=name, minimum=0, maximum=100)

        n = arguments.check_per_stage(steps, stages, count, name="steps")
        w = arguments.check_per_stage(guidance, stages, scale, name="guidance")
        if sampler is not None:
            arguments.check_choice(sampler, ("ancestral", "ddim", "dpm++"), kind="sampler")
        if gamma is not None:
            gamma = arguments.check_number(gamma, name="gamma", minimum=0, maximum=1)

        def schedule(value: object, name: str) -> str:
            kinds = ("front_heavy", "back_heavy", "uniform")
            return arguments.check_choice(value, kinds, kind="denoising schedule")

        d = arguments.check_per_stage(denoising, stages, schedule, name="denoising")
        if not isinstance(denoising, Mapping):
            d = {s: _has(s, name) for s, name in d.items()}
        return {s: Sampler(n.get(s), w.get(s), sampler, gamma, d.get(s)) for s in stages}

    def _mesh(
        self,
        device: str | None,
        devices: int,
        mesh: str | Mesh | None,
        clips: int,
        seconds: float,
        names: Sequence[str],
    ) -> Mesh | None:
        """The mesh of a call, None for the default device alone. What is asked for by name has to
        divide clips and seconds; one that is chosen for `devices` does."""
        arguments.check_count(devices, name="devices")
        configs = [self.stage(name).config for name in names]
        if mesh is None and devices == 1:
            mesh = self.mesh
        if mesh is not None:
            made = make_mesh(mesh, devices_of(device, 1))
            if devices not in (1, made.size):
                raise UserError(
                    f"devices must be {made.size}, as mesh says, or be left out, got {devices}"
                )
            check_clips(made.shape["data"], clips)
            check_seconds(made, configs, seconds)
            return made
        if device is None and devices == 1:
            return None
        found = devices_of(device, devices)[:devices]
        units = [units_of(c, target_length(c, seconds)) for c in configs]
        made = choose_mesh(found, min(clips, max(AT_ONCE, devices)), units)
        if made.shape["data"] > clips:
            near = nearest_seconds(devices, configs, seconds)
            hint = "" if near is None else f"; {near:g} seconds would divide"
            warnings.warn(
                f"{devices} devices do not divide {seconds:g} seconds at every stage, so that some "
                f"have nothing to do{hint}",
                stacklevel=3,
            )
        return made

    def _run(
        self,
        prompts: list[str],
        seconds: float,
        seed: int,
        options: dict[str, Sampler],
        negative: str | None,
        first: int,
        progress: Progress | None,
        mesh: Mesh | None,
    ) -> list[dict[str, np.ndarray]]:
        """One batch through the stages of `options` -> a dict of stage outputs a clip."""
        names, count = tuple(options), len(prompts)
        padding = 0 if mesh is None else -count % mesh.shape["data"]
        # A batch that does not divide is filled up with copies.
        prompts = prompts + prompts[-1:] * padding
        clips = first + np.arange(len(prompts))
        text = (
            self._embed(prompts, negative)
            if any(self.stage(s).config.unet.has_text for s in names)
            else None
        )
        outputs: dict[str, np.ndarray] = {}
        low: np.ndarray | None = None
        for name in names:
            config = self.stage(name).config
            length = target_length(config, seconds)
            low = self.stage(name).sample(
                length, clips, seed=seed, options=options[name],
                text=text if config.unet.has_text else None,
                condition=None if low is None else jnp.asarray(low),
                progress=progress, mesh=mesh,
            )  # fmt: skip
            outputs[name] = low
        return [{name: out[i] for name, out in outputs.items()} for i in range(count)]

    def _clip(
        self,
        outputs: dict[str, np.ndarray],
        prompt: str,
        seed: int,
        metadata: dict[str, Any],
        seconds: float,
    ) -> Clip:
        stages, rates = {}, {}
        for name, out in outputs.items():
            config = self.stage(name).config
            cut = out[: max(1, round(seconds * config.rate))]
            stages[name] = cut if config.target == "mel" else cut[:, 0]
            rates[name] = config.rate
        return Clip(stages[name], config.rate, prompt, seed, stages, rates, metadata)

    def _embed(self, prompts: list[str], negative: str | None) -> Text:
        """T5 states of the prompts; an empty one is dropped (keep 0): the unconditional model."""
        tokenizer, encode = self._text_encoder()
        length = max(self.stage(s).config.token_length or 0 for s in self._files)

        def embed(texts: list[str]) -> Text:
            tokens, mask, truncated = tokenizer.encode(texts, length)
            if any(truncated):
                warnings.warn(f"a prompt is longer than {length} tokens and was cut", stacklevel=5)
            keep = jnp.asarray([float(bool(t)) for t in texts], jnp.float32)
            beat = jnp.asarray([stated_tempo(t) / 60.0 for t in texts], jnp.float32)
            states = encode(jnp.asarray(tokens), jnp.asarray(mask))
            return Text(states, jnp.asarray(mask), keep, beat)

        text = embed(prompts)
        if negative is None:
            return text
        return dataclasses.replace(text, negative=embed([negative] * len(prompts)))

    def _text_encoder(self) -> tuple[Any, Callable[..., Any]]:
        if self._text is None:
            from noise2music.text.released import load_text_encoder

            try:
                tokenizer, encoder = load_text_encoder(self.folder)
            except ValueError as error:
                raise UserError(str(error)) from error
            graph, state = nnx.split(encoder)
            run = jax.jit(lambda s, tokens, mask: nnx.merge(graph, s)(tokens, mask))
            self._text = tokenizer, lambda tokens, mask: run(state, tokens, mask)
        return self._text


def _cut_prompt(prompt: str, name: str) -> str:
    text, cut = arguments.check_prompt(prompt, name=name)
    if cut:
        warnings.warn(
            f"{name} has {len(prompt)} characters: only the first "
            f"{arguments.MAX_PROMPT_CHARACTERS} are read",
            stacklevel=3,
        )
    return text


def _has(stage: str, denoising: str) -> str | None:
    """`denoising` where Table 8 has it for the stage, else None.

    Super-resolution has front_heavy alone.
    """
    try:
        table8(stage, denoising)
    except ValueError:
        return None
    return denoising


def _version() -> str:
    from noise2music import __version__

    return __version__
