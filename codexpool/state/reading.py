"""The state looked at by somebody who must not leave a trace of it: nothing is made, mended or written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from codexpool.members.ledger import Spent
from codexpool.state.base import Snapshot, StateError
from codexpool.state.database import APPLICATION_ID, BUSY_TIMEOUT, SCHEMA_VERSION, SIDE_FILES
from codexpool.state.sqlite import rows

log = logging.getLogger(__name__)

COUNTED_BY: Final = ("day", "member", "identity", "model", "pool")
"""What turns and tokens can be counted by: see `codexpool.members.ledger.Account`."""


def read_state(path: Path) -> Snapshot | None:
    """What the state in the file at ``path`` holds; None where there is none, or it cannot be read.

    May take a while; raises nothing, and the log says why it was not looked at.
    """
    if not path.is_file():
        return None
    try:
        with contextlib.closing(_opened(path)) as connection:
            connection.execute("BEGIN")
            return rows(connection, 0, "", time.time())
    except (sqlite3.Error, OSError, StateError) as error:
        log.warning("state: %s is not looked at: %s", path, error)
        return None


def read_spent(path: Path, by: Sequence[str], since: str) -> dict[tuple[str, ...], Spent]:
    """What has been used since a day (``2026-11-25``) and on it, ``by`` some of `COUNTED_BY`, and in that order.

    Nothing where there is no state. May take a while. Raises StateError, sqlite3.Error and OSError.
    """
    if not path.is_file():
        return {}
    columns = ", ".join(COUNTED_BY[COUNTED_BY.index(name)] for name in by)  # nothing else comes into the statement
    with contextlib.closing(_opened(path)) as connection:
        found = connection.execute(
            "SELECT sum(turns), sum(unmetered), sum(input), sum(cached), sum(output), sum(reasoning),"
            f" min(first_at), max(last_at), {columns} FROM spent"
            f" WHERE day >= ? AND identity != '' GROUP BY {columns} ORDER BY {columns}",
            (since,),
        )
        return {tuple(row[8:]): Spent(*row[:8]) for row in found}


def _opened(path: Path) -> sqlite3.Connection:
    """The database, for reading. Raises StateError for one whose tables are not those of this version."""
    # While a proxy runs its log is beside the database, and has what is new. Where it is not, SQLite would make it,
    # for readers too, unless it is told that nobody writes.
    has_log = all(path.with_name(path.name + suffix).exists() for suffix in SIDE_FILES)
    address = f"{path.absolute().as_uri()}?mode=ro" + ("" if has_log else "&immutable=1")
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        owner, version = (connection.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
        if (owner, version) != (APPLICATION_ID, SCHEMA_VERSION):
            what = "it is not of this version of codexpool"
            raise StateError(what, "a proxy that serves brings an older one up to date")
    except BaseException:
        connection.close()
        raise
    return connection
