"""Opens the state where it is, or reads it. Imports SQLAlchemy only then: that takes a tenth of a second."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from codexpool.members.ledger import Spent
from codexpool.state import Snapshot, State, StateError
from codexpool.state.location import Location, Postgres, SqliteFile

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
        if isinstance(at, Postgres):
            with _driver():
                from codexpool.state import postgres
            return postgres.read_state(at)
        if at.path.is_file():
            from codexpool.state import sqlite

            return sqlite.read_state(at.path)
    except StateError as error:
        logger.warning("state: %s", error)
    return None


def read_spent(at: Location, by: Sequence[str], since: str) -> dict[tuple[str, ...], Spent]:
    """Return the usage since a day (``2026-11-25``, included), grouped ``by`` some of `COUNTED_BY`, in that order.

    Empty if there is no state. May take a while. Raises StateError.
    """
    columns = [COUNTED_BY[COUNTED_BY.index(name)] for name in by]
    if isinstance(at, Postgres):
        with _driver():
            from codexpool.state import postgres
        return postgres.read_spent(at, columns, since)
    if not at.path.is_file():
        return {}
    from codexpool.state import sqlite

    return sqlite.read_spent(at.path, columns, since)


@contextlib.contextmanager
def _driver() -> Iterator[None]:
    """Import what PostgreSQL needs. Raises StateError if the extra is not installed."""
    try:
        yield
    except ImportError as error:
        what = f"for PostgreSQL, the library {error.name or 'psycopg'} is missing"
        remedy = "install codexpool with the extra `postgres`: uv tool install '.[postgres]', or pip with the same"
        raise StateError(what, remedy) from None
