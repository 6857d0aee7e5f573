"""The command `noise2music`: options in `commands.py`, what they do in one module each.

Exit codes: 0 done, 1 failed (a stage gave NaN or silence, a self-test failed, an error of ours),
2 asked for something impossible, 130 interrupted. No traceback is shown without --debug.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from noise2music.errors import OutputError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and never raises (except with --debug)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from noise2music import __version__

        print(f"noise2music {__version__}")
        return 0
    try:
        command = _parse(args or ["--help"])
    except SystemExit as stop:  # --help, or an option that does not parse
        return stop.code if isinstance(stop.code, int) else 2
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            return command.run()
        except KeyboardInterrupt:
            _say("interrupted: nothing was left half written")
            return 130
        except BrokenPipeError:  # the reader of our output (head, less) went away
            sys.stdout = None  # type: ignore[assignment]
            return 1
        except Exception as error:  # the last line of defence: no traceback without --debug
            if command.debug:
                raise
            return _explain(error)


def _parse(args: list[str]) -> Any:
    import tyro

    from noise2music.cli import commands

    return tyro.cli(
        commands.Command,  # type: ignore[arg-type]
        args=args,
        prog="noise2music",
        description="Music from text by a cascade of diffusion models.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _explain(error: Exception) -> int:
    if isinstance(error, (UserError, OutputError)):
        _say(f"error: {error}")
        return error.exit_code
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        _say("error: out of memory. Ask for fewer --seconds, a smaller --batch or fewer prompts.")
        return 1
    if isinstance(error, (ValueError, TypeError)) and text.startswith("n2m."):
        _say(f"error: {text}")
        return 2
    _say(f"error: {type(error).__name__}: {text} (again with --debug for the traceback)")
    return 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Only what is meant for users; deprecations inside libraries are ours to notice in tests.
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning, ResourceWarning)):
        _say(f"warning: {message}")


def _say(text: str) -> None:
    print("noise2music: " + " ".join(text.split()), file=sys.stderr)
