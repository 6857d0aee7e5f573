"""`noise2music export`: the averaged weights of training runs as a model that generates.

Reads checkpoints only, so a run that is going on can be listened to.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from noise2music import weights
from noise2music.config import STAGES, StageConfig, from_dict, load_preset, to_dict
from noise2music.data.prepare.text_cache import encoder_hash
from noise2music.model_folder import write_model_card
from noise2music.text.load import load_t5
from noise2music.text.released import FILE, load_text_encoder
from noise2music.text.t5 import T5Config, T5Encoder
from noise2music.train.checkpoint import CheckpointError, ForeignRunError, checksum, short
from noise2music.unet1d import abstract_unet

SAMPLING = ("sampler", "steps", "guidance", "gamma", "clip_percentile", "denoising")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A run's averaged weights.

    text: of the text encoder that it was trained with, its sizes and its tokenizer; None without
    one. embedded: the cache of embeddings, <encoder>-<dtype>-<length>, that it had instead.
    encoder: the file of the encoder that was given for those, where it is of our kind.
    """

    run: Path
    step: int
    config: StageConfig
    unet: Any
    text: Any
    text_config: dict[str, Any] | None
    tokenizer: Path | None
    embedded: str | None
    encoder: Path | None = None


def read_run(run: Path, step: int | None = None) -> Exported:
    """The averaged weights in the newest checkpoint of a run, or in that of `step`."""
    folder = run / "checkpoints"
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise ValueError(f"n2m.export: {run} must be a run folder with checkpoints, it has none")
    if step is not None and step not in steps:
        have = ", ".join(map(str, steps))
        raise ValueError(f"n2m.export: step must be one of the checkpoints {have}, got {step}")
    step = steps[-1] if step is None else step
    if not (folder / str(step) / "about").is_dir():
        raise ForeignRunError(f"n2m.export: {folder / str(step)} was written by an older version")
    try:
        about = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / str(step) / "about")
        config = from_dict(StageConfig, about["config"])
        ema = _read_average(folder / str(step) / "state", config, about)
    except Exception as error:  # Orbax and TensorStore raise whatever fits
        others = ", ".join(str(s) for s in steps if s != step) or "none"
        raise CheckpointError(
            f"n2m.export: checkpoint {step} in {folder} is damaged ({short(error)}); "
            f"others: {others} (--step STEP)"
        ) from error
    text, tokenizer = ema.get("text"), run / "tokenizer.json"
    embedded = about.get("embedded")
    return Exported(run, step, config, ema["unet"], text, about["text"], tokenizer, embedded)


def export(
    runs: Sequence[Path],
    out: Path,
    *,
    name: str = "",
    step: int | None = None,
    dtype: Any = np.float16,
    preset_sampling: bool = False,
    text_encoder: Path | None = None,
) -> list[str]:
    """Writes the stages of `runs` beside those that `out` has; returns all its stages.

    The stages of a model share one text encoder: runs with another one are refused. A run on
    embeddings does not have it: text_encoder is the folder that `data prepare` was given.
    preset_sampling: sample as the run's preset says today, not as it said when training began.
    """
    out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        found = read_run(run, step)
        config = found.config
        if preset_sampling:
            preset = load_preset(_preset_of(run, config))
            config = dataclasses.replace(config, **{f: getattr(preset, f) for f in SAMPLING})
        if config.unet.has_text and found.text is None:
            found = _with_encoder(found, text_encoder, out)
        if found.text is not None:
            _write_text(found, out)
        path = out / f"{config.name}.safetensors"
        weights.save_state(path, found.unet, to_dict(config), dtype)
    stages = [s for s in STAGES if (out / f"{s}.safetensors").is_file()]
    write_model_card(out, name or out.resolve().name, stages)
    return stages


def _read_average(path: Path, config: StageConfig, about: dict[str, Any]) -> dict[str, Any]:
    """{"unet": ..., "text": ...} as numpy arrays, whatever devices they were on."""
    ema = {"unet": nnx.split(abstract_unet(config.unet))[1]}
    if about["text"] is not None:
        text = from_dict(T5Config, about["text"])
        ema["text"] = nnx.split(nnx.eval_shape(lambda: T5Encoder(text, rngs=nnx.Rngs(0))))[1]
    item = {"ema": ema}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    ema = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(path, args=args)["ema"]
    if checksum(ema) != about["checksum"]["ema"]:
        raise ValueError("its numbers are not those that were saved")
    return ema


def _with_encoder(found: Exported, folder: Path | None, out: Path) -> Exported:
    """A run on embeddings with the encoder that made them: ours, or in Hugging Face's layout."""
    wanted = (found.embedded or "").partition("-")[0]
    if folder is None:
        if (out / FILE).is_file() and encoder_hash(out) == wanted:
            return found  # another stage has brought it
        raise ValueError(
            f"n2m.export: text_encoder must be given: {found.run} was trained on texts that data "
            f"prepare had embedded, by encoder {wanted or 'unknown'}; say which one it was given, "
            "--text-encoder FOLDER"
        )
    if wanted and encoder_hash(folder) != wanted:
        raise ValueError(
            f"n2m.export: text_encoder must be the encoder {wanted}, which embedded the texts of "
            f"{found.run}, got {folder}, which is {encoder_hash(folder)}"
        )
    file = folder / FILE if (folder / FILE).is_file() else None
    if file is not None:
        encoder = load_text_encoder(folder)[1]
        config = encoder.config
    else:
        encoder, _, config = load_t5(folder)
    return dataclasses.replace(
        found,
        text=jax.device_get(nnx.split(encoder)[1]),
        text_config=to_dict(config),
        tokenizer=folder / "tokenizer.json",
        encoder=file,
    )


def _write_text(found: Exported, out: Path) -> None:
    path = out / FILE
    if path.exists():
        have, want = weights.read_config(path), found.text_config
        same = have == want and all(
            np.array_equal(a, b) for a, b in zip(*_stored(found, path), strict=True)
        )
        if not same:
            raise ValueError(
                f"n2m.export: the stages of a model must share one text encoder, that of "
                f"{found.run} is not the one in {out}; train with --text-encoder"
            )
        return
    if found.encoder is not None:
        shutil.copyfile(found.encoder, path)  # to the byte: its hash is its name
    else:
        weights.save_state(path, found.text, found.text_config or {})
    assert found.tokenizer is not None
    shutil.copyfile(found.tokenizer, out / "tokenizer.json")


def _stored(found: Exported, path: Path) -> tuple[list[Any], list[Any]]:
    """The tensors of a run's text encoder and of a file, both as they are stored."""
    there = weights.load_state(path, found.text)
    half = [
        np.asarray(a).astype(np.float16).astype(np.float32) for a in jax.tree.leaves(found.text)
    ]
    return half, [np.asarray(a) for a in jax.tree.leaves(there)]


def _preset_of(run: Path, config: StageConfig) -> str:
    values = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return values.get("preset") or f"tiny_{config.name}"
