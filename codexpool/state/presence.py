"""The table of running proxies: each sends a heartbeat, and learns of the others."""

from __future__ import annotations

import math

from sqlalchemy import Connection, delete, insert, select, update

from codexpool.state.clock import now
from codexpool.state.fleet import FORGOTTEN_AFTER, Proxy
from codexpool.state.schema import proxies


def beat(connection: Connection, own: Proxy) -> tuple[Proxy, ...]:
    """Write the heartbeat of a proxy that started ``own.up`` seconds ago, and return all, itself included.

    Rows of those that died long ago are deleted.
    """
    values = {**own._asdict(), "since": now() - own.up, "at": now()}
    values = {column.name: values[column.name] for column in proxies.columns}
    written = connection.execute(update(proxies).where(proxies.c.writer == own.writer).values(values))
    if not written.rowcount:
        connection.execute(insert(proxies).values(values))
    connection.execute(delete(proxies).where(proxies.c.at < now() - FORGOTTEN_AFTER))
    return present(connection)


def leave(connection: Connection, writer: str) -> None:
    """Remove a proxy that ends."""
    connection.execute(delete(proxies).where(proxies.c.writer == writer))


def present(connection: Connection) -> tuple[Proxy, ...]:
    """Return the proxies, and those that died within the last hour."""
    c = proxies.c
    ages = (now() - c.since).label("up"), (now() - c.at).label("silent")
    statement = select(c.writer, c.host, c.version, c.pid, *ages, c.sessions).order_by(c.host, c.pid, c.writer)
    found = (Proxy(*row) for row in connection.execute(statement))
    return tuple(proxy for proxy in found if math.isfinite(proxy.up) and math.isfinite(proxy.silent))
