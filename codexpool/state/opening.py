"""Opens the state where it is, or reads it. Imports SQLAlchemy only then: that takes a tenth of a second."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from codexpool.members.ledger import Spent
from codexpool.state import Snapshot, State, StateError
from codexpool.state.location import Location, Postgres, SqliteFile

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger("codexpool")

COUNTED_BY: Final = ("day", "member", "identity", "model", "pool")  # How usage can be grouped, see `Account`.


def open_state(at: Location) -> State:
    """Open the state; create it if it is missing.

    Raises UnavailableError if it cannot be used now, and another StateError if it must not be touched: a newer
    codexpool or another program wrote it.
    """
    if isinstance(at, SqliteFile):
        from codexpool.state.sqlite import SqliteState

        return SqliteState(at.path)
    with _driver():
        from codexpool.state.postgres import PostgresState
    return PostgresState(at)


def read_state(at: Location) -> Snapshot | None:
    """Read the state without changing anything; None if there is none, or it is unreadable.

    May take a while. Raises nothing: the log says what is wrong.
    """
    try:
        with _reading(at) as connection:
            if connection is None:
                return None
            from codexpool.state.store import add_sessions, contents

            now = time.time()
            found = contents(connection, now)
            add_sessions(found, connection, now)
            return found
    except StateError as error:
        logger.warning("state: %s", error)
        return None


def read_spent(at: Location, by: Sequence[str], since: str) -> dict[tuple[str, ...], Spent]:
    """Return the usage since a day (``2026-11-25``, included), grouped ``by`` some of `COUNTED_BY`, in that order.

    Empty if there is no state. May take a while. Raises StateError.
    """
    columns = [COUNTED_BY[COUNTED_BY.index(name)] for name in by]
    with _reading(at) as connection:
        if connection is None:
            return {}
        from codexpool.state.store import usage

        return usage(connection, columns, since)


@contextlib.contextmanager
def _reading(at: Location) -> Iterator[Connection | None]:
    """Begin a transaction that changes nothing; None if there is no state. Raises StateError."""
    if isinstance(at, Postgres):
        with _driver():
            from codexpool.state import postgres
        with postgres.read_only(at) as connection:
            yield connection
    elif at.path.is_file():
        from codexpool.state import sqlite

        with sqlite.read_only(at.path) as connection:
            yield connection
    else:
        yield None


@contextlib.contextmanager
def _driver() -> Iterator[None]:
    """Import what PostgreSQL needs. Raises StateError if the extra is not installed."""
    try:
        yield
    except ImportError as error:
        what = f"for PostgreSQL, the library {error.name or 'psycopg'} is missing"
        remedy = "install codexpool with the extra `postgres`: uv tool install '.[postgres]', or pip with the same"
        raise StateError(what, remedy) from None
