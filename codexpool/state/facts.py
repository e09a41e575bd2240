"""What there is to say of a state as a whole: its schema, its size, its rows, and who uses it."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, select, text

from codexpool.state.clock import database_time
from codexpool.state.fleet import Proxy
from codexpool.state.logins import key_ids
from codexpool.state.presence import present
from codexpool.state.schema import VERSION, leases, proxies, revision, schema

TABLES: Final = tuple(table for table in schema.sorted_tables if table not in (proxies, leases, revision))
"""What is counted. Heartbeats and leases end with their proxies."""


class Facts(NamedTuple):
    """``size`` is in bytes, ``rows`` by table, ``keys`` has how many logins each key encrypts, by its id.

    ``ahead`` is by how many seconds the database's clock is ahead.
    """

    schema: int
    size: int
    rows: dict[str, int]
    proxies: tuple[Proxy, ...]
    ahead: float
    keys: dict[str, int]


def facts(connection: Connection) -> Facts:
    """Return the facts; one query for each table."""
    rows = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES}
    ahead = database_time(connection) - time.time()
    return Facts(VERSION, _size(connection), rows, present(connection), ahead, key_ids(connection))


def _size(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        return int(connection.scalar(text(pages)) or 0)
    names = [table.name for table in schema.sorted_tables]
    sizes = (func.pg_total_relation_size(func.to_regclass(name)) for name in names)
    return sum(int(size or 0) for size in connection.execute(select(*sizes)).one())
