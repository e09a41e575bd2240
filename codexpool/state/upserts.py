"""How a row replaces an earlier one with the same key: a late write does not undo a newer one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, case, func, not_, or_

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
    values: dict[str, Any] = {column.name: new[column.name] for column in table.columns if column.name not in keys}
    if table is records:
        # A proxy that has just started does not know when others, or an earlier run of its own, used the identity.
        is_older = or_(new.used_at.is_(None), new.used_at < records.c.used_at)
        values["used_at"] = case(
            (and_(_has_same_owner(records.c, new), is_older), records.c.used_at), else_=new.used_at
        )
    return statement.on_conflict_do_update(index_elements=keys, set_=values, where=_is_newer(table, new))


DEAD: Final = ("needs_replacement", "needs_login")


def _is_newer(table: Table, new: Any) -> ColumnElement[bool] | None:
    """Return the condition under which ``new`` replaces the row that is there; None if it always does."""
    old = table.c
    if table is sessions:
        # Of two proxies that bind a session at once, the first one counts; the other one learns of it.
        return or_(new.moves > old.moves, and_(new.moves == old.moves, _has_same_owner(old, new), new.at >= old.at))
    if table is conditions:
        # A proxy that has not heard of a token's death yet must not hide it from others: it ends when it is dropped.
        # A death counts although something was seen to be well after it, and written earlier.
        dies = and_(_is_dead(new), _is_alive(old))
        return or_(dies, and_(new.at >= old.at, not_(and_(_is_dead(old), _is_alive(new)))))
    return and_(new.at >= old.at) if table in (metadata, notes) else None


def _has_same_owner(old: Any, new: Any) -> ColumnElement[bool]:
    return and_(new.account_id == old.account_id, new.user_id == old.user_id)


def _is_dead(row: Any) -> ColumnElement[bool]:
    return func.coalesce(row.status, "").in_(DEAD)


def _is_alive(row: Any) -> ColumnElement[bool]:
    return and_(row.status.is_not(None), row.status.not_in(DEAD))
