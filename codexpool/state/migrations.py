"""How an older state gets to the newest version of the schema. A new one is made from `codexpool.state.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Dialect, Table
from sqlalchemy.schema import CreateIndex, CreateTable

from codexpool.state.schema import leases, logins, proxies, schema

FIRST = """
CREATE TABLE sessions (
    session TEXT PRIMARY KEY, account_id TEXT NOT NULL, user_id TEXT NOT NULL,
    at REAL NOT NULL, revision INTEGER NOT NULL, writer TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_at ON sessions (at);
CREATE INDEX sessions_revision ON sessions (revision);
CREATE TABLE metadata (
    fingerprint TEXT PRIMARY KEY, account_id TEXT NOT NULL, user_id TEXT NOT NULL, plan TEXT NOT NULL,
    fedramp INTEGER NOT NULL, origin TEXT NOT NULL, routing_override TEXT,
    at REAL NOT NULL, revision INTEGER NOT NULL, writer TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE conditions (
    fingerprint TEXT PRIMARY KEY, status TEXT, since REAL, until REAL, evidence TEXT,
    at REAL NOT NULL, revision INTEGER NOT NULL, writer TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE revision (value INTEGER NOT NULL);
INSERT INTO revision VALUES (0);
"""

SINCE_2 = """
CREATE TABLE records (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, account_id TEXT NOT NULL, user_id TEXT NOT NULL, used_at REAL,
    revision INTEGER NOT NULL, writer TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE claims ("case" TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""

SINCE_3 = """
ALTER TABLE sessions ADD COLUMN moves INTEGER NOT NULL DEFAULT 0;
CREATE TABLE notes (
    kind TEXT NOT NULL, name TEXT NOT NULL, note TEXT NOT NULL, at REAL NOT NULL,
    revision INTEGER NOT NULL, writer TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
"""

SINCE_4 = """
CREATE TABLE spent (
    day TEXT NOT NULL, pool TEXT NOT NULL, member TEXT NOT NULL, identity TEXT NOT NULL, model TEXT NOT NULL,
    writer TEXT NOT NULL,
    turns INTEGER NOT NULL, unmetered INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,
    output INTEGER NOT NULL, reasoning INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
    revision INTEGER NOT NULL, PRIMARY KEY (day, pool, member, identity, model, writer)
) WITHOUT ROWID;
"""

SINCE_5 = """
ALTER TABLE revision ADD COLUMN epoch TEXT NOT NULL DEFAULT '';
UPDATE revision SET epoch = '{epoch}';
ALTER TABLE spent ADD COLUMN at REAL NOT NULL DEFAULT 0;
CREATE INDEX spent_at ON spent (at);
"""  # And the tables of `NEW_IN_5`.

NEW_IN_5: Final = (leases, logins, proxies)
OLD: Final = (FIRST, SINCE_2, SINCE_3, SINCE_4)
"""The statements of the versions before 5, which exist in SQLite files only."""


def steps(version: int, epoch: str, dialect: Dialect) -> Iterator[str]:
    """Yield the statements that lead from a version (0: nothing there) to the newest; ``epoch`` is a random word."""
    if version == 0:
        yield from tables(schema.sorted_tables, dialect)
        yield f"INSERT INTO revision (value, epoch) VALUES (0, '{epoch}');"
    else:
        yield from OLD[version:]
        if version < 5:
            yield SINCE_5.format(epoch=epoch)
            yield from tables(NEW_IN_5, dialect)


def tables(made: Iterable[Table], dialect: Dialect) -> Iterator[str]:
    for table in made:
        yield f"{CreateTable(table).compile(dialect=dialect)};"
        for index in table.indexes:
            yield f"{CreateIndex(index).compile(dialect=dialect)};"
