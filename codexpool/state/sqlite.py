"""The state in a SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from codexpool.common.atomic_replace import sync_folder
from codexpool.state import UnavailableError
from codexpool.state.database import DURABLE, Database
from codexpool.state.location import VARIABLE, SqliteFile
from codexpool.state.sqlite_file import connected, open_database, open_read_only
from codexpool.state.store import Store


class SqliteState(Store):
    """The state in one file, which the proxies and commands of one machine share."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises StateError; later calls raise nothing."""
        super().__init__(SqliteDatabase(path), clock)


class SqliteDatabase(Database):
    """The file at ``path``: opened when needed, and opened again if it was replaced."""

    insert = staticmethod(insert)
    linger = 0.05
    shares_our_clock = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked = 0  # The inode of the file that was checked.
        self._opening = threading.Lock()
        self._woken = threading.Event()
        reading, writing = self._engine("BEGIN"), self._engine("BEGIN IMMEDIATE")
        super().__init__(str(path), reading, writing, asking=reading)

    def _engine(self, begin: str) -> Engine:
        engine = _engine(self._open, begin, poolclass=QueuePool, pool_timeout=10)
        event.listen(engine, "checkout", self._check_out)
        return engine

    def _open(self) -> sqlite3.Connection:
        with self._opening:
            if self._checked and _inode(self._path) == self._checked:
                return connected(self._path)
            connection = open_database(self._path)
            self._checked = _inode(self._path)
            return connection

    def _check_out(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        """Let the pool open the file again if it is not the one that this connection is to."""
        if record.info.setdefault("inode", self._checked) != _inode(self._path):
            raise DisconnectionError

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        with super().writing() as connection:
            connection.info.pop(DURABLE, None)
            yield connection
            is_durable = connection.info.pop(DURABLE, False)
        if is_durable:
            try:
                _sync(self._path)
            except OSError as error:
                raise self._unavailable(error, "written") from None

    def _is_passing(self, error: DBAPIError) -> bool:
        return False

    def _remedy(self, error: BaseException) -> str:
        return f"let the user that runs the proxy write there, or set {VARIABLE} to another file"

    def _failed(self) -> None:
        self._checked = 0  # The file may be broken.

    def _is_refused(self, error: DBAPIError) -> bool:
        return isinstance(error, DataError | IntegrityError | InterfaceError | ProgrammingError)

    def scope(self, pool_toml: Path) -> str:
        return SqliteFile(self._path).scope(pool_toml)

    def wait(self, seconds: float, writer: str) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


def _engine(connect: Callable[[], sqlite3.Connection], begin: str, **pool: Any) -> Engine:
    """Return an engine of which each transaction begins with a statement: of itself, `sqlite3` begins late."""

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    engine = create_engine("sqlite://", creator=connect, hide_parameters=True, **pool)
    event.listen(engine, "begin", begun)
    return engine


def _sync(path: Path) -> None:
    """Put on the disk what is committed. With ``synchronous = NORMAL``, SQLite leaves that to a later moment."""
    with contextlib.suppress(FileNotFoundError), path.with_name(f"{path.name}-wal").open("rb+") as log:
        os.fsync(log.fileno())
    sync_folder(path.parent)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[Connection]:
    """Begin a transaction that sees one moment of the file, without changing it. Raises StateError."""
    engine = _engine(partial(open_read_only, path), "BEGIN", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except (DBAPIError, sqlite3.Error, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise UnavailableError(f"{path} cannot be read ({reason})", "check the file") from None
