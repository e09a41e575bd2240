"""Times for programs."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(at: float, timespec: str = "auto") -> str:
    """Format a time in unix seconds as ISO 8601 in UTC: ``2026-11-25T14:02:11Z``. Raises OverflowError, ValueError.

    ``timespec`` says how exact it is: ``seconds``, ``milliseconds``, or (``auto``) as exact as the time itself.
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
