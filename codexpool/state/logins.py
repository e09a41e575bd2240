"""The logins of the state: encrypted rows, of which one proxy at a time may renew one.

Every function is one short transaction, and locks the row: a login is changed only by a proxy that has seen its
present generation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from codexpool.credentials.shared_login import MARKED_FOR, Claim, StoredLogin
from codexpool.pool.identity import IdentityKey
from codexpool.state.clock import database_time, now
from codexpool.state.database import make_durable
from codexpool.state.news import next_revision
from codexpool.state.schema import logins as table
from codexpool.tokens.state_keys import Sealed

ALL = ""  # The writer of these rows: every proxy hears of a change, also the one that made it.
NO_MARK = {"renewing_by": None, "renewing_until": None}
EMPTY = Sealed("", b"")  # In place of a removed login: its row stays, so that other proxies learn of it.


def claim(
    connection: Connection, key: IdentityKey, mark: str, wants: Callable[[StoredLogin], bool], over: str
) -> Claim | None:
    """See `codexpool.credentials.shared_login.Logins.claim`."""
    columns = (*_COLUMNS, table.c.renewing_by, table.c.renewing_until)
    row = connection.execute(select(*columns).where(_is(key)).with_for_update()).first()
    login = _login(*row[: len(_COLUMNS)]) if row is not None else None
    if row is None or login is None or login.is_empty:
        return None
    if not wants(login):
        return Claim(login)
    at = database_time(connection)
    # A mark that ends later than any was made before the clock was set back.
    is_over = not at < (row.renewing_until or 0.0) <= at + MARKED_FOR
    if row.renewing_by not in (None, mark) and not (is_over and row.renewing_by == over):
        return Claim(login, over=row.renewing_by if is_over else "")
    values = {"renewing_by": mark, "renewing_until": at + MARKED_FOR}
    connection.execute(update(table).where(_is(key)).values(values))
    return Claim(login, is_ours=True)


def put(connection: Connection, key: IdentityKey, sealed: Sealed, generation: int) -> StoredLogin | None:
    """Replace the login of this generation, and remove any mark. Return the login that is there now."""
    present = _locked(connection, key)
    if present is None or present.generation != generation:
        return present
    return _write(connection, key, sealed, generation + 1)


def log_in(connection: Connection, key: IdentityKey, sealed: Sealed) -> None:
    """Store the login that a person made, in place of any other."""
    insert: Any = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    empty = {"key_id": "", "sealed": b"", "generation": 0, "refusal": "", "at": 0.0, "revision": 0, "writer": ALL}
    connection.execute(insert(table).values(**key._asdict(), **empty).on_conflict_do_nothing())
    present = _locked(connection, key)
    _write(connection, key, sealed, 1 if present is None else present.generation + 1)


def remove(connection: Connection, key: IdentityKey) -> bool:
    """Remove a login, for all proxies. Return whether there was one."""
    present = _locked(connection, key)
    if present is None or present.is_empty:
        return False
    _write(connection, key, EMPTY, present.generation + 1)
    return True


def refuse(connection: Connection, key: IdentityKey, generation: int, code: str) -> StoredLogin | None:
    """Store a final refusal of the login of this generation, and remove any mark. Return the present login."""
    present = _locked(connection, key)
    if present is not None and present.generation == generation:
        connection.execute(update(table).where(_is(key)).values(refusal=code, **NO_MARK))
        return present._replace(refusal=code)
    return present


def release(connection: Connection, key: IdentityKey, mark: str) -> None:
    """Remove a mark: the login was not renewed."""
    connection.execute(update(table).where(_is(key), table.c.renewing_by == mark).values(NO_MARK))


def seal_again(connection: Connection, key: IdentityKey, before: StoredLogin, sealed: Sealed) -> bool:
    """Store the same login under another key. Return False if it has changed meanwhile."""
    present = _locked(connection, key)
    if present is None or present.sealed != before.sealed:
        return False
    # A renewal may be under way: its mark stays, and the generation that it replaces.
    values = {"key_id": sealed.key_id, "sealed": sealed.content, "revision": next_revision(connection, ALL)}
    connection.execute(update(table).where(_is(key)).values(values))
    return True


def key_ids(connection: Connection) -> dict[str, int]:
    """Return the ids of the keys that logins are encrypted with, and how many of them."""
    query = select(table.c.key_id, func.count()).where(table.c.key_id != "").group_by(table.c.key_id)
    return {str(key_id): int(number) for key_id, number in connection.execute(query)}


def login_rows(connection: Connection, since: int) -> dict[IdentityKey, StoredLogin]:
    """Return the logins that were changed after a revision."""
    query = select(table.c.account_id, table.c.user_id, *_COLUMNS).where(table.c.revision > since)
    return {IdentityKey(*row[:2]): _login(*row[2:]) for row in connection.execute(query)}


_COLUMNS = (table.c.key_id, table.c.sealed, table.c.generation, table.c.refusal)


def _login(key_id: str, sealed: bytes, generation: int, refusal: str) -> StoredLogin:
    return StoredLogin(Sealed(key_id, bytes(sealed)), generation, refusal)


def _is(key: IdentityKey) -> ColumnElement[bool]:
    return and_(table.c.account_id == key.account_id, table.c.user_id == key.user_id)


def _locked(connection: Connection, key: IdentityKey) -> StoredLogin | None:
    """Return a login, which no other transaction changes until this one ends."""
    row = connection.execute(select(*_COLUMNS).where(_is(key)).with_for_update()).first()
    return _login(*row) if row is not None else None


def _write(connection: Connection, key: IdentityKey, sealed: Sealed, generation: int) -> StoredLogin:
    make_durable(connection)  # The refresh token of before does not work any more.
    values = {"key_id": sealed.key_id, "sealed": sealed.content, "generation": generation, "refusal": "", "at": now()}
    values |= {"revision": next_revision(connection, ALL), **NO_MARK}
    connection.execute(update(table).where(_is(key)).values(values))
    return StoredLogin(sealed, generation)
