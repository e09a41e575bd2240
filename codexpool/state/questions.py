"""Questions to the backend that one proxy asks for all: whose turn it is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, or_
from sqlalchemy.dialects import postgresql, sqlite

from codexpool.state.schema import claims


def take(connection: Connection, question: str, at: float, seconds: float) -> bool:
    """Return whether the caller is to ask a question: another one has not taken it within so many seconds.

    ``at`` is the time by the database's clock. A claim of later than that was made before a clock was set back.
    """
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    is_over = or_(claims.c.at <= at - seconds, claims.c.at > at + seconds)
    new = insert(claims).values(case=question, at=at)
    taken = new.on_conflict_do_update(index_elements=[claims.c.case], set_={"at": at}, where=is_over)
    return connection.scalar(taken.returning(claims.c.case)) is not None
