"""Moves the times of rows from one clock to another: those in a state are by the clock of its database.

Clocks of several machines differ. What one of them calls a second ago must not be in the future, or long over, for
another one: a limit would not be believed, a later word would lose against an earlier one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from codexpool.pool.identity import Condition
from codexpool.state import Row, Snapshot
from codexpool.state.notes import BREAKER, FAMILIES, NOT_FOR, PINNED, RESET, RESUMED, USAGE

T = TypeVar("T")

EACH: Final = "*"
Path = tuple[str | int, ...]
"""The place of a time in JSON: keys of objects, places in lists, or `EACH` of either."""

NOTES: Final[Mapping[str, tuple[Path, ...]]] = {
    USAGE: (
        ("windows", EACH, 3),  # When it is reset.
        ("windows", EACH, 4),  # When it was seen.
        ("limited", EACH),
        ("said_at", EACH),
        ("read_at",),
        ("reset_at",),
        ("credits", 1),  # When the first one expires.
        ("credits", 2),  # When they were counted.
    ),
    RESET: (("at",), ("asked_at",)),
    FAMILIES: (),
    BREAKER: (("opened_at",), ("until",), ("at",)),
    RESUMED: (("at",),),
    NOT_FOR: (("entries", EACH, 3), ("entries", EACH, 4)),
    PINNED: (("at",),),
}
"""The times in each kind of note."""

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "sessions": ("at",),
    "metadata": ("at",),
    "conditions": ("since", "until", "at"),
    "records": ("used_at",),
    "notes": ("at",),
    "spent": ("first_at", "last_at"),
    "claims": ("at",),
}
"""The times among the values of each kind of `Row`."""


def moved_row(row: Row, seconds: float) -> Row:
    """Return a row with all its times moved by ``seconds``."""
    if not seconds:
        return row
    values: dict[str, Any] = dict(row.values)
    for column in COLUMNS[row.table]:
        values[column] = _moved(values[column], seconds)
    if row.table == "conditions":
        values["evidence"] = _moved_json(values["evidence"], (("at",),), seconds)
    elif row.table == "notes":
        values["note"] = _moved_json(values["note"], NOTES.get(values["kind"], ()), seconds)
    return row._replace(values=values)


def moved_snapshot(snapshot: Snapshot, seconds: float) -> Snapshot:
    """Return what was read with all times moved by ``seconds``."""
    if not seconds:
        return snapshot
    return replace(
        snapshot,
        conditions={name: _moved_condition(one, seconds) for name, one in snapshot.conditions.items()},
        records={n: one._replace(used_at=_moved(one.used_at, seconds)) for n, one in snapshot.records.items()},
        notes={key: _moved_at(note, NOTES.get(key[0], ()), seconds) for key, note in snapshot.notes.items()},
        spent={
            key: one._replace(first_at=_moved(one.first_at, seconds), last_at=_moved(one.last_at, seconds))
            for key, one in snapshot.spent.items()
        },
    )


def _moved_condition(condition: Condition, seconds: float) -> Condition:
    evidence = condition.evidence
    return replace(
        condition,
        since=_moved(condition.since, seconds),
        until=_moved(condition.until, seconds),
        evidence=replace(evidence, at=_moved(evidence.at, seconds)) if evidence is not None else None,
    )


def _moved_json(text: str | None, paths: tuple[Path, ...], seconds: float) -> str | None:
    if text is None or not paths:
        return text
    return json.dumps(_moved_at(json.loads(text), paths, seconds))


def _moved_at(document: Any, paths: tuple[Path, ...], seconds: float) -> Any:
    for path in paths:
        document = _moved_in(document, path, seconds)
    return document


def _moved_in(node: Any, path: Path, seconds: float) -> Any:
    """Return a copy of JSON with the time at a path moved. What is not as expected stays: it may not be ours."""
    if not path:
        return _moved(node, seconds)
    first, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        return {k: _moved_in(v, rest, seconds) if first in (EACH, k) else v for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_moved_in(v, rest, seconds) if first in (EACH, k) else v for k, v in enumerate(node)]
    return node


def _moved(value: T, seconds: float) -> T:
    """Return a time moved. Zero means never, and no number is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return value
    try:
        moved = value + seconds
    except OverflowError:
        return value
    return moved if math.isfinite(moved) else value  # type: ignore[return-value]
