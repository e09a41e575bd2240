"""The SQLite file: made, checked, moved aside if it is broken, and opened."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from codexpool.state.base import StateError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
APPLICATION_ID = 0x636F6470
"""What marks a SQLite file as ours ("codp")."""

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that writes, or opens the file for the first time."""

SUFFIXES = (".sqlite3", ".sqlite", ".db")

SIDE_FILES = ("-wal", "-shm")

# ``revision`` counts transactions, ``writer`` is the process that wrote: what others wrote since is one query.
# A condition that was dropped stays as a row without a status, so that others learn of it.
SCHEMA = """
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

# The day comes first in the key: what is new is looked for among the last days only. The totals of each writer have
# rows of their own, so that nobody adds to what somebody else has written. The columns of the key are the first:
# with others between them, quick_check of SQLite 3.40 finds a NULL that is not there, and calls the file broken.
SINCE_4 = """
CREATE TABLE spent (
    day TEXT NOT NULL, pool TEXT NOT NULL, member TEXT NOT NULL, identity TEXT NOT NULL, model TEXT NOT NULL,
    writer TEXT NOT NULL,
    turns INTEGER NOT NULL, unmetered INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,
    output INTEGER NOT NULL, reasoning INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
    revision INTEGER NOT NULL, PRIMARY KEY (day, pool, member, identity, model, writer)
) WITHOUT ROWID;
"""

STEPS = (SCHEMA, SINCE_2, SINCE_3, SINCE_4)
"""What makes a database of each version out of the one before."""


class Database:
    """A connection to the file at ``path``, opened when it is needed, and anew if the file is another one by then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def connection(self) -> sqlite3.Connection:
        """The connection. Raises StateError for a file that is not ours to use, sqlite3.Error and OSError."""
        if self._connection is not None and _inode(self.path) != self._inode:
            self.close()
        if self._connection is None:
            self._connection = open_database(self.path)
            self._inode = _inode(self.path)
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, made if it is not there (folder 0700, file 0600) and begun anew if it is broken.

    A broken one is kept beside it, under a name that the log tells. Raises StateError if it was written by a newer
    codexpool or another program; sqlite3.Error and OSError (a full, locked or read-only disk).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Of several processes that start on a broken file, only one moves it away.
    import filelock  # in the thread that opens the state, not at start-up

    with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=BUSY_TIMEOUT, mode=0o600):
        _make(path)
        try:
            return _opened(path)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            # Not ours, and not what a state is called: rather a slip than a broken database.
            if not isinstance(error, _Corrupt) and path.suffix not in SUFFIXES:
                raise StateError(f"{path} is no database ({error})", "correct CODEXPOOL_STATE") from None
            aside = _moved_aside(path)
            log.warning("state: %s is broken (%s); it is kept as %s, and a new one is begun", path, error, aside)
        _make(path)
        return _opened(path)


def _make(path: Path) -> None:
    # Never opened if it exists: closing it would take away the locks SQLite has on it elsewhere in this process.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        _refuse_the_foreign(connection, path, version)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _Corrupt(verdict)
        if what := _lacks(connection, version):
            raise _Corrupt(f"it lacks {what}")
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA_VERSION:
            connection.executescript(
                f"BEGIN IMMEDIATE; {''.join(STEPS[version:])}"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_the_foreign(connection: sqlite3.Connection, path: Path, version: int) -> None:
    elsewhere = "or name another file with CODEXPOOL_STATE"
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if owner != APPLICATION_ID and (owner or tables):
        raise StateError(f"{path} is the database of another program", f"move it away, {elsewhere}")
    if version > SCHEMA_VERSION:
        what = f"{path} was written by a newer codexpool (schema {version}, this one knows {SCHEMA_VERSION})"
        raise StateError(what, f"update this codexpool, {elsewhere}")


def _lacks(connection: sqlite3.Connection, version: int) -> str:
    """What a database of ours has to have in its version, and does not; empty where nothing is missing."""
    with contextlib.closing(sqlite3.connect(":memory:")) as whole:
        whole.executescript("".join(STEPS[:version]))
        wanted, present = _columns(whole), _columns(connection)
    if present and not version:
        return "its version"
    for table, columns in wanted.items():
        if table not in present:
            return f"the table {table}"
        if missing := columns - present[table]:
            return f"{min(missing)} in the table {table}"
    if version and connection.execute("SELECT count(*) FROM revision").fetchone() != (1,):
        return "its revision"
    return ""


def _columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """The columns of each table."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    of_each = "SELECT name FROM pragma_table_info(?)"
    return {table: {name for (name,) in connection.execute(of_each, (table,))} for (table,) in tables}


class _Corrupt(sqlite3.DatabaseError):
    """What is wrong with a database of ours."""


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Corrupt) or primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _moved_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    path.rename(aside)
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
