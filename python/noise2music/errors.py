"""The errors a user can meet, and the one way in which a wrong name is explained."""

from __future__ import annotations

import difflib
import importlib
import types
from collections.abc import Iterable


class UserError(ValueError):
    """Something the caller asked for cannot be done: a bad argument, file or model.

    The message is one line that says what was wrong, what is legal and, where it can be guessed,
    what was meant. The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class OutputError(RuntimeError):
    """A stage produced something that is not music: NaN, infinity or silence.

    `stage` is the name of the stage and `step` the index of the denoising step at which it was
    noticed (None where unknown); both also stand in the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, stage: str | None = None, step: int | None = None):
        super().__init__(message)
        self.stage = stage
        self.step = step


def unknown_name(kind: str, value: object, valid: Iterable[str]) -> UserError:
    """Returns the error for a name that is not one of `valid`, with the nearest valid name."""
    names = [str(name) for name in valid]
    close = difflib.get_close_matches(
        str(value).lower(), [n.lower() for n in names], n=1, cutoff=0.4
    )
    meant = [n for n in names if close and n.lower() == close[0]]
    hint = f" Did you mean {meant[0]!r}?" if meant else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Valid: {', '.join(names) or 'none'}.")


def import_extra(module: str, *, extra: str, purpose: str) -> types.ModuleType:
    """Imports an optional module, or raises UserError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: {extra}"
        ) from error
