"""How a row replaces an earlier one with the same key: a late write does not undo a newer one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, or_

from codexpool.state.schema import claims, conditions, metadata, notes, records, sessions, spent


def upserts(insert: Callable[..., Any]) -> dict[str, Any]:
    """Return the statement that writes a row of each table; ``insert`` is that of the dialect."""
    made = {table.name: _upsert(insert, table) for table in (sessions, metadata, conditions, records, notes, spent)}
    made[claims.name] = insert(claims).on_conflict_do_nothing()
    return made


def _upsert(insert: Callable[..., Any], table: Table) -> Any:
    statement = insert(table)
    new = statement.excluded
    keys = [column.name for column in table.primary_key]
    values = {column.name: new[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=values, where=_is_newer(table, new))


def _is_newer(table: Table, new: Any) -> ColumnElement[bool] | None:
    """Return the condition under which ``new`` replaces the row that is there; None if it always does."""
    if table is sessions:
        old = table.c
        is_same = and_(new.account_id == old.account_id, new.user_id == old.user_id, new.at >= old.at)
        # Of two proxies that bind a session at once, the first one counts; one proxy's own rows come in their order.
        follows = and_(new.moves == old.moves, or_(is_same, new.writer == old.writer))
        return or_(new.moves > old.moves, follows)
    if table in (metadata, conditions, notes):
        return or_(new.at >= table.c.at, new.writer == table.c.writer)
    return None
