"""Moves the times of rows from one clock to another: those in a state are by the clock of its database.

Clocks of several machines differ. What one of them calls a second ago must not be in the future, or long over, for
another one: a limit would not be believed, a later word would lose against an earlier one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from codexpool.pool.identity import Condition
from codexpool.state import Row, Snapshot
from codexpool.state.notes import BREAKER, EMAIL, FAMILIES, NOT_FOR, PINNED, RESET, RESUMED, USAGE

EACH: Final = "*"
Path = tuple[str | int, ...]
"""The place of a time in JSON: keys of objects, places in lists, or `EACH` of either."""


class Times(NamedTuple):
    """Where the times of a note are: those at which something happened, and those at which something ends."""

    past: tuple[Path, ...] = ()
    ends: tuple[Path, ...] = ()


NOTES: Final[Mapping[str, Times]] = {
    USAGE: Times(
        past=(("windows", EACH, 4), ("said_at", EACH), ("read_at",), ("reset_at",), ("credits", 2)),
        ends=(("windows", EACH, 3), ("limited", EACH), ("credits", 1)),
    ),
    RESET: Times(past=(("at",), ("asked_at",))),
    FAMILIES: Times(),
    BREAKER: Times(past=(("opened_at",), ("at",)), ends=(("until",),)),
    RESUMED: Times(past=(("at",),)),
    NOT_FOR: Times(past=(("entries", EACH, 3),), ends=(("entries", EACH, 4),)),
    PINNED: Times(past=(("at",),)),
    EMAIL: Times(),
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

JUST_AHEAD: Final = 1.0
"""Seconds in the future that are now: the difference between two clocks is known to a fraction of a second only, and
a word that seems not to have been said yet would be ignored for good."""

Change = Callable[[Any], Any]


def moved_row(row: Row, seconds: float) -> Row:
    """Return a row with all its times moved by ``seconds``."""
    if not seconds:
        return row
    move = _moving(seconds)
    values: dict[str, Any] = dict(row.values)
    for column in COLUMNS[row.table]:
        values[column] = move(values[column])
    if row.table == "conditions" and values["evidence"] is not None:
        values["evidence"] = json.dumps(_at(json.loads(values["evidence"]), (("at",),), move))
    elif row.table == "notes":
        values["note"] = json.dumps(_note(values["kind"], json.loads(values["note"]), move, move))
    return row._replace(values=values)


def moved_snapshot(snapshot: Snapshot, seconds: float) -> Snapshot:
    """Return what was read with all times moved by ``seconds``."""
    if not seconds:
        return snapshot
    move = _moving(seconds)
    return _changed(snapshot, move, move)


def not_ahead(snapshot: Snapshot, now: float) -> Snapshot:
    """Return what was read with what happened `JUST_AHEAD` of now as if it had happened now."""

    def past(value: Any) -> Any:
        return now if _is_time(value) and now < value <= now + JUST_AHEAD else value

    return _changed(snapshot, past, lambda value: value)


def _changed(snapshot: Snapshot, past: Change, ends: Change) -> Snapshot:
    return replace(
        snapshot,
        conditions={name: _condition(one, past, ends) for name, one in snapshot.conditions.items()},
        records={n: one._replace(used_at=past(one.used_at)) for n, one in snapshot.records.items()},
        notes={(kind, n): _note(kind, note, past, ends) for (kind, n), note in snapshot.notes.items()},
        spent={
            key: one._replace(first_at=past(one.first_at), last_at=past(one.last_at))
            for key, one in snapshot.spent.items()
        },
        dropped={name: past(at) for name, at in snapshot.dropped.items()},
    )


def _condition(condition: Condition, past: Change, ends: Change) -> Condition:
    evidence = condition.evidence
    return replace(
        condition,
        since=past(condition.since),
        until=ends(condition.until),
        evidence=replace(evidence, at=past(evidence.at)) if evidence is not None else None,
    )


def _note(kind: str, note: Any, past: Change, ends: Change) -> Any:
    times = NOTES.get(kind, Times())
    return _at(_at(note, times.past, past), times.ends, ends)


def _at(document: Any, paths: tuple[Path, ...], change: Change) -> Any:
    for path in paths:
        document = _in(document, path, change)
    return document


def _in(node: Any, path: Path, change: Change) -> Any:
    """Return a copy of JSON with the time at a path changed. What is not as expected stays: it may not be ours."""
    if not path:
        return change(node)
    first, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        return {k: _in(v, rest, change) if first in (EACH, k) else v for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_in(v, rest, change) if first in (EACH, k) else v for k, v in enumerate(node)]
    return node


def _moving(seconds: float) -> Change:
    def move(value: Any) -> Any:
        return value + seconds if _is_time(value) else value

    return move


def _is_time(value: Any) -> bool:
    """Return whether a value is a time. Zero means never; what no float can hold was not written by us."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**53
