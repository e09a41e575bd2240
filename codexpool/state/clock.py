"""The database's clock, by which all machines of a fleet agree. In statements: ``now()``, in unix seconds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Double, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):  # noqa: N801 (it reads as a function of SQL)
    """The time of the statement, not of the transaction's beginning: a lock may have been waited for."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _on_sqlite(element: now, compiler: Any, **_: Any) -> str:
    return (
        "((julianday('now') - 2440587.5) * 86400.0)"  # To the millisecond. (unixepoch has no fraction before 3.42.)
    )


@compiles(now, "postgresql")
def _on_postgresql(element: now, compiler: Any, **_: Any) -> str:
    return "(extract(epoch FROM clock_timestamp())::double precision)"


def database_time(connection: Connection) -> float:
    """Return the database's time in unix seconds."""
    return float(connection.scalar(select(now())) or 0.0)
