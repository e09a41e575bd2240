"""Writes rows in a thread of its own, many in one transaction, and retries while the engine is out of reach."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from codexpool.state import Row
from codexpool.state.database import Database
from codexpool.state.news import is_news, next_revision
from codexpool.state.schema import claims, sessions
from codexpool.state.upserts import upserts

logger = logging.getLogger("codexpool")

BATCH = 1000  # Rows in one transaction.
RETRY = (1.0, 60.0)  # Seconds until a failed transaction is retried: the first pause and the longest.
MAX_WAITING = 100_000  # Rows that are kept while the engine is out of reach; of more, the oldest are dropped.
URGENT = ("sessions", "conditions")  # Tables whose rows do not linger: the next request may reach another proxy.
PRUNE_EVERY = 3600.0  # Seconds between two prunings.

Key = tuple[str, Hashable]  # A table and the key of a row in it.
Written = list[dict[str, Any]]  # Rows of one table as they are written.

# What no engine stores (half a surrogate pair, a number beyond 64 bits): a retry would not help.
UNSTORABLE = (UnicodeError, OverflowError, SQLAlchemyError)


class Writer:
    """Writes rows in the order of their last ``put``; of two with the same key, only the later one."""

    def __init__(
        self, database: Database, values: Callable[[Row], dict[str, Any]], prune: Callable[[Connection], None]
    ) -> None:
        """``values`` returns what is stored of a row.

        ``prune`` deletes what is too old; it is called within a transaction every `PRUNE_EVERY`.
        """
        self.name = uuid.uuid4().hex
        self.lost: frozenset[str] = frozenset()
        """The sessions that others had bound to another identity when we wrote them. The reader takes them out."""
        self._values = values
        self._database = database
        self._upserts = upserts(database.insert)
        self._prune = prune
        self._prune_at = 0.0
        self._wake = threading.Condition()
        self._waiting: dict[Key, Row] = {}
        self._writing: dict[Key, Row] = {}
        self._closing = False
        self._failing = False
        self._hurries = False  # What waits is written without a pause.
        self._thread = threading.Thread(target=self._run, name="codexpool-state", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Queue a row. Returns at once, raises nothing; does nothing after ``close``."""
        key = row.table, row.key
        with self._wake:
            if self._closing:
                return
            is_urgent = row.table in URGENT and not self._hurries
            if is_urgent or not self._waiting:  # Otherwise it is awake. (Waking a thread for each turn takes time.)
                self._hurries = self._hurries or (is_urgent and not self._failing)
                self._wake.notify_all()
            self._waiting.pop(key, None)
            self._waiting[key] = row
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]

    def unwritten(self) -> set[Key]:
        """Return the keys of the rows that the engine does not have yet."""
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

    def retry(self) -> None:
        """Write what waits now: the engine answers again."""
        with self._wake:
            self._hurries = True
            self._wake.notify_all()

    def _next_batch(self, pause: float) -> dict[Key, Row]:
        """Wait for rows, and after a failure for ``pause`` seconds; return none at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            self._wake.wait_for(lambda: self._closing or self._hurries, pause or self._database.linger)
            self._hurries = False
            keys = list(itertools.islice(self._waiting, BATCH))
            self._writing = {key: self._waiting.pop(key) for key in keys}
            return self._writing

    def _try(self, batch: dict[Key, Row]) -> bool:
        try:
            self._write(batch)
        except Exception as error:  # A StateError; but no bug, either, may end the writing.
            if not self._failing:
                self._failing = True
                logger.warning("state: %s; keeping new data in memory, retrying", error)
            return False
        if self._failing:
            self._failing = False
            logger.info("state: %s is written again", self._database.name)
        return True

    def _write(self, batch: dict[Key, Row]) -> None:
        tables: dict[str, list[Row]] = defaultdict(list)
        for row in batch.values():
            if all(math.isfinite(value) for value in row.values.values() if isinstance(value, float)):
                tables[row.table].append(row)
        try:
            self._transact(tables, self._upsert)
        except UNSTORABLE as error:
            if not self._database.is_refused(error):
                raise
            self._transact(tables, self._upsert_one_by_one)
        if time.monotonic() >= self._prune_at:
            with (
                self._database.writing() as connection
            ):  # Of its own: it takes long, and news has a lock that all want.
                self._prune(connection)
            self._prune_at = time.monotonic() + PRUNE_EVERY

    def _transact(
        self, tables: Mapping[str, Sequence[Row]], upsert: Callable[[Connection, str, Written], Written]
    ) -> None:
        with self._database.writing() as connection:
            has_news = any(is_news(row) for rows in tables.values() for row in rows)
            revision, lost = next_revision(connection, self.name) if has_news else 0, frozenset[str]()
            for table, rows in sorted(tables.items()):  # In one order in all processes, or two wait for each other.
                by = {} if table == claims.name else {"revision": revision, "writer": self.name}
                values = [{**self._values(row), **by} for row in sorted(rows, key=lambda row: str(row.key))]
                written = upsert(connection, table, values)
                if table == sessions.name:
                    lost = self._lost(connection, written)
        if lost:
            with self._wake:
                self.lost |= lost
            self._database.wake()

    def reported(self, lost: frozenset[str]) -> None:
        """Learn that the reader has reported these of the ``lost`` sessions."""
        with self._wake:
            self.lost -= lost

    def _upsert(self, connection: Connection, table: str, rows: Written) -> Written:
        connection.execute(self._upserts[table], rows)
        return rows

    def _upsert_one_by_one(self, connection: Connection, table: str, rows: Written) -> Written:
        """Write all rows but those that cannot be stored. Return the others."""
        written = []
        for row in rows:
            try:
                with connection.begin_nested():
                    connection.execute(self._upserts[table], row)
                written.append(row)
            except UNSTORABLE as error:
                if not self._database.is_refused(error):
                    raise
                what = type(error).__name__
                logger.debug("state: one of the %s cannot be stored and is left out (%s)", table, what)
        return written

    @staticmethod
    def _lost(connection: Connection, rows: Written) -> frozenset[str]:
        """Return the sessions that others bound to another identity before us, or moved more often than we know."""
        ours = {row["session"]: (row["account_id"], row["user_id"], row["moves"]) for row in rows}
        columns = sessions.c.session, sessions.c.account_id, sessions.c.user_id, sessions.c.moves
        found = connection.execute(select(*columns).where(sessions.c.session.in_(ours)))
        return frozenset(session for session, *stored in found if tuple(stored) != ours[session])
