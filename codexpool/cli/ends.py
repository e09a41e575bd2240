"""Days and times on the command line at which something ends."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime

import click

from codexpool.config.model import shown
from codexpool.config.tables import toml


def future_end(value: str, otherwise: str) -> date:
    """Parse a future day, or a time with its zone. Raises click.BadParameter, which ends with ``otherwise``."""
    now = datetime.now(UTC)
    end: date | None = None
    with contextlib.suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(value)
        end = at.astimezone(UTC) if at.tzinfo is not None else None
    with contextlib.suppress(ValueError):
        end = date.fromisoformat(value)
    if end is None:
        raise click.BadParameter(f"{shown(value)} is neither a day (2027-01-31) nor a time (2027-01-31T18:00:00Z)")
    if end < (now if isinstance(end, datetime) else now.date()):
        raise click.BadParameter(f"{toml(end)} has passed. {otherwise}")
    return end
