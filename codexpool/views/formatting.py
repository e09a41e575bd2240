"""Formats times, sizes and lines for people, and makes texts safe for a terminal."""

from __future__ import annotations

import math
import textwrap
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple, TypeGuard

from codexpool.redaction import escape

UNKNOWN: Final = "?"
LONG_AGO: Final = "a time outside the calendar"
LEAST_WIDTH: Final = 40  # the narrowest line that is wrapped, in columns


def plain(value: object) -> str:
    """Return a value as one line of text, with control characters made visible."""
    return escape(value if isinstance(value, str) else str(value))


def took(milliseconds: float | None) -> str:
    """Format a duration: ``12.3 ms``, ``843 ms``, ``1.2 s``, ``2 min 5 s``, ``1 h 3 min``."""
    if not _is_number(milliseconds):
        return UNKNOWN
    seconds = milliseconds / 1000
    if milliseconds < 99.95:
        return f"{milliseconds:.1f} ms"
    if seconds < 0.9995:
        return f"{milliseconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return span(seconds)


def span(seconds: float | None) -> str:
    """Format a duration to the second, minute or hour: ``5 s``, ``2 min 5 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if not _is_number(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def relative(seconds: float, now: float) -> str:
    """Format a time relative to now (``in 4 min``, ``3 h ago``), both in unix seconds."""
    return f"in {span(seconds - now)}" if seconds > now else f"{span(now - seconds)} ago"


def counted(number: int, what: str) -> str:
    """Format a number of things: ``1 request``, ``1,200 requests``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float | None) -> str:
    """Format a number of bytes: ``812 B``, ``5.1 kB``, ``3.2 MB``."""
    if not _is_number(number):
        return UNKNOWN
    units = ["GB", "MB", "kB", "B"]
    while abs(number) >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop()
    return f"{number:.0f} {units[-1]}" if units[-1] == "B" or abs(number) >= 99.95 else f"{number:.1f} {units[-1]}"


def clock(at: float | None, day: bool = False) -> str:
    """Format a time for people, in their own zone: ``14:02:11``; with ``day``, ``2026-11-25 14:02:11``."""
    if not _is_number(at):
        return UNKNOWN
    try:
        then = datetime.fromtimestamp(at, UTC).astimezone()
    except (OverflowError, OSError, ValueError):
        return LONG_AGO
    return then.strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S")


def zoned_time(at: float | None) -> str:
    """Format a time for people, who may send it to others: ``2026-11-25 15:02:11 +01:00``."""
    if not _is_number(at):
        return UNKNOWN
    try:
        then = datetime.fromtimestamp(int(at), UTC).astimezone()
    except (OverflowError, OSError, ValueError):
        return LONG_AGO
    zone = then.strftime("%z")
    return f"{then:%Y-%m-%d %H:%M:%S} {zone[:3]}:{zone[3:5]}"


def local_time(at: float | str | None) -> str:
    """Format a time for people, in their own zone: ``2026-11-25 15:02``. Empty for None.

    ``at`` is in unix seconds, or a text of ISO 8601, as in JSON.
    """
    if at is None:
        return ""
    try:
        then = datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)
        return then.astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return LONG_AGO


def _is_number(value: float | None) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def plain_document(value: Any) -> Any:
    """Return a JSON document with every text in it made `plain`."""
    match value:
        case str():
            return plain(value)
        case list() | tuple():
            return [plain_document(item) for item in value]
        case dict():
            return {plain(key): plain_document(item) for key, item in value.items()}
        case _:
            return value


class Role(Enum):
    """The purpose of a line; the value is its style on a terminal."""

    HEADING = "bold"
    FACT = ""
    GOOD = "green"
    BAD = "red"
    CHANGED = "yellow"
    DIM = "dim"


class Line(NamedTuple):
    """A line of a report. When it is wrapped, what follows is indented by ``hang`` columns, or by two more."""

    text: str
    role: Role = Role.FACT
    hang: int = 0


def wrap(line: Line, columns: int | None) -> list[str]:
    """Wrap a line at ``columns``, but not below 40; None leaves it whole."""
    if columns is None:
        return [line.text]
    columns = max(columns, LEAST_WIDTH)
    hang = line.hang or len(line.text) - len(line.text.lstrip(" ")) + 2
    return textwrap.wrap(line.text, columns, subsequent_indent=" " * min(hang, columns // 2), break_on_hyphens=False)
