"""Checks of what a user asks for, shared by the command line and the Python interface.

Every function returns the value in its canonical Python type or raises `UserError` with a line
that says what is legal. None of them imports jax.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noise2music.errors import UserError, unknown_name

MIN_SECONDS = 0.1
MAX_SECONDS = 60.0
MAX_SEED = 2**32 - 1
# Longer prompts are cut: no text encoder here reads more than 96 tokens, and what was used has
# to fit into the output file's metadata.
MAX_PROMPT_CHARACTERS = 2000


def check_seconds(seconds: object, *, name: str = "seconds") -> float:
    """Length of a clip in seconds: a finite number, 0.1 to 60 inclusive."""
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real):
        raise UserError(f"{name} must be a number, got {seconds!r}")
    value = float(seconds)
    if not (math.isfinite(value) and MIN_SECONDS <= value <= MAX_SECONDS):
        raise UserError(
            f"{name} must be between {MIN_SECONDS:g} and {MAX_SECONDS:g}, got {value:g}. For more "
            "music, make several clips with --batch or several prompts."
        )
    return value


def check_seed(seed: object) -> int:
    """Seed of the noise: a whole number from 0 to 2^32 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise UserError(f"seed must be a whole number, got {seed!r}")
    value = int(seed)
    if not 0 <= value <= MAX_SEED:
        raise UserError(f"seed must be between 0 and {MAX_SEED}, got {value}")
    return value


def check_count(value: object, *, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """A whole number from `minimum` to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UserError(f"{name} must be a whole number, got {value!r}")
    count = int(value)
    if count < minimum or (maximum is not None and count > maximum):
        legal = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise UserError(f"{name} must be {legal}, got {count}")
    return count


def check_number(
    value: object, *, name: str, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """A finite number from `minimum` to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{name} must be a finite number, got {number}")
    if not minimum <= number <= maximum:
        raise UserError(f"{name} must be between {minimum:g} and {maximum:g}, got {number:g}")
    return number


def check_choice(value: object, valid: Iterable[str], *, kind: str) -> str:
    """One of the names in `valid`."""
    names = list(valid)
    if value not in names:
        raise unknown_name(kind, value, names)
    return str(value)


def check_prompt(prompt: object, *, name: str = "prompt") -> tuple[str, bool]:
    """Returns the prompt without line breaks at its ends, and whether it had to be cut.

    Any script is legal, and so is the empty prompt: it means unconditional generation.
    """
    if not isinstance(prompt, str):
        raise UserError(f"{name} must be a string, got {type(prompt).__name__}")
    # Unpaired surrogates (undecodable bytes of a command line) cannot be written to any file.
    text = prompt.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()
    return text[:MAX_PROMPT_CHARACTERS].rstrip(), len(text) > MAX_PROMPT_CHARACTERS


def check_per_stage(
    value: object, stages: Iterable[str], check: Callable[..., Any], *, name: str
) -> dict[str, Any]:
    """Spreads one value over the stages, or checks a mapping from stage names to values.

    `check` is called as check(value, name=...) on every value. None gives an empty mapping.
    """
    names = list(stages)
    if value is None:
        return {}
    if isinstance(value, Mapping):
        result = {}
        for stage, item in value.items():
            stage = check_choice(stage, names, kind="stage")
            result[stage] = check(item, name=f"{name} of {stage}")
        return result
    checked = check(value, name=name)
    return {stage: checked for stage in names}
