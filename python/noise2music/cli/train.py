"""`noise2music train`. Its options are the dataclass of the training loop, so there is one list.

The loop is heavy: this module is imported when training is what was asked for.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Annotated

import tyro

from noise2music import arguments
from noise2music.config import STAGES, StageConfig, from_dict
from noise2music.errors import UserError
from noise2music.train.loop import TrainOptions, train

TEXT_ENCODER = "text_encoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Train one stage of the cascade. A run that was stopped goes on where it stopped."""

    stage: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STAGE")]
    """waveform_generator, waveform_cascader, spectrogram_generator, spectrogram_vocoder,
    super_resolution_cascader; or text_encoder, what --text-encoder and --text-init take."""
    options: tyro.conf.OmitArgPrefixes[TrainOptions]
    config: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Shape of the stage as JSON (as in config.json of a run), in place of a preset."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        stage = arguments.check_choice(self.stage, (*STAGES, TEXT_ENCODER), kind="stage")
        config = None if self.config is None else _read_config(self.config)
        try:
            metrics = (
                _train_text(self.options)
                if stage == TEXT_ENCODER
                else train(stage, self.options, config)
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"{error.strerror}: {error.filename!r}") from error
        numbers = ", ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        print(f"{self.options.run}: {numbers or 'nothing left to do'}")
        return 0


def _train_text(options: TrainOptions) -> dict[str, float]:
    from noise2music.train.text import train_text_encoder

    return train_text_encoder(
        options.corpus,
        options.run,
        steps=options.steps,
        batch_size=options.batch_size,
        peak_lr=options.peak_lr,
        seed=options.seed,
    )


def _read_config(path: pathlib.Path) -> StageConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the configuration {str(path)!r}: {error}") from error
    return from_dict(StageConfig, values)
