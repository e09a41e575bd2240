"""Writes rows in a thread of its own, many in one transaction, and retries while the disk refuses."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Hashable

from codexpool.state import Row, StateError
from codexpool.state.database import COLUMNS, Database

logger = logging.getLogger("codexpool")

BATCH = 1000  # Rows in one transaction.
LINGER = 0.05  # Seconds that a first row waits for others to share its transaction.
RETRY = (1.0, 60.0)  # Seconds until a failed transaction is retried: the first pause and the longest.
MAX_WAITING = 100_000  # Rows that are kept while the disk cannot be written; of more, the oldest are dropped.
PRUNE_EVERY = 3600.0  # Seconds between two prunings.

Key = tuple[str, Hashable]  # A table and the key of a row in it.

STATEMENTS = {
    table: f"INSERT OR REPLACE INTO {table} ({columns}, revision, writer) VALUES (?{',?' * (columns.count(',') + 2)})"
    for table, columns in COLUMNS.items()
}
# Every row gets a revision and a writer, for which claims have no columns.
STATEMENTS["claims"] = 'INSERT OR IGNORE INTO claims ("case", at) SELECT ?, ? WHERE ? IS NOT NULL AND ? IS NOT NULL'

# What SQLite cannot store at all (half a surrogate pair, not a number): a retry would not help.
_UNSTORABLE = (
    UnicodeEncodeError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class Writer:
    """Writes rows in the order of their last ``put``; of two with the same key, only the later one."""

    def __init__(self, database: Database, prune: Callable[[sqlite3.Connection], None]) -> None:
        """``prune`` deletes what is too old; it is called within a transaction every `PRUNE_EVERY`."""
        self.name = uuid.uuid4().hex
        self._database = database
        self._prune = prune
        self._prune_at = 0.0
        self._wake = threading.Condition()
        self._waiting: dict[Key, Row] = {}
        self._writing: dict[Key, Row] = {}
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="codexpool-state", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Queue a row. Returns at once, raises nothing; does nothing after ``close``."""
        key = row.table, row.key
        with self._wake:
            if self._closing:
                return
            if not self._waiting:  # Otherwise it is awake already. (Waking a thread for each turn takes time.)
                self._wake.notify_all()
            self._waiting.pop(key, None)
            self._waiting[key] = row
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]

    def unwritten(self) -> set[Key]:
        """Return the keys of the rows that are not on the disk yet."""
        with self._wake:
            return self._waiting.keys() | self._writing.keys()

    def close(self, timeout: float) -> bool:
        """Write what is queued, and end the thread. Return whether that took less than ``timeout`` seconds."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._waiting

    def _run(self) -> None:
        pause = 0.0
        while batch := self._next_batch(pause):
            written = self._try(batch)
            with self._wake:
                pause = 0.0 if written else min(max(RETRY[0], pause * 2), RETRY[1])
                if not written:
                    self._waiting = batch | self._waiting
                self._writing = {}
                if self._closing and not written:
                    break
        self._database.close()

    def _next_batch(self, pause: float) -> dict[Key, Row]:
        """Wait for rows, and after a failure for ``pause`` seconds; return none at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            self._wake.wait_for(lambda: self._closing, pause or LINGER)
            keys = list(itertools.islice(self._waiting, BATCH))
            self._writing = {key: self._waiting.pop(key) for key in keys}
            return self._writing

    def _try(self, batch: dict[Key, Row]) -> bool:
        try:
            self._write(batch)
        except (sqlite3.Error, OSError, StateError) as error:
            self._database.close()
            if not self._failing:
                path, self._failing = self._database.path, True
                logger.warning("state: %s cannot be written (%s); keeping new data in memory, retrying", path, error)
            return False
        if self._failing:
            self._failing = False
            logger.info("state: %s is written again", self._database.path)
        return True

    def _write(self, batch: dict[Key, Row]) -> None:
        connection = self._database.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("UPDATE revision SET value = value + 1")
            (revision,) = connection.execute("SELECT value FROM revision").fetchone()
            for row in batch.values():
                try:
                    connection.execute(STATEMENTS[row.table], (*row.values, revision, self.name))
                except _UNSTORABLE as error:
                    logger.debug("state: one of the %s cannot be stored and is left out (%s)", row.table, error)
            if time.monotonic() >= self._prune_at:
                self._prune(connection)
                self._prune_at = time.monotonic() + PRUNE_EVERY
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
