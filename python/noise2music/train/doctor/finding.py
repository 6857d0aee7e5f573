"""What a check answers."""

from __future__ import annotations

import dataclasses
from typing import Literal

Severity = Literal["ok", "warning", "fault"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One figure of one check. The remedy is empty where nothing is wrong."""

    check: str
    severity: Severity
    figure: str
    remedy: str = ""


def graded(
    check: str, figure: str, *, fault: bool, warning: bool = False, remedy: str = ""
) -> Finding:
    """fault before warning before ok."""
    if fault:
        return Finding(check, "fault", figure, remedy)
    if warning:
        return Finding(check, "warning", figure, remedy)
    return Finding(check, "ok", figure)
