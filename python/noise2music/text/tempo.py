"""The tempo that a text states in numbers."""

from __future__ import annotations

import re

LOWEST, HIGHEST = 20.0, 400.0  # beats a minute; what is outside is not a tempo

_NUMBER = r"(\d{2,3}(?:\.\d+)?)"
_STATED = re.compile(
    rf"\b{_NUMBER}\s*-?\s*(?:bpm\b|beats?\s+(?:per|a|/)\s*min)|\b(?:bpm|tempo)\s*(?:of|is|[:=])?\s*{_NUMBER}\b",
    re.IGNORECASE,
)


def stated_tempo(text: str) -> float:
    """Beats a minute as stated: "120 BPM", "96.5 beats per minute", "tempo 80"; 0 where none is.

    The first number that is a tempo (20 to 400) counts.
    """
    for match in _STATED.finditer(text):
        tempo = float(match[1] or match[2])
        if LOWEST <= tempo <= HIGHEST:
            return tempo
    return 0.0
