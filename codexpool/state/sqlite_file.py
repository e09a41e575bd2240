"""The SQLite file: created, checked, migrated, and moved aside if it is broken."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import uuid
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.dialects.sqlite import dialect

from codexpool.common.private_files import private_folder
from codexpool.state import StateError
from codexpool.state.migrations import OLD, steps
from codexpool.state.schema import VERSION, schema

logger = logging.getLogger("codexpool")

APPLICATION_ID = 0x636F6470  # Marks a SQLite file as codexpool's ("codp").
BUSY_TIMEOUT = 2.0  # Seconds to wait for another process that writes, or creates the file.
SUFFIXES = (".sqlite3", ".sqlite", ".db")
SIDE_FILES = ("-wal", "-shm")


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database. Create it (folder 0700, file 0600) if it is missing; replace it if it is broken.

    A broken one is kept beside it, and the log names it. Raises StateError if a newer codexpool or another program
    wrote it; sqlite3.Error and OSError for a full, locked or read-only disk.
    """
    private_folder(path.parent)
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
        if (owner, version) != (APPLICATION_ID, VERSION):
            what = "it is not of this version of codexpool"
            raise StateError(what, "start a proxy, which updates an older one")
    except BaseException:
        connection.close()
        raise
    return connection


def connected(path: Path) -> sqlite3.Connection:
    """Connect to a file that `open_database` has checked."""
    connection = _connected(path)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _opened(path: Path) -> sqlite3.Connection:
    connection = _connected(path)
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
        if version < VERSION:
            connection.executescript(
                f"BEGIN IMMEDIATE; {''.join(steps(version, uuid.uuid4().hex, dialect()))}"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
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
    if version > VERSION:
        what = f"{path} was written by a newer codexpool (schema {version}; this version supports {VERSION})"
        raise StateError(what, f"update codexpool, {elsewhere}")


def _lacks(connection: sqlite3.Connection, version: int) -> str:
    """Return what a database of this version lacks; empty if it is complete."""
    wanted, present = _wanted(version), _columns(connection)
    if present and not version:
        return "its version"
    if missing := wanted - present:
        return min(missing)
    if version and connection.execute("SELECT count(*) FROM revision").fetchone() != (1,):
        return "its revision"
    return ""


def _wanted(version: int) -> set[str]:
    """Return the columns of a version of the schema."""
    if version == VERSION:
        return {f"{table.name}.{column.name}" for table in schema.tables.values() for column in table.columns}
    with contextlib.closing(sqlite3.connect(":memory:")) as complete:
        complete.executescript("".join(OLD[:version]))
        return _columns(complete)


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
