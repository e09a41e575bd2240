"""The SQLite file: its schema; created, checked, opened, and moved aside if it is broken."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from codexpool.state import StateError

logger = logging.getLogger("codexpool")

SCHEMA_VERSION = 4
APPLICATION_ID = 0x636F6470  # Marks a SQLite file as codexpool's ("codp").
BUSY_TIMEOUT = 2.0  # Seconds to wait for another process that writes, or creates the file.
SUFFIXES = (".sqlite3", ".sqlite", ".db")
SIDE_FILES = ("-wal", "-shm")

# ``revision`` counts transactions, ``writer`` is the process that wrote: one query finds what others wrote since.
# A dropped condition stays as a row without a status, so that others learn of it.
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

# The day is first in the key: queries look for changes among the last days only. Each writer has rows of its own, so
# that no process adds to another one's totals. The columns of the key are the first of the table: with others between
# them, quick_check of SQLite 3.40 reports a NULL that is not there, and calls the file broken.
SINCE_4 = """
CREATE TABLE spent (
    day TEXT NOT NULL, pool TEXT NOT NULL, member TEXT NOT NULL, identity TEXT NOT NULL, model TEXT NOT NULL,
    writer TEXT NOT NULL,
    turns INTEGER NOT NULL, unmetered INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,
    output INTEGER NOT NULL, reasoning INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
    revision INTEGER NOT NULL, PRIMARY KEY (day, pool, member, identity, model, writer)
) WITHOUT ROWID;
"""

STEPS = (SCHEMA, SINCE_2, SINCE_3, SINCE_4)  # The statements that lead from each version to the next.

COLUMNS = {  # The columns of each table in the order in which rows are put and read.
    "sessions": "session, account_id, user_id, at, moves",
    "metadata": "fingerprint, account_id, user_id, plan, fedramp, origin, routing_override, at",
    "conditions": "fingerprint, status, since, until, evidence, at",
    "records": "name, fingerprint, account_id, user_id, used_at",
    "notes": "kind, name, note, at",
    "spent": "pool, day, member, identity, model,"
    " turns, unmetered, input, cached, output, reasoning, first_at, last_at",
}


class Database:
    """A connection to the file at ``path``: opened when needed, and reopened if the file was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def connection(self) -> sqlite3.Connection:
        """Return the connection. Raises what `open_database` raises."""
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
    """Open the database. Create it (folder 0700, file 0600) if it is missing; replace it if it is broken.

    A broken one is kept beside it, and the log names it. Raises StateError if a newer codexpool or another program
    wrote it; sqlite3.Error and OSError for a full, locked or read-only disk.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    import filelock  # In the thread that opens the state, not at start-up.

    # Of several processes that start with a broken file, only one moves it away.
    with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=BUSY_TIMEOUT, mode=0o600):
        # An existing file is not touched: closing it would release the locks that SQLite has on it in this process.
        if not path.exists():
            path.touch(mode=0o600)
        try:
            return _opened(path)
        except sqlite3.DatabaseError as error:
            primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if not isinstance(error, _Corrupt) and primary not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            # Not our format, and not the name of a state: more likely a wrong path than a broken database.
            if not isinstance(error, _Corrupt) and path.suffix not in SUFFIXES:
                raise StateError(f"{path} is not a database ({error})", "correct CODEXPOOL_STATE") from None
            aside = _moved_aside(path)
            logger.warning("state: %s is broken (%s); kept as %s, starting with an empty one", path, error, aside)
        path.touch(mode=0o600)
        return _opened(path)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open the database without changing anything. Raises StateError if its tables are not of this version."""
    # While a proxy runs, its log files are beside the database. Without them, SQLite would create them even for a
    # reader, unless it is told that nothing writes.
    has_log = all(path.with_name(path.name + suffix).exists() for suffix in SIDE_FILES)
    address = f"{path.absolute().as_uri()}?mode=ro" + ("" if has_log else "&immutable=1")
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        owner, version = (connection.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
        if (owner, version) != (APPLICATION_ID, SCHEMA_VERSION):
            what = "it is not of this version of codexpool"
            raise StateError(what, "start a proxy, which updates an older one")
    except BaseException:
        connection.close()
        raise
    return connection


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        _refuse_foreign(connection, path, version)
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


def _refuse_foreign(connection: sqlite3.Connection, path: Path, version: int) -> None:
    elsewhere = "or set CODEXPOOL_STATE to another file"
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if owner != APPLICATION_ID and (owner or tables):
        raise StateError(f"{path} is the database of another program", f"move it away, {elsewhere}")
    if version > SCHEMA_VERSION:
        what = f"{path} was written by a newer codexpool (schema {version}; this version supports {SCHEMA_VERSION})"
        raise StateError(what, f"update codexpool, {elsewhere}")


def _lacks(connection: sqlite3.Connection, version: int) -> str:
    """Return what a database of this version lacks; empty if it is complete."""
    with contextlib.closing(sqlite3.connect(":memory:")) as complete:
        complete.executescript("".join(STEPS[:version]))
        wanted, present = _columns(complete), _columns(connection)
    if present and not version:
        return "its version"
    if missing := wanted - present:
        return min(missing)
    if version and connection.execute("SELECT count(*) FROM revision").fetchone() != (1,):
        return "its revision"
    return ""


def _columns(connection: sqlite3.Connection) -> set[str]:
    query = "SELECT t.name || '.' || c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    return {name for (name,) in connection.execute(query)}


class _Corrupt(sqlite3.DatabaseError):
    """What is wrong with a database of codexpool's."""


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
