"""What became of each header between the client, the proxy's flow and the backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

Headers = Sequence[tuple[str, str]]


class Change(Enum):
    """What happened to a header on its way; the value is the sign it is shown with."""

    REPLACED = "~"
    ADDED = "+"
    REMOVED = "-"
    KEPT = "="


class Row(NamedTuple):
    """One header in three places; None where it is not there."""

    change: Change
    name: str
    client: str | None
    flow: str | None
    upstream: str | None


def compared(client: Headers, flow: Headers, upstream: Headers) -> list[Row]:
    """One row for each header that the client or the backend saw, what was changed first.

    Names are compared without case and shown in lower case; of a repeated one the values are joined, so that a
    second one cannot hide.
    """
    sent, shown, received = _by_name(client), _by_name(flow), _by_name(upstream)
    names = list(sent) + [name for name in received if name not in sent]
    rows = [Row(change(sent.get(n), received.get(n)), n, sent.get(n), shown.get(n), received.get(n)) for n in names]
    return sorted(rows, key=lambda row: list(Change).index(row.change))


def change(before: str | None, after: str | None) -> Change:
    """What happened to a value."""
    if before == after:
        return Change.KEPT
    if before is None:
        return Change.ADDED
    return Change.REMOVED if after is None else Change.REPLACED


def _by_name(headers: Headers) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined
