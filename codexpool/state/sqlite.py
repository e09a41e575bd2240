"""The state in a SQLite file, shared by the proxies of one machine."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from codexpool.members.ledger import DAY, Account, Spent, day_of
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state.base import MAX_SESSIONS, Note, Record, Snapshot, State, StateError
from codexpool.state.database import Database
from codexpool.state.memory import MemoryState
from codexpool.state.writer import Write, Writer

log = logging.getLogger(__name__)

VARIABLE = "CODEXPOOL_STATE"
"""The environment variable that names another file."""

SESSION_AGE = 30 * 24 * 3600.0
"""Seconds after which a session that was not served is forgotten, and that a condition was dropped."""

METADATA_AGE = 180 * 24 * 3600.0
"""Seconds after which it is forgotten whose a token was; whoami says it again, if it is still there."""

CLAIM_AGE = 365 * 24 * 3600.0
"""Seconds after which it is forgotten that a case was seen to."""

USAGE_AGE = 400 * 24 * 3600.0
"""Seconds after which it is forgotten who has used what: a year, and the time to look back on it."""

CLOSE_TIMEOUT = 5.0
"""Seconds ``close`` waits for the disk."""

PUT_SESSION = (
    "INSERT OR REPLACE INTO sessions (session, account_id, user_id, at, moves, revision, writer)"
    " VALUES (?,?,?,?,?,?,?)"
)
PUT_METADATA = (
    "INSERT OR REPLACE INTO metadata"
    " (fingerprint, account_id, user_id, plan, fedramp, origin, routing_override, at, revision, writer)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
PUT_CONDITION = (
    "INSERT OR REPLACE INTO conditions (fingerprint, status, since, until, evidence, at, revision, writer)"
    " VALUES (?,?,?,?,?,?,?,?)"
)

PUT_RECORD = (
    "INSERT OR REPLACE INTO records (name, fingerprint, account_id, user_id, used_at, revision, writer)"
    " VALUES (?,?,?,?,?,?,?)"
)

PUT_NOTE = "INSERT OR REPLACE INTO notes (kind, name, note, at, revision, writer) VALUES (?,?,?,?,?,?)"

PUT_SPENT = (
    "INSERT OR REPLACE INTO spent (pool, day, member, identity, model,"
    " turns, unmetered, input, cached, output, reasoning, first_at, last_at, revision, writer)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)

GONE = ""
"""In place of a fingerprint: the identity was taken out. The row stays, so that a later word on it has its place."""

_EVIDENCE_FIELDS = {field.name for field in fields(Evidence)}


def state_path(environ: Mapping[str, str]) -> Path:
    """The file the state is in: ``CODEXPOOL_STATE``, else one in the user's state folder."""
    if named := environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    import platformdirs  # in the thread that opens the state, not at start-up

    return platformdirs.user_state_path("codexpool", appauthor=False) / "state.sqlite3"


def open_state(path: Path) -> State:
    """The state in the file at ``path``, or one in memory if the disk cannot be used; the log then says so.

    Raises StateError if the file is there and must not be touched: a newer codexpool wrote it, or another program.
    """
    try:
        return SqliteState(path)
    except (OSError, sqlite3.Error) as error:
        log.warning(
            "state: %s cannot be used (%s); sessions and pauses will not outlive this process. Let the proxy's user"
            " write there, or name another file with %s",
            path,
            error,
            VARIABLE,
        )
        return MemoryState()


class SqliteState:
    """A ``State`` in one file. Trouble with the disk is logged once, and what is new waits in memory meanwhile."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it. Raises StateError, sqlite3.Error and OSError; nothing later on does."""
        self._clock = clock
        self._database = Database(path)
        self._reading = threading.Lock()
        self._connection = self._database.connection()
        self._seen = 0
        self._data_version = -1
        self._failing = False
        self._closed = False
        self._writer = Writer(Database(path), self._prune)

    def put_session(self, session: str, key: IdentityKey, at: float, moves: int = 0) -> None:
        values = (session, key.account_id, key.user_id, at, moves)
        self._writer.put(("sessions", session), Write(PUT_SESSION, values))

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        m = metadata
        values = (fingerprint, m.account_id, m.user_id, m.plan, m.fedramp, m.origin, m.routing_override, at)
        self._writer.put(("metadata", fingerprint), Write(PUT_METADATA, values))

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        evidence = json.dumps(asdict(condition.evidence)) if condition.evidence else None
        values = (fingerprint, str(condition.status), condition.since, condition.until, evidence, self._clock())
        self._writer.put(("conditions", fingerprint), Write(PUT_CONDITION, values))

    def drop_condition(self, fingerprint: str) -> None:
        values = (fingerprint, None, None, None, None, self._clock())
        self._writer.put(("conditions", fingerprint), Write(PUT_CONDITION, values))

    def put_record(self, name: str, record: Record) -> None:
        values = (name, record.fingerprint, *record.key, record.used_at)
        self._writer.put(("records", name), Write(PUT_RECORD, values))

    def drop_record(self, name: str) -> None:
        self._writer.put(("records", name), Write(PUT_RECORD, (name, GONE, "", "", None)))

    def put_note(self, kind: str, name: str, note: Note) -> None:
        values = (kind, name, json.dumps(note), self._clock())
        self._writer.put(("notes", f"{kind} {name}"), Write(PUT_NOTE, values))

    def put_spent(self, account: Account, spent: Spent) -> None:
        self._writer.put(("spent", "\0".join(account)), Write(PUT_SPENT, (*account, *spent)))

    def claim(self, case: str, at: float) -> bool:
        with self._reading:
            try:
                connection = self._database.connection()
                done = connection.execute('INSERT OR IGNORE INTO claims ("case", at) VALUES (?, ?)', (case, at))
            except (sqlite3.Error, OSError, StateError) as error:
                log.warning("state: %s cannot be written (%s)", self._database.path, error)
                return True  # Better seen to twice than never.
            return done.rowcount == 1

    def load(self) -> Snapshot:
        with self._reading:
            snapshot = self._read(since=0, except_writer="")
        snapshot.dropped.clear()
        return snapshot

    def changes(self) -> Snapshot:
        # A row of ours that is still to be written will be the last word; what others said before it is not news.
        ours = self._writer.unwritten()
        with self._reading:
            news = self._read(since=None, except_writer=self._writer.name)
        ours |= self._writer.unwritten()
        for table, key in ours:
            if table == "sessions":
                news.sessions.pop(key, None)
            elif table == "metadata":
                news.metadata.pop(key, None)
            elif table == "records":
                news.records.pop(key, None)
            elif table == "notes":
                kind, _, name = key.partition(" ")
                news.notes.pop((kind, name), None)
            elif table == "conditions":
                news.conditions.pop(key, None)
                news.dropped.discard(key)
        return news

    def flush(self, timeout: float) -> bool:
        """Wait, at most so many seconds, until all that was put is on the disk; whether it is."""
        return self._writer.flush(timeout)

    def close(self) -> None:
        if not self._writer.close(CLOSE_TIMEOUT):
            log.warning("state: not all of it could be written to %s", self._database.path)
        with self._reading:
            self._closed = True
            self._database.close()

    def _read(self, since: int | None, except_writer: str) -> Snapshot:
        """What was written after revision ``since`` (None: the last one seen) by others than ``except_writer``."""
        if self._closed:
            return Snapshot()
        try:
            connection = self._database.connection()
            if connection is not self._connection:  # the file is another one: nothing of it was seen
                self._connection, self._seen, self._data_version = connection, 0, -1
            data_version = int(connection.execute("PRAGMA data_version").fetchone()[0])
            if since is None and data_version == self._data_version:
                return Snapshot()
            connection.execute("BEGIN")
            try:
                (seen,) = connection.execute("SELECT value FROM revision").fetchone()
                snapshot = rows(connection, self._seen if since is None else since, except_writer, self._clock())
            finally:
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError, StateError) as error:
            self._database.close()
            if not self._failing:
                self._failing = True
                log.warning("state: %s cannot be read (%s)", self._database.path, error)
            return Snapshot()
        self._seen, self._data_version, self._failing = seen, data_version, False
        return snapshot

    def _prune(self, connection: sqlite3.Connection) -> None:
        oldest = self._clock() - SESSION_AGE
        connection.execute("DELETE FROM sessions WHERE at < ?", (oldest,))
        connection.execute(
            "DELETE FROM sessions WHERE session IN (SELECT session FROM sessions ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (MAX_SESSIONS,),
        )
        connection.execute("DELETE FROM conditions WHERE status IS NULL AND at < ?", (oldest,))
        connection.execute("DELETE FROM notes WHERE at < ?", (oldest,))
        connection.execute("DELETE FROM metadata WHERE at < ?", (self._clock() - METADATA_AGE,))
        connection.execute("DELETE FROM claims WHERE at < ?", (self._clock() - CLAIM_AGE,))
        connection.execute("DELETE FROM spent WHERE day < ?", (day_of(self._clock() - USAGE_AGE),))


