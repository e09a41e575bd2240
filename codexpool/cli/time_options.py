"""Times as they are said on the command line: callbacks of click's options and arguments."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

import click

from codexpool.config.model import shown
from codexpool.config.tables import Literal, time_literal

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

LONGEST: Final = timedelta(days=365)
"""A duration beyond this is a slip."""


def last_day(context: click.Context, parameter: click.Parameter, value: str | None) -> Literal | None:
    """A day to come, the last one (UTC), or a time with its zone, as pool.toml has it. ``never`` is None.

    Raises click.BadParameter.
    """
    if value is None or value == "never":
        return None
    now = datetime.now(UTC)
    with contextlib.suppress(ValueError):
        day = date.fromisoformat(value)
        return _to_come(Literal(day.isoformat()), day >= now.date())
    with contextlib.suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(value)
        if at.tzinfo is not None:
            return _to_come(time_literal(at), at > now)
    raise click.BadParameter(
        f"{shown(value)} is not a day (2027-01-31), nor a time with its zone (2027-01-31T18:00:00Z)"
    )


def duration(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    """A number with its unit (``90m``, ``24h``, ``7d``), or ``0``. Raises click.BadParameter."""
    found = re.fullmatch(r"0|([0-9]{1,8})([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{shown(value)} is no duration: write a number and s, m, h or d (90m, 7d), or 0")
    given = timedelta(**{UNITS[found[2]]: int(found[1])}) if found[1] else timedelta()
    if given > LONGEST:
        raise click.BadParameter(f"{shown(value)} is too long: at most {LONGEST.days}d")
    return given


def _to_come(literal: Literal, is_to_come: bool) -> Literal:
    if not is_to_come:
        raise click.BadParameter(f"{literal} has passed. To end a membership now: codexpool member revoke NAME")
    return literal
