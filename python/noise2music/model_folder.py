"""A model folder: the weights of its stages and model.json, which names them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from noise2music import weights
from noise2music.config import STAGES, load_preset, to_dict
from noise2music.stage import Stage


def init_model_folder(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    names: Sequence[str] = STAGES,
    preset: str = "tiny_",
) -> Path:
    """Writes a model of random weights: the untrained baseline, and what tests use."""
    from noise2music.text.released import save_untrained_text_encoder

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        config = load_preset(preset + name)
        weights.save_state(
            folder / f"{name}.safetensors", Stage.untrained(config, seed).state, to_dict(config)
        )
    save_untrained_text_encoder(folder, seed)
    write_model_card(folder, "untrained", names)
    return folder


def write_model_card(folder: Path, name: str, stages: Sequence[str]) -> None:
    """model.json: the model's name and its stages."""
    card = {"name": name, "stages": list(stages)}
    part = folder / "model.json.part"
    part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "model.json")
