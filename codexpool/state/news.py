"""How a transaction tells others that it has news for them."""

from __future__ import annotations

from sqlalchemy import Connection, func, literal, select, update

from codexpool.state import Row
from codexpool.state.schema import revision

CHANNEL = "codexpool_"  # And the epoch: a PostgreSQL server has one set of channels for all schemas of a database.


NEWS = ("conditions", "notes", "logins")  # Tables of which every row is news.


def is_news(row: Row) -> bool:
    """Return whether others must learn of a row. A session that has never moved is looked up by who needs it."""
    return row.table in NEWS or (row.table == "sessions" and row.values["moves"] != 0)


def next_revision(connection: Connection, writer: str) -> int:
    """Return the revision for the rows of this transaction, and tell others of it once it is committed.

    The counter stays locked until then, so that revisions become visible in their order.
    """
    counted = update(revision).values(value=revision.c.value + 1).returning(revision.c.value)
    value: int = connection.execute(counted).scalar_one()
    notify(connection, writer)
    return value


def notify(connection: Connection, word: str) -> None:
    """Wake those who wait for news, once this transaction is committed. On SQLite they poll."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(literal(CHANNEL).concat(revision.c.epoch), word)))
