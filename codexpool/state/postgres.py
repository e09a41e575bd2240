"""The state in a PostgreSQL database, which the proxies and commands of several machines share."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from sqlalchemy import Connection as Transaction
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, DBAPIError

from codexpool.state.database import Database
from codexpool.state.location import Postgres
from codexpool.state.news import CHANNEL
from codexpool.state.postgres_server import Connection, connect, parameters, prepare, remedy_of
from codexpool.state.store import Store

CONNECTIONS = 2  # Connections to the server that are kept, beside the one that listens.
MORE = 8  # Connections beyond these, for as long as they are needed.
POOL_TIMEOUT = 2.0  # Seconds to wait for one if all are in use.


class PostgresState(Store):
    """The state in one database, or in a schema of it."""

    def __init__(self, at: Postgres, clock: Callable[[], float] = time.time) -> None:
        """Connect, and make the tables if they are missing. Raises StateError; later calls raise nothing."""
        super().__init__(PostgresDatabase(at), clock)


class PostgresDatabase(Database):
    insert = staticmethod(insert)
    linger = 0.05
    shares_our_clock = False

    def __init__(self, at: Postgres, creates: bool = True) -> None:
        self._at = at
        self._how = parameters(at)
        self._creates = creates
        self._is_prepared = False
        self._preparing = threading.Lock()
        self._listening: Connection | None = None
        self._is_doubtful = False  # Whether a connection has failed since that one was made.
        self._wakes, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=CONNECTIONS,
            max_overflow=MORE,
            pool_timeout=POOL_TIMEOUT,
            pool_use_lifo=True,
            hide_parameters=True,
            use_native_hstore=False,
        )
        super().__init__(
            str(at),
            reading=engine.execution_options(isolation_level="REPEATABLE READ"),
            writing=engine,
            asking=engine.execution_options(isolation_level="AUTOCOMMIT"),
        )

    def _connect(self) -> Connection:
        connection = connect(self._how)
        try:
            with self._preparing:
                if not self._is_prepared:
                    prepare(connection, self.name, self._creates)
                    self._is_prepared = True
        except BaseException:
            connection.close()
            raise
        return connection

    def _failed(self) -> None:
        self._is_prepared = False  # It may be another server, or an older copy.
        self._is_doubtful = True

    def _is_refused(self, error: DBAPIError) -> bool:
        code = getattr(error.orig, "sqlstate", None)
        return code[:2] in ("22", "23", "54") if code else isinstance(error, DataError)

    def _is_passing(self, error: DBAPIError) -> bool:
        # A deadlock or the like; or it waited for another one's lock, or took too long.
        code = getattr(error.orig, "sqlstate", None) or ""
        return code.startswith("40") or code in ("55P03", "57014")

    def _remedy(self, error: BaseException) -> str:
        return remedy_of(error)

    def scope(self, pool_toml: Path) -> str:
        return self._at.scope(pool_toml)

    def wait(self, seconds: float, writer: str) -> None:
        """Listen. Without a connection for that, others' news is found by asking when the time is over."""
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            try:
                listening, is_new = self._listen()
                if is_new:
                    return  # What was written since the last reading was not heard.
                selector.register(listening.fileno(), selectors.EVENT_READ)
                while (rest := end - time.monotonic()) > 0 and (ready := selector.select(rest)):
                    if any(key.fileobj is self._woken for key, _ in ready):
                        self._woken.recv(4096)
                        return
                    if any(heard.payload != writer for heard in list(listening.notifies(timeout=0))):
                        return
            except psycopg.Error:
                self._stop_listening()
                if selector.select(max(0.0, end - time.monotonic())):
                    self._woken.recv(4096)

    def _listen(self) -> tuple[Connection, bool]:
        """Return the connection that listens, and whether it has only just begun to."""
        if self._listening is not None and not self._listening.closed and not self._is_doubtful:
            return self._listening, False
        self._stop_listening()
        self._is_doubtful = False
        made = self._listening = connect(self._how, autocommit=True)
        row = made.execute("SELECT epoch FROM revision").fetchone()
        made.execute(f'LISTEN "{CHANNEL}{row[0] if row else ""}"'.encode())
        return made, True

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wakes.send(b"!")

    def close(self) -> None:
        super().close()
        self._stop_listening()
        self._wakes.close()
        self._woken.close()


@contextlib.contextmanager
def read_only(at: Postgres) -> Iterator[Transaction]:
    """Begin a transaction that sees one moment of the database, without changing it. Raises StateError."""
    database = PostgresDatabase(at, creates=False)
    try:
        with database.reading() as connection:
            yield connection
    finally:
        database.close()
