"""The state looked at by somebody who must not leave a trace of it: nothing is made, mended or written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

from codexpool.state.base import Snapshot, StateError
from codexpool.state.database import APPLICATION_ID, BUSY_TIMEOUT, SCHEMA_VERSION, SIDE_FILES
from codexpool.state.sqlite import rows

log = logging.getLogger(__name__)


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
