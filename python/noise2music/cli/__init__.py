"""The command `noise2music`: options in `commands.py`, what they do in one module each.

Exit codes: 0 done, 1 failed (a stage gave NaN or silence, a self-test failed, an error of ours),
2 asked for something impossible, 130 interrupted. No traceback is shown without --debug.
"""

from __future__ import annotations

import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from noise2music.errors import OutputError, UserError, unknown_name

_PROG = "noise2music"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and never raises (except with --debug)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from noise2music import __version__

        print(f"noise2music {__version__}")
        return 0
    debug = "--debug" in args
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            if args == ["--cmake-dir"]:
                print(_cmake_dir())
                return 0
            return _parse(args or ["--help"]).run()
        except SystemExit as stop:  # --help, or an option that does not parse
            return stop.code if isinstance(stop.code, int) else 2
        except KeyboardInterrupt:
            _say("interrupted: nothing was left half written")
            return 130
        except BrokenPipeError:  # the reader of our output (head, less) went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:  # the last line of defence: no traceback without --debug
            if debug:
                raise
            return _explain(error)


def _parse(args: list[str]) -> Any:
    import tyro

    def read(command: Any, args: list[str], name: str, **more: Any) -> Any:
        return tyro.cli(
            command, args=args, prog=name, config=(tyro.conf.FlagCreatePairsOff,), **more
        )

    # These import what they run, so they are not part of the union that all others share.
    if args[:2] == ["train", "joint"]:
        from noise2music.cli import train_joint

        values = train_joint.defaults(args[2:])
        name = f"{_PROG} train joint"
        return read(train_joint.TrainJoint, args[2:] or ["--help"], name, **values)
    if args[0] == "train":
        from noise2music.cli import train

        given = train.defaults(args[1:])
        more = {} if given is None else {"default": given}
        return read(train.Command, args[1:], f"{_PROG} train", **more)
    if args[0] == "data":
        from noise2music.cli import data

        known = {"corpus": data.Corpus, "prepare": data.Prepare}
        name = "--help" if not args[1:] else args[1]
        if name in ("-h", "--help"):
            about = "Make training data."
            return read(data.Command, ["--help"], f"{_PROG} data", description=about)
        if name not in known:
            raise unknown_name("data command", name, known)
        return read(known[name], args[2:] or ["--help"], f"{_PROG} data {name}")
    if args[0] == "evaluate":
        from noise2music.cli import evaluate

        name = "--help" if not args[1:] else args[1]
        if name in ("-h", "--help"):
            about = "Judge clips: distances, similarity, ablations, listening."
            return read(evaluate.Command, ["--help"], f"{_PROG} evaluate", description=about)
        if name not in evaluate.COMMANDS:
            raise unknown_name("evaluate command", name, evaluate.COMMANDS)
        return read(evaluate.COMMANDS[name], args[2:] or ["--help"], f"{_PROG} evaluate {name}")
    if args[0] == "label":
        from noise2music.cli import label

        name = "--help" if not args[1:] else args[1]
        if name in ("-h", "--help"):
            about = "Captions for unlabelled music, and a search for copies."
            return read(label.Command, ["--help"], f"{_PROG} label", description=about)
        if name not in label.COMMANDS:
            raise unknown_name("label command", name, label.COMMANDS)
        return read(label.COMMANDS[name], args[2:] or ["--help"], f"{_PROG} label {name}")
    if args[:2] == ["doctor", "train"]:
        from noise2music.cli import doctor

        return read(doctor.Train, args[2:] or ["--help"], f"{_PROG} doctor train")
    from noise2music.cli import commands

    about = (
        "Music from text by a cascade of diffusion models. --version prints the version, "
        "--cmake-dir where CMake finds the C++ library."
    )
    return read(commands.Command, args, _PROG, description=about)


def _cmake_dir() -> str:
    """The folder with noise2musicConfig.cmake, for -Dnoise2music_DIR= of a C++ project."""
    import noise2music

    for folder in map(pathlib.Path, noise2music.__path__):
        for found in sorted(folder.glob("lib*/cmake/noise2music")):
            return str(found)
    raise UserError(
        "this installation has no C++ library: install it with a C++17 compiler at hand and "
        "without NOISE2MUSIC_NATIVE=OFF"
    )


def _explain(error: Exception) -> int:
    if isinstance(error, (UserError, OutputError)):
        _say(f"error: {error}")
        return error.exit_code
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        _say("error: out of memory. Ask for fewer --seconds, a smaller --batch or fewer prompts.")
        return 1
    if text.startswith("n2m."):  # a public function of ours refused an argument
        _say(f"error: {text}")
        return 2 if isinstance(error, (ValueError, TypeError)) else 1
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
