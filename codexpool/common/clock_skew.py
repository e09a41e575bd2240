"""How far this machine's clock is from the backend's. Ends of tokens and limits are computed with it."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

LATEST: Final = 1e11  # The latest plausible unix second.


class Clock:
    """``offset`` is this machine's clock minus the backend's, in seconds, by the last answer with a ``Date``."""

    def __init__(self) -> None:
        self.offset: float | None = None

    def theirs(self, at: float) -> float:
        """Return the backend's time at a unix second of this machine's clock, as far as is known."""
        return at - (self.offset or 0.0)

    def learn(self, date: str | None, asked_at: float, answered_at: float) -> None:
        """Learn from the ``Date`` of an answer, with the unix seconds of its request and arrival. Raises nothing."""
        found = offset(date, asked_at, answered_at) if date else None
        if found is not None:
            self.offset = found


def offset(date: str, asked_at: float, answered_at: float) -> float | None:
    """Return our clock minus theirs, in seconds: 0.0 if they may be equal, None for an invalid date.

    The header has whole seconds and the answer took some time, so a range of times fits.
    """
    try:
        parsed = parsedate_to_datetime(date)
        # A date without a zone means UTC (RFC 9110, 5.6.7).
        theirs = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    if answered_at < theirs:
        return answered_at - theirs
    return max(0.0, asked_at - (theirs + 1))
