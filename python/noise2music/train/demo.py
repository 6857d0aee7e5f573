"""What a running training sounds like: the same clips, noise and texts every `demo_every` steps.

A stage is heard alone: it gets the validation clips' own conditions. What is sound is written as
it is; a mel spectrogram is made audible by the vocoder of the model that the package comes with.
Beside each clip lies its picture, where matplotlib is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from noise2music.audio import write_audio
from noise2music.clip import Clip
from noise2music.config import StageConfig
from noise2music.errors import OutputError
from noise2music.excitation import shape
from noise2music.stage import Stage, Text
from noise2music.train.assemble import held_out
from noise2music.train.options import TrainOptions

VOCODER = "tiny"  # the shipped model whose vocoder makes mel spectrograms audible
_SEED = 0


class Demo:
    """Fixed clips of the validation split, sampled with the weights of the moment.

    batch: one batch of the stage, as numpy arrays. encode: params["text"], tokens, mask -> states.
    """

    def __init__(self, folder: Path, config: StageConfig, batch: Any, encode: Any, how: str):
        self._folder, self._config, self._batch, self._encode = folder, config, batch, encode
        self._implementation = how
        self._vocoder: Stage | None = None
        self._stage: Stage | None = None

    def targets(self) -> None:
        """What the clips should become, written once."""
        if not (self._folder / "target-1.wav").exists():
            x = self._batch["x"]
            if self._config.excitation:
                x = shape(x[..., 0], self._batch["aligned"])[..., None]
            self._write("target", x)

    def __call__(self, step: int, ema: Any) -> None:
        """Samples with `ema` = {"unet": ..., "text": ...} and writes step<step>-<clip>.wav."""
        batch, config = self._batch, self._config
        if self._stage is None:
            self._stage = Stage(config, ema["unet"], implementation=self._implementation)
        text = None
        if config.unet.has_text:
            states = batch.get("text")
            if states is None:
                states = self._encode(ema["text"], batch["tokens"], batch["mask"])
            beat = jnp.asarray(batch.get("beat", np.zeros(len(batch["x"]))), jnp.float32)
            text = Text(jnp.asarray(states), jnp.asarray(batch["mask"]), jnp.ones_like(beat), beat)
        condition = batch.get("low", batch.get("aligned"))
        try:
            made = self._stage.with_state(ema["unet"]).sample(
                batch["x"].shape[1],
                np.arange(len(batch["x"])),
                seed=_SEED,
                text=text,
                condition=None if condition is None else jnp.asarray(condition),
            )
        except OutputError as error:  # a young model: no reason to stop training
            warnings.warn(f"no demo at step {step}: {error}", stacklevel=2)
            return
        self._write(f"step{step:08d}", made)

    def _write(self, name: str, made: np.ndarray) -> None:
        self._folder.mkdir(exist_ok=True)
        sound, rate = (made[..., 0], self._config.rate)
        if self._config.target == "mel":
            sound, rate = self._voiced(made)
        for i, samples in enumerate(sound, 1):
            path = self._folder / f"{name}-{i}.wav"
            write_audio(path, samples, rate)
            if importlib.util.find_spec("matplotlib"):
                from noise2music.plot import plot_clip

                plot_clip(Clip(samples, rate, name, _SEED), path.with_suffix(".png"))

    def _voiced(self, mel: np.ndarray) -> tuple[np.ndarray, int]:
        if self._vocoder is None:
            from noise2music.cascade import load

            self._vocoder = load(VOCODER).stage("spectrogram_vocoder")
        rate = self._vocoder.config.rate
        length = mel.shape[1] * rate // self._config.rate
        made = self._vocoder.sample(
            length, np.arange(len(mel)), seed=_SEED, condition=jnp.asarray(np.clip(mel, -1, 1))
        )
        return made[..., 0], rate


def make_demo(run: Path, config: StageConfig, options: TrainOptions, text: Any) -> Demo:
    """The demo of a run: the first clips of the validation split, from their start."""
    longer = dataclasses.replace(config, train_seconds=options.demo_seconds, train_from="start")
    longer = dataclasses.replace(longer, missing_band=())  # heard as it is
    batch = next(held_out(options, longer, text, options.demo_clips))
    encode = None
    if text is not None:
        graph, _ = nnx.split(text.encoder)
        encode = jax.jit(lambda state, tokens, mask: nnx.merge(graph, state)(tokens, mask))
    demo = Demo(run / "demos", config, batch, encode, options.implementation)
    demo.targets()
    return demo
