"""Times that others say, and how far this machine's clock is from the backend's: the ends of tokens and of limits are
reckoned by it."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

LATEST: Final = 1e11
"""No unix second that anybody means is beyond this."""


class Clock:
    """What the last answer with a ``Date`` has said. ``offset`` is our clock minus the backend's, in seconds."""

    def __init__(self) -> None:
        self.offset: float | None = None

    def saw(self, date: str | None, asked_at: float, answered_at: float) -> None:
        """An answer had this ``Date``; it was made between these two unix seconds of ours. Raises nothing."""
        said = offset(date, asked_at, answered_at) if date else None
        if said is not None:
            self.offset = said


def offset(date: str, asked_at: float, answered_at: float) -> float | None:
    """Our clock minus theirs: 0.0 if theirs may well be the same; None for what is no date.

    The header is to the second and the answer took its time, so that there is a span of times that fit.
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
