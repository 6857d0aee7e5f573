"""`noise2music doctor train`: looks at a training before it starts."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

import tyro

from noise2music import arguments
from noise2music.config import STAGES
from noise2music.errors import UserError
from noise2music.train.doctor import examine, report
from noise2music.train.options import TrainOptions, read_config, stage_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Find what makes models learn nothing, before the days are spent. Exit code 1 on a fault."""

    stage: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STAGE")] = ""
    """Stage to train. Default: that of the config file's preset."""
    config: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """What `noise2music train --config` takes: a TOML or JSON file, or paper, tiny."""
    corpus: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of `data prepare` or `data corpus`. Default: that of the config file."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the text encoder. Default: that of the config file."""
    seconds: float = 60.0
    """How long to train on one batch, compiling not counted. 0: not at all."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        stage = self._stage()
        values, changes = read_config(self.config, stage)
        given = {"corpus": self.corpus, "text_encoder": self.text_encoder}
        values |= {name: value for name, value in given.items() if value is not None}
        if "corpus" not in values:
            raise UserError("doctor train needs data to look at: --corpus FOLDER")
        options = TrainOptions(**{"run": "", **values})
        config = stage_config(stage, options.preset, changes)
        found = examine(config, options, seconds=self.seconds)
        print(report(found))
        return 1 if any(f.severity == "fault" for f in found) else 0

    def _stage(self) -> str:
        if self.stage:
            return arguments.check_choice(self.stage, STAGES, kind="stage")
        if not pathlib.Path(self.config).is_file():
            raise UserError(f"name the stage that the config {self.config!r} is for")
        values, changes = read_config(self.config, "")
        name = str(changes.get("name") or values.get("preset") or "").removeprefix("tiny_")
        if name not in STAGES:
            raise UserError(f"the config {self.config!r} names no preset: name the stage")
        return name
