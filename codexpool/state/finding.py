"""Finds sessions for a person, who knows the beginning of an id."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, or_, select

from codexpool.state.schema import sessions

MOST: Final = 100  # Sessions that are returned: a person is told that there are several.


def sessions_named(connection: Connection, text: str) -> list[str]:
    """Return the sessions whose id, with or without its member's name, begins with a text; the latest first.

    On SQLite, letters of either case match.
    """
    session = sessions.c.session
    is_it = or_(session.startswith(text, autoescape=True), session.contains(f"/{text}", autoescape=True))
    return list(connection.scalars(select(session).where(is_it).order_by(sessions.c.at.desc()).limit(MOST)))
