"""`noise2music train`. Its options are the dataclass of the training loop, so there is one list.

The loop is heavy: this module is imported when training is what was asked for.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from typing import Annotated, Any

import tyro

from noise2music import arguments, pages
from noise2music.config import STAGES
from noise2music.errors import UserError, unknown_name
from noise2music.train.loop import train
from noise2music.train.options import TrainOptions, read_config, stage_config
from noise2music.train.processes import Stopped

TEXT_ENCODER = "text_encoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Train one stage of the cascade. A run that was stopped goes on where it stopped."""

    stage: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STAGE")]
    """waveform_generator, waveform_cascader, spectrogram_generator, spectrogram_vocoder,
    super_resolution_cascader; or text_encoder, what --text-encoder and --text-init take; or joint,
    the joint embedding of sound and text, whose options `train joint --help` lists."""
    options: tyro.conf.OmitArgPrefixes[TrainOptions]
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """TOML or JSON with any of these options and, in its table `stage`, changes of the preset; or
    paper, tiny: the recipes that come with the package. Options given here go before the file's."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        stage = arguments.check_choice(self.stage, (*STAGES, TEXT_ENCODER), kind="stage")
        options = self.options
        hush_orbax()
        pages.keep()  # this process trains and does nothing else
        try:
            if stage == TEXT_ENCODER:
                metrics = _train_text(options)
            else:
                changes = {} if self.config is None else read_config(self.config, stage)[1]
                metrics = train(stage, options, stage_config(stage, options.preset, changes))
        except Stopped:
            print(f"{options.run}: stopped before the first step, nothing was lost")
            return 0
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"{error.strerror}: {error.filename!r}") from error
        numbers = ", ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        print(f"{options.run}: {numbers or 'nothing left to do'}")
        return 0


def defaults(args: list[str]) -> Command | None:
    """What the options are where the command line is silent: the values of its --config file."""
    file = value_of("--config", args)
    if file is None:
        return None
    stage = next((a for a in args if a in STAGES), None)
    if stage is None:
        named = args[0] if args and not args[0].startswith("-") else ""
        raise unknown_name("stage of a config", named, STAGES)
    values: dict[str, Any] = {"corpus": tyro.MISSING, "run": tyro.MISSING}
    values |= read_config(file, stage)[0]
    return Command(stage=tyro.MISSING, options=TrainOptions(**values), config=file)


def hush_orbax() -> None:
    """What Orbax cannot read or write comes to us as an error; its log and the complaints of the
    coroutines that it leaves behind would bury our line about it."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook

    def hook(what: Any) -> None:
        if not (inspect.iscoroutine(what.object) or "Event loop is closed" in str(what.exc_value)):
            usual(what)

    sys.unraisablehook = hook


def value_of(option: str, args: list[str]) -> str | None:
    """The last value of an option on a command line; None where it is not there."""
    found = None
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            found = args[i + 1]
        elif arg.startswith(option + "="):
            found = arg.partition("=")[2]
    return found


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
