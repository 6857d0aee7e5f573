"""What a training run is asked to do: `TrainOptions`, and the file that `--config` reads.

A config file is TOML or JSON. Its keys are the fields of `TrainOptions`; its table `stage` has
fields of `StageConfig` that differ from the preset's, tables inside it likewise:

    preset = "spectrogram_vocoder"
    batch_size = 2048
    [stage]
    train_seconds = 4.0
    [stage.unet]
    base_dim = 64

Unknown keys are refused, with the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import typing
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from noise2music.config import (
    STAGES,
    StageConfig,
    convert,
    from_dict,
    load_preset,
    refuse_unknown,
    to_dict,
)

RECIPES = ("paper", "tiny")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of one training run. Defaults of the optimiser are the paper's (section 4.1)."""

    corpus: str
    """Folder of `noise2music data corpus`."""
    run: str
    """Folder for checkpoints, log and demos. A run found there goes on."""
    preset: str | None = None
    """Shape of the stage: STAGE (the paper's size) or tiny_STAGE. Default: tiny_STAGE."""
    steps: int = 2_500_000
    """Steps in all, those of earlier starts included."""
    batch_size: int = 16
    """Clips a step, over all processes and devices."""
    peak_lr: float = 1e-4
    """Learning rate after the warm-up."""
    warmup: int = 10_000
    """Steps over which the learning rate rises from zero."""
    lr_end_step: int = 2_500_000
    """Step at which the cosine reaches zero."""
    ema_decay: float = 0.9999
    """Decay of the average of the weights."""
    text_dropout: float = 0.1
    """Share of the clips whose text is dropped."""
    clip_norm: float | None = None
    """Largest norm of a gradient; default: none."""
    seed: int = 0
    """Seed of weights, batches and noise."""
    accumulate: int = 1
    """Parts into which a batch is cut, one after the other, to save memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters, average and optimiser are float32 always."""
    remat: bool | Literal["auto"] = False
    """Compute activations a second time instead of keeping them; auto: where it saves memory."""
    mesh: str = ""
    """Devices by axis, as data=4,fsdp=2,tensor=1. Default: all of them along data."""
    text_encoder: str | None = None
    """Folder with a text encoder to use, frozen. Default: a small T5 is trained with the model."""
    text_init: str | None = None
    """Folder with a text encoder (`train text_encoder`) to start the small T5 from."""
    init: str | None = None
    """Folder with weights of the stage to start from."""
    resume: int | None = None
    """Step of the checkpoint to go on from. Default: the newest whole one."""
    log_every: int = 50
    """Steps between lines of log.jsonl."""
    validate_every: int = 500
    """Steps between validations, a multiple of log-every."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep, the newest."""
    demo_every: int = 0
    """Steps between demo clips and their pictures; 0: none."""
    demo_clips: int = 2
    """Clips a demo."""
    demo_seconds: float = 10.0
    """Length of a demo clip, at most that of the corpus' clips."""
    tensorboard: bool = False
    """Also write the log for TensorBoard (extra `tensorboard`)."""
    minutes: float | None = None
    """Stop, resumably, after that long."""
    coordinator: str | None = None
    """host:port of process 0 when several processes train together; auto: ask the cluster."""
    num_processes: int | None = None
    """Processes that train together."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    implementation: str = "auto"
    """Kernels: auto, native, reference or pallas."""

    def __post_init__(self) -> None:
        whole = ("steps", "batch_size", "lr_end_step", "log_every", "validate_every")
        for name in (*whole, "checkpoint_every", "keep", "accumulate", "demo_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"n2m.train: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "demo_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"n2m.train: {name} must be at least 0, got {getattr(self, name)}")
        for name in ("peak_lr", "clip_norm", "minutes", "demo_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"n2m.train: {name} must be positive, got {value}")
        if not 0.0 <= self.text_dropout <= 1.0:
            raise ValueError(f"n2m.train: text_dropout must be in [0, 1], got {self.text_dropout}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"n2m.train: ema_decay must be in [0, 1), got {self.ema_decay}")


def read_config(path: str | Path, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values of TrainOptions, values of StageConfig) of a config file, checked as far as they go.

    `path` is a file, or "paper" or "tiny": the recipe that the package has for the stage.
    """
    path = Path(path)
    if str(path) in RECIPES and not path.exists():
        recipes = resources.files("noise2music") / "presets" / "train" / str(path)
        path = Path(str(recipes / f"{stage}.toml"))
    values = parse_config(path)
    stage_values = values.pop("stage", {})
    fields = {f.name for f in dataclasses.fields(TrainOptions)}
    stage_fields = {f.name for f in dataclasses.fields(StageConfig)}
    for name in values:
        if name not in fields and name in stage_fields:
            raise ValueError(f"n2m.train: {path}: option {name!r} belongs into the table 'stage'")
    try:
        refuse_unknown(values, {*fields, "stage"}, "train")
        if not isinstance(stage_values, dict):
            raise ValueError(f"n2m.config: stage must be a table, got {stage_values!r}")
        refuse_unknown(stage_values, stage_fields, "stage")
        hints = typing.get_type_hints(TrainOptions)
        return {n: convert(hints[n], v, n) for n, v in values.items()}, stage_values
    except ValueError as error:
        raise ValueError(f"{error}, in {path}") from error


def stage_config(stage: str, preset: str | None, changes: dict[str, Any]) -> StageConfig:
    """The preset (tiny_<stage> unless given) with the changes of a config file."""
    values = _merged(to_dict(load_preset(preset or f"tiny_{stage}")), changes)
    config = from_dict(StageConfig, values, "stage.")
    if config.name != stage:
        raise ValueError(f"n2m.train: the config must be of stage {stage!r}, got {config.name!r}")
    return config


def parse_config(path: Path) -> dict[str, Any]:
    """The table of a TOML or JSON file of options."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ValueError(f"n2m.train: cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:  # of UTF-8, TOML or JSON
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ValueError(f"n2m.train: the config {path} is not {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"n2m.train: the config {path} must be a table of options")
    return values


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`; tables are merged, lists and numbers replaced."""
    out = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        out[name] = _merged(base[name], value) if both else value
    return out


def shipped_recipes() -> list[tuple[str, str]]:
    """(recipe, stage) of every config file that comes with the package."""
    return [(recipe, stage) for recipe in RECIPES for stage in STAGES]
