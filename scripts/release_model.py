"""Put trained stages together as a model folder.

Weights are as exported, sampling settings as in today's presets.

    python scripts/release_model.py --runs runs/ --out python/noise2music/models/tiny --name tiny

`runs/<stage>` is the run folder of `noise2music train <stage>`; stages without one are left out.
The generator's run brings the text encoder. What a stage computes must be as in the preset; how it
is sampled is taken from the preset.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

from noise2music import weights
from noise2music.config import STAGES, StageConfig, from_dict, load_preset, to_dict
from noise2music.model_folder import write_model_card
from safetensors.numpy import load_file

SAMPLING = ("sampler", "steps", "guidance", "gamma", "clip_percentile", "denoising", "smoothing")
TRAINING = ("augmentation", "train_seconds", "train_from", "default_seconds", "loss_weight")


def release(runs: Path, out: Path, name: str) -> list[str]:
    """Writes the folder and returns the stages it has."""
    out.mkdir(parents=True, exist_ok=True)
    found = [s for s in STAGES if (runs / s / f"{s}.safetensors").is_file()]
    for stage in found:
        source = runs / stage / f"{stage}.safetensors"
        trained = from_dict(StageConfig, weights.read_config(source))
        preset = load_preset(f"tiny_{stage}")
        free = {f: getattr(preset, f) for f in (*SAMPLING, *TRAINING)}
        if dataclasses.replace(trained, **free) != preset:
            raise SystemExit(f"{source} was not trained as presets/tiny_{stage}.json says")
        released = dataclasses.replace(trained, **{f: getattr(preset, f) for f in SAMPLING})
        weights.save_tensors(out / source.name, load_file(source), to_dict(released))
    for extra in ("text_encoder.safetensors", "tokenizer.json"):
        shutil.copyfile(runs / "spectrogram_generator" / extra, out / extra)
    write_model_card(out, name, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="tiny")
    arguments = parser.parse_args()
    stages = release(arguments.runs, arguments.out, arguments.name)
    size = sum(f.stat().st_size for f in arguments.out.iterdir()) / 1e6
    print(f"{arguments.out}: {', '.join(stages)}; {size:.1f} MB")


if __name__ == "__main__":
    main()
