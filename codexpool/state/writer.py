"""Writing behind: what is put is written by a thread of its own, many at a time, when the disk lets it."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from codexpool.state.base import StateError
from codexpool.state.database import Database

log = logging.getLogger(__name__)

BATCH = 1000
"""Writes in one transaction."""

LINGER = 0.05
"""Seconds a first write waits for others to share its transaction."""

RETRY = (1.0, 60.0)
"""Seconds until a failed transaction is tried again: at first, and at most (it doubles in between)."""

MAX_WAITING = 100_000
"""Writes that are kept while the disk cannot be written; of more, the oldest go."""

PRUNE_EVERY = 3600.0
"""Seconds between two prunings."""

Key = tuple[str, str]
"""A table and the key of a row in it."""

# What SQLite cannot store at all (half a surrogate pair, not a number): trying it again would not help.
_UNSTORABLE = (
    UnicodeEncodeError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class Write(NamedTuple):
    """A statement and its values, but the last two: the revision and the writer are added as it is written."""

    statement: str
    values: tuple[object, ...]


class Writer:
    """Writes rows in the order of their last ``put``; of two for the same key, only the later one."""

    def __init__(self, database: Database, prune: Callable[[sqlite3.Connection], None]) -> None:
        """``prune`` is called now and then within a transaction, to delete what is too old."""
        self.name = uuid.uuid4().hex
        self._database = database
        self._prune = prune
        self._prune_at = 0.0
        self._wake = threading.Condition()
        self._waiting: dict[Key, Write] = {}
        self._writing: dict[Key, Write] = {}
        self._flushing = 0
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="codexpool-state", daemon=True)
        self._thread.start()

    def put(self, key: Key, write: Write) -> None:
        """Have a row written. Returns at once, raises nothing; does nothing after ``close``."""
        with self._wake:
            if self._closing:
                return
            self._waiting.pop(key, None)
            self._waiting[key] = write
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            if len(self._waiting) == 1:
                self._wake.notify_all()

    def unwritten(self) -> set[Key]:
        """The keys whose last word is not on the disk yet."""
        with self._wake:
            return self._waiting.keys() | self._writing.keys()

    def flush(self, timeout: float) -> bool:
        """Wait, at most so many seconds, until everything is written; whether it is."""
        with self._wake:
            self._flushing += 1
            self._wake.notify_all()
            try:
                return self._wake.wait_for(lambda: not self._waiting and not self._writing, timeout)
            finally:
                self._flushing -= 1

    def close(self, timeout: float) -> bool:
        """Write what there is, and end; whether all was written within so many seconds."""
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
                if written:
                    pause = 0.0
                else:
                    pause = min(max(RETRY[0], pause * 2), RETRY[1])
                    self._waiting = batch | self._waiting
                self._writing = {}
                self._wake.notify_all()
                if self._closing and not written:
                    break
        self._database.close()

    def _next_batch(self, pause: float) -> dict[Key, Write]:
        """Wait for something to write, and after a failure for ``pause`` seconds; nothing at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            if pause:
                self._wake.wait_for(lambda: self._closing, pause)
            else:
                self._wake.wait_for(lambda: self._closing or self._flushing, LINGER)
            keys = list(itertools.islice(self._waiting, BATCH))
            self._writing = {key: self._waiting.pop(key) for key in keys}
            return self._writing

    def _try(self, batch: dict[Key, Write]) -> bool:
        try:
            self._write(batch)
        except (sqlite3.Error, OSError, StateError) as error:
            self._database.close()
            if not self._failing:
                path, self._failing = self._database.path, True
                log.warning("state: %s cannot be written (%s); what is new stays in memory until it can", path, error)
            return False
        if self._failing:
            self._failing = False
            log.info("state: %s is written again", self._database.path)
        return True

    def _write(self, batch: dict[Key, Write]) -> None:
        connection = self._database.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("UPDATE revision SET value = value + 1")
            (revision,) = connection.execute("SELECT value FROM revision").fetchone()
            for (table, _), write in batch.items():
                try:
                    connection.execute(write.statement, (*write.values, revision, self.name))
                except _UNSTORABLE as error:
                    log.debug("state: one of the %s cannot be stored and is left out (%s)", table, error)
            if time.monotonic() >= self._prune_at:
                self._prune(connection)
                self._prune_at = time.monotonic() + PRUNE_EVERY
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