def rows(connection: sqlite3.Connection, since: int, except_writer: str, now: float) -> Snapshot:
    """What was written after a revision by others than this writer, as of the unix second ``now``."""
    news = (since, except_writer)
    snapshot = Snapshot()
    for session, account_id, user_id, moves in connection.execute(
        "SELECT session, account_id, user_id, moves FROM"
        " (SELECT * FROM sessions WHERE revision > ? AND writer != ? AND at >= ? ORDER BY at DESC LIMIT ?)"
        " ORDER BY at",
        (*news, now - SESSION_AGE, MAX_SESSIONS),
    ):
        snapshot.sessions[session] = IdentityKey(account_id, user_id)
        if moves:
            snapshot.moves[session] = moves
    for fingerprint, account_id, user_id, plan, fedramp, origin, routing_override in connection.execute(
        "SELECT fingerprint, account_id, user_id, plan, fedramp, origin, routing_override FROM metadata"
        " WHERE revision > ? AND writer != ?",
        news,
    ):
        metadata = Metadata(account_id, user_id, plan, bool(fedramp), origin, routing_override)
        snapshot.metadata[fingerprint] = metadata
    for fingerprint, *columns in connection.execute(
        "SELECT fingerprint, status, since, until, evidence FROM conditions WHERE revision > ? AND writer != ?",
        news,
    ):
        if columns[0] is None:
            snapshot.dropped.add(fingerprint)
        elif condition := _condition(*columns):
            snapshot.conditions[fingerprint] = condition
    for name, fingerprint, account_id, user_id, used_at in connection.execute(
        "SELECT name, fingerprint, account_id, user_id, used_at FROM records WHERE revision > ? AND writer != ?",
        news,
    ):
        if fingerprint != GONE:
            snapshot.records[name] = Record(fingerprint, IdentityKey(account_id, user_id), used_at)
    for kind, name, note in connection.execute(
        "SELECT kind, name, note FROM notes WHERE revision > ? AND writer != ?", news
    ):
        with contextlib.suppress(ValueError):
            snapshot.notes[(kind, name)] = json.loads(note)
    for writer, *columns in connection.execute(
        "SELECT writer, pool, day, member, identity, model,"
        " turns, unmetered, input, cached, output, reasoning, first_at, last_at"
        " FROM spent WHERE revision > ? AND writer != ? AND day BETWEEN ? AND ?",
        (*news, day_of(now - DAY), day_of(now + DAY)),
    ):
        snapshot.spent[(Account(*columns[:5]), writer)] = Spent(*columns[5:])
    return snapshot


def _condition(status: str, since: float, until: float | None, evidence: str | None) -> Condition | None:
    """A condition as it was stored; None for one this version knows no word for."""
    try:
        told = json.loads(evidence) if evidence else None
        kept = {name: value for name, value in told.items() if name in _EVIDENCE_FIELDS} if told else None
        return Condition(Status(status), since, until, Evidence(**kept) if kept else None)
    except (ValueError, TypeError, AttributeError):
        log.warning("state: a condition (%s) that cannot be read is passed over", status)
        return None
