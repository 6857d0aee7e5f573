"""Progress bars: one a stage, with the time left, on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A callable (stage, done, total) that draws a tqdm bar for each stage.

    Silent unless stderr is a terminal or `force` is set. Use it as a context manager, so that the
    last bar is closed whatever happens.
    """

    def __init__(self, *, force: bool = False, label: str = ""):
        self._enabled = force or sys.stderr.isatty()
        self._label = label
        self._stage: str | None = None
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not self._enabled:
            return
        if stage != self._stage or (self._bar is not None and done < self._bar.n):
            self.close()
            from tqdm import tqdm

            self._stage = stage
            self._bar = tqdm(total=total, desc=f"{self._label}{stage}", unit="step", leave=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Finishes the bar that is being drawn."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._stage = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
