"""What a store needs of an engine: connections, transactions, and which errors are the engine's."""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from codexpool.state import StateError, UnavailableError
from codexpool.state.schema import LACKING, revision

SLOW = 1.0  # Seconds after which an engine that has not answered yet is not waited for by others.
DURABLE = "codexpool.durable"  # Marks a connection whose present transaction has to be on the disk.


def make_durable(connection: Connection) -> None:
    """Have this transaction on the disk once it is committed, however the engine is set up."""
    if connection.dialect.name == "postgresql":
        is_off = func.current_setting("synchronous_commit") == "off"
        connection.execute(select(func.set_config("synchronous_commit", "on", True)).where(is_off))
    else:
        connection.info[DURABLE] = True


class Database(ABC):
    """An engine with codexpool's tables in it: connected when needed, and connected again after an error.

    ``insert`` is the dialect's statement with ``on_conflict_do_update``. ``linger`` is for how many seconds a first
    row waits for others to share its transaction. ``shares_our_clock`` says whether it is on this machine.
    """

    insert: Callable[..., Any]
    linger: float
    shares_our_clock: bool

    def __init__(self, name: str, reading: Engine, writing: Engine, asking: Engine) -> None:
        """``name`` is what messages call it, without a password.

        The transactions of ``reading`` see one moment of the database, those of ``writing`` may write. ``asking`` is
        for single questions, each in the time of one.
        """
        self.name = name
        self._reading = reading
        self._writing = writing
        self._asking = asking
        self._is_reachable = True
        self._begun_at: dict[int, float] = {}  # By thread, on the monotonic clock.

    @property
    def is_connected(self) -> bool:
        """Whether the engine answered when last asked, and none waits for an answer for long."""
        late = time.monotonic() - SLOW
        return self._is_reachable and all(begun > late for begun in list(self._begun_at.values()))

    def open(self) -> None:
        """Connect, and make the tables if they are missing. Raises StateError."""
        with self._begun(self._reading, "used") as connection:
            connection.execute(select(revision.c.value)).one()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a transaction that sees one moment of the database. Raises StateError."""
        with self._begun(self._reading, "read") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin a transaction that writes. Raises StateError, and a statement's errors that are its own fault."""
        with self._begun(self._writing, "written") as connection:
            yield connection

    @contextlib.contextmanager
    def asking(self) -> Iterator[Connection]:
        """Connect for a single question. Raises StateError."""
        with self._begun(self._asking, "read") as connection:
            yield connection

    @contextlib.contextmanager
    def _begun(self, engine: Engine, what: str) -> Iterator[Connection]:
        thread = threading.get_ident()
        self._begun_at[thread] = time.monotonic()
        try:
            with self._connected(engine) as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            if self.is_refused(error):
                raise
            self._is_reachable = self._is_passing(error)
            raise self._unavailable(error.orig or error, what) from None
        except (NoResultFound, MultipleResultsFound):  # Of `revision`: all other questions allow for any answer.
            self._is_reachable = False
            self._failed()
            raise UnavailableError(f"{self.name} lacks its revision", LACKING) from None
        except (PoolTimeoutError, OSError) as error:
            self._is_reachable = False
            raise self._unavailable(error, what) from None
        except StateError:
            self._is_reachable = False
            raise
        finally:
            self._begun_at.pop(thread, None)
        self._is_reachable = True

    @contextlib.contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        """Take a connection from the pool; after an error, the pool connects again."""
        with engine.connect() as connection:
            try:
                yield connection
            except DBAPIError as error:
                if not self.is_refused(error) and not self._is_passing(error):
                    self._failed()
                    connection.invalidate()
                raise

    def _unavailable(self, error: BaseException, what: str) -> UnavailableError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return UnavailableError(f"{self.name} cannot be {what} ({reason})", self._remedy(error))

    def close(self) -> None:
        self._reading.dispose()
        self._writing.dispose()

    def is_refused(self, error: BaseException) -> bool:
        """Return whether an error is the statement's own: its values cannot be stored, now or later."""
        return not isinstance(error, DBAPIError) or self._is_refused(error)

    @abstractmethod
    def _is_refused(self, error: DBAPIError) -> bool: ...

    @abstractmethod
    def _is_passing(self, error: DBAPIError) -> bool:
        """Return whether the same may be tried again at once, on the same connection."""

    @abstractmethod
    def _remedy(self, error: BaseException) -> str:
        """Return what to do about an engine that is out of reach."""

    @abstractmethod
    def _failed(self) -> None:
        """Learn that a connection failed, and will be closed."""

    @abstractmethod
    def scope(self, pool_toml: Path) -> str:
        """Return the key of what belongs to one pool.toml."""

    @abstractmethod
    def wait(self, seconds: float, writer: str) -> None:
        """Wait until others than ``writer`` may have written something, ``seconds`` at most. `wake` ends it."""

    @abstractmethod
    def wake(self) -> None: ...
