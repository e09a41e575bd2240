"""Copies a state from one engine to another, in one transaction: the target gets all of it or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from codexpool.state import Row, State, StateError
from codexpool.state.clock import database_time
from codexpool.state.news import next_revision
from codexpool.state.notes import BREAKER, PINNED
from codexpool.state.presence import present
from codexpool.state.schema import claims, conditions, logins, metadata, notes, records, sessions, spent
from codexpool.state.sqlite import read_only
from codexpool.state.times import COLUMNS, moved_row

TABLES: Final = (metadata, conditions, records, notes, claims, logins, spent, sessions)
"""What is copied. Heartbeats and leases belong to proxies that run."""

SCOPED: Final[Mapping[str, str]] = {"records": "name", "notes": "name", "spent": "pool"}
"""The column that names the pool.toml a row belongs to: as the whole text, or before a ``#``."""

SCOPED_NOTES: Final = frozenset({BREAKER, PINNED})
"""The kinds of notes that belong to a pool.toml; all others hold for an account, a token or a model."""

NAMES: Final = tuple(table.name for table in TABLES)
ROWS: Final = 1000  # In one statement.
SAME_CLOCK: Final = 0.05  # Seconds between two clocks that may as well be one.
RENEWING: Final = ("renewing_by", "renewing_until")  # Columns of a login whose renewal is under way: not there.

Values = dict[str, Any]


@dataclass(slots=True)
class Copied:
    """How many rows were copied, by table, and how many were left out: of other pools, and with values that
    PostgreSQL cannot store."""

    rows: dict[str, int] = field(default_factory=dict)
    of_other_pools: int = 0
    unstorable: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to copy to. ``scopes`` are those of the pool in source and target, ``ahead`` is by how many seconds the
    target's clock is ahead of this machine's, which is that of a file."""

    connection: Connection
    writer: str
    scopes: tuple[str, str]
    ahead: float = 0.0


Progress = Callable[[str, int, int], None]
"""Is given a table, how many of its rows are done, and how many there are."""


def copy_file(path: Path, target: State, scopes: tuple[str, str], progress: Progress) -> Copied:
    """Copy a SQLite file, which is not changed, to a state that is empty.

    Raises StateError, with nothing copied. ``scopes`` are as in `Target`.
    """

    def work(connection: Connection) -> Copied:
        ahead = database_time(connection) - time.time()
        return copy(source, Target(connection, target.name, scopes, ahead), progress)

    with read_only(path) as source:
        if using := [f"{proxy.host}, process {proxy.pid}" for proxy in present(source) if proxy.is_alive]:
            raise StateError(f"a proxy still writes to {path} ({'; '.join(using)})", "end it first")
        try:
            return target.transact(work)
        except DBAPIError as error:
            raise StateError(f"a row was refused ({error.orig})", "report this as a bug") from None


def copy(source: Connection, target: Target, progress: Progress) -> Copied:
    """Copy all tables, within the target's transaction.

    Raises StateError if the target is not empty, or has other numbers of rows afterwards.
    """
    _lock(target.connection)
    if found := [table.name for table in TABLES if table is not claims and _count(target.connection, table)]:
        raise StateError(f"it is not empty: it has {', '.join(found)}", "copy to a new database or schema")
    copied, revision = Copied(), next_revision(target.connection, target.writer)
    for table in TABLES:
        _copy_table(table, source, target, revision, copied, progress)
    return copied


def _copy_table(
    table: Table, source: Connection, target: Target, revision: int, copied: Copied, progress: Progress
) -> None:
    total, done, written = _count(source, table), 0, 0
    more = {"revision": revision} if "revision" in table.columns else {}
    for batch in source.execute(select(table)).mappings().partitions(ROWS):
        values = (_values(table, dict(row), target, copied) for row in batch)
        rows = [{**row, **more} for row in values if row is not None]
        _insert(target.connection, table, rows)
        done, written = done + len(batch), written + len(rows)
        progress(table.name, done, total)
    copied.rows[table.name] = written
    if table is not claims and (there := _count(target.connection, table)) != written:
        raise StateError(f"{table.name}: {written} rows were copied, and {there} are there", "try again")


def _lock(target: Connection) -> None:
    """Keep others from writing until the end: two copies at once would mix."""
    if target.dialect.name == "postgresql":
        target.execute(text(f"LOCK TABLE {', '.join(NAMES)} IN SHARE ROW EXCLUSIVE MODE"))


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _insert(target: Connection, table: Table, rows: list[Values]) -> None:
    if table is claims:  # The target has one of its own: the time at which it was pruned.
        there = set(target.scalars(select(claims.c.case)))
        rows = [row for row in rows if row["case"] not in there]
    if rows:
        target.execute(insert(table), rows)


def _values(table: Table, values: Values, target: Target, copied: Copied) -> Values | None:
    """Return a row as the target has it; None, and count it, if it stays behind."""
    column = SCOPED.get(table.name)
    if column is not None and (table is not notes or values["kind"] in SCOPED_NOTES):
        name = rescoped(str(values[column]), *target.scopes)
        if name is None:
            copied.of_other_pools += 1
            return None
        values[column] = name
    if table is claims:  # The case of a notice names the folder of its pool: it is not to be sent again.
        before, after = target.scopes
        values["case"] = values["case"].replace(f":{Path(before).parent}:", f":{after}:")
    if any("\0" in value for value in values.values() if isinstance(value, str)):
        copied.unstorable += 1
        return None
    if table is logins:
        values |= {name: None for name in RENEWING if name in values}
    if table.name in COLUMNS and abs(target.ahead) > SAME_CLOCK:
        with contextlib.suppress(ValueError):  # A note that is no JSON: no proxy can read it either.
            return dict(moved_row(Row(table.name, None, values), target.ahead).values)
    return values


def rescoped(name: str, before: str, after: str) -> str | None:
    """Return the key of a row that belongs to a pool under another scope; None if it belongs to another pool."""
    if name != before and not name.startswith(f"{before}#"):
        return None
    return f"{after}{name[len(before) :]}"
