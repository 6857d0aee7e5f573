"""`noise2music train joint`. Its options are the dataclass of its training."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from noise2music.cli.train import hush_orbax, value_of
from noise2music.errors import UserError
from noise2music.joint.options import JointOptions, read_joint_config
from noise2music.joint.train import train_joint
from noise2music.train.processes import Stopped


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJoint:
    """Train the joint embedding of sound and text on captioned clips. A run that was stopped goes
    on where it stopped."""

    options: tyro.conf.OmitArgPrefixes[JointOptions]
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """TOML or JSON with any of these options and, in its table `model`, sizes of the towers; or
    tiny: the recipe of the shipped model. Options given here go before the file's."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        hush_orbax()
        config = None if self.config is None else read_joint_config(self.config)[1]
        try:
            metrics = train_joint(self.options, config)
        except Stopped:
            print(f"{self.options.run}: stopped before the first step, nothing was lost")
            return 0
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"{error.strerror}: {error.filename!r}") from error
        numbers = ", ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        print(f"{self.options.run}: {numbers or 'nothing left to do'}")
        return 0


def defaults(args: list[str]) -> dict[str, TrainJoint]:
    """{"default": what the options are where the command line is silent}, of its --config file."""
    file = value_of("--config", args)
    if file is None:
        return {}
    values: dict[str, Any] = {"corpus": tyro.MISSING, "run": tyro.MISSING}
    values |= read_joint_config(file)[0]
    return {"default": TrainJoint(options=JointOptions(**values), config=file)}
