"""What a training of the joint model is asked to do: `JointOptions`, and its config file."""

from __future__ import annotations

import dataclasses
import math
import typing
from importlib import resources
from pathlib import Path
from typing import Any

from noise2music.config import convert, from_dict, refuse_unknown
from noise2music.joint.towers import JointConfig
from noise2music.train.options import parse_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointOptions:
    """Options of one training run of the joint model."""

    corpus: str
    """Folder of `noise2music data corpus` or `data prepare`, with captions."""
    run: str
    """Folder for checkpoints, log and weights. A run found there goes on."""
    steps: int = 2000
    """Steps in all, those of earlier starts included; the learning rate falls to zero over them."""
    batch_size: int = 128
    """Pairs a step, each against all others: at most as many as there are clips."""
    peak_lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 100
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; norms, biases and the temperature are left alone."""
    ema_decay: float = 0.99
    """Decay of the average of the weights, which is what is exported."""
    clip_norm: float = 1.0
    """Largest norm of a gradient."""
    seed: int = 0
    """Seed of weights, batches and dropout."""
    text_encoder: str | None = None
    """Folder with a text encoder to use, frozen, or the name of a shipped model (tiny). Default: a
    small T5 is trained along."""
    text_init: str | None = None
    """The same, to start the T5 from and train it along."""
    resume: int | None = None
    """Step of the checkpoint to go on from. Default: the newest whole one."""
    log_every: int = 20
    """Steps between lines of log.jsonl."""
    validate_every: int = 100
    """Steps between validations, a multiple of log-every."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep, the newest."""
    minutes: float | None = None
    """Stop, resumably, after that long."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "validate_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"n2m.joint: {name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(
                f"n2m.joint: batch_size must be at least 2, got {self.batch_size}: a pair is told "
                "from the others of its batch"
            )
        for name in ("peak_lr", "clip_norm", "minutes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"n2m.joint: {name} must be positive, got {value}")
        for name in ("warmup", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"n2m.joint: {name} must be at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"n2m.joint: ema_decay must be in [0, 1), got {self.ema_decay}")
        if self.text_encoder is not None and self.text_init is not None:
            raise ValueError(
                "n2m.joint: text_encoder (frozen) or text_init (trained on) must be given, got both"
            )


def read_joint_config(path: str | Path) -> tuple[dict[str, Any], JointConfig]:
    """(values of JointOptions, the model) of a TOML or JSON file; its table `model` has fields of
    JointConfig. `path` may be "tiny", the recipe that the shipped model was trained by."""
    if str(path) == "tiny" and not Path(path).exists():
        path = str(resources.files("noise2music") / "presets" / "train" / "tiny" / "joint.toml")
    values = parse_config(Path(path))
    model = values.pop("model", {})
    fields = {f.name for f in dataclasses.fields(JointOptions)}
    try:
        refuse_unknown(values, {*fields, "model"}, "train joint")
        hints = typing.get_type_hints(JointOptions)
        options = {n: convert(hints[n], v, n) for n, v in values.items()}
        return options, from_dict(JointConfig, model, "model.")
    except ValueError as error:
        raise ValueError(f"{error}, in {path}") from error


def text_folder(name: str) -> Path:
    """The folder of a text encoder: a path, or the name of a shipped model."""
    shipped = Path(str(resources.files("noise2music") / "models" / name))
    for folder in (Path(name), shipped):
        if (folder / "text_encoder.safetensors").is_file():
            return folder
    raise ValueError(
        f"n2m.joint: text_encoder must be a folder with text_encoder.safetensors (`noise2music "
        f"train text_encoder` makes one) or a shipped model, got {name!r}"
    )
