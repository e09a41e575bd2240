"""Shows what is being measured, in one line on a terminal. Elsewhere it prints nothing."""

from __future__ import annotations

import sys
import time
from typing import Final

CLEAR: Final = "\r\x1b[K"


class Progress:
    """Shows how far the benchmark is, on standard error."""

    def __init__(self, expected: float) -> None:
        self._begun = time.monotonic()
        self._expected = expected
        self._shows = sys.stderr.isatty()

    def shows(self, what: str) -> None:
        """Replace the line."""
        if self._shows:
            gone = time.monotonic() - self._begun
            sys.stderr.write(f"{CLEAR}[{clock(gone)} of about {clock(self._expected)}] {what}"[:118])
            sys.stderr.flush()

    def ends(self) -> None:
        """Remove the line."""
        if self._shows:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()


def clock(seconds: float) -> str:
    """Return minutes and seconds: ``2:05``."""
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
