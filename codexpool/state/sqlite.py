"""The state in a SQLite file, shared by the proxies of one machine."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from codexpool.members.ledger import DAY, Account, Spent, day_of
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state.base import MAX_SESSIONS, Note, Record, Snapshot, State, StateError, UnavailableError
from codexpool.state.database import Database
from codexpool.state.writer import Write, Writer

log = logging.getLogger(__name__)

VARIABLE = "CODEXPOOL_STATE"
"""The environment variable that names another file."""

_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")
"""A scheme has at least two letters: a single one is a drive of Windows."""

SESSION_AGE = 30 * 24 * 3600.0
"""Seconds after which a session that was not served is forgotten, and that a condition was dropped."""

METADATA_AGE = 180 * 24 * 3600.0
"""Seconds after which it is forgotten whose a token was; whoami says it again, if it is still there."""

CLAIM_AGE = 365 * 24 * 3600.0
"""Seconds after which it is forgotten that a case was seen to."""

USAGE_AGE = 400 * 24 * 3600.0
"""Seconds after which it is forgotten who has used what: a year, and the time to look back on it."""

DAY_AT_ONCE = 24 * 3600.0
"""Seconds by which the ages of all rows grow at most as a process prunes for the first time."""

PRUNED = "pruned"
"""The claim whose time is the one that ages were last reckoned at."""

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

NEWEST = """
SELECT max(at) FROM (
    SELECT max(at) AS at FROM sessions WHERE writer != :writer
    UNION ALL SELECT max(at) FROM metadata WHERE writer != :writer
    UNION ALL SELECT max(at) FROM conditions WHERE writer != :writer
    UNION ALL SELECT max(at) FROM notes WHERE writer != :writer
    UNION ALL SELECT max(last_at) FROM spent WHERE writer != :writer
)
"""

# Every row gets the revision and the writer, which a claim has no columns for.
PUT_CLAIM = 'INSERT OR IGNORE INTO claims ("case", at) SELECT ?, ? WHERE ? IS NOT NULL AND ? IS NOT NULL'

GONE = ""
"""In place of a fingerprint: the identity was taken out. The row stays, so that a later word on it has its place."""

_EVIDENCE_FIELDS = {field.name for field in fields(Evidence)}


def named_state(environ: Mapping[str, str]) -> Path | None:
    """Return the file that ``CODEXPOOL_STATE`` names, if it is set.

    Raises StateError for a URL, which would become a file of that name.
    """
    named = environ.get(VARIABLE)
    if not named:
        return None
    if url := _URL.match(named):
        # The scheme only: the rest may hold a password.
        what = f"{VARIABLE} is a URL ({url[1]}:…), and only files are supported"
        raise StateError(what, "name a file, as in ~/codexpool/state.sqlite3, or unset it to use the default")
    return Path(named).expanduser().absolute()


def state_path(environ: Mapping[str, str]) -> Path:
    """Return the file the state is in: `named_state`, else one in the user's state folder. Raises StateError."""
    if (named := named_state(environ)) is not None:
        return named
    import platformdirs  # in the thread that opens the state, not at start-up

    return platformdirs.user_state_path("codexpool", appauthor=False) / "state.sqlite3"


def open_state(path: Path) -> State:
    """The state in the file at ``path``, which is made if it is not there.

    Raises UnavailableError where it cannot be used now, and another StateError if it must not be touched: a newer
    codexpool wrote it, or another program.
    """
    try:
        return SqliteState(path)
    except (OSError, sqlite3.Error) as error:
        remedy = f"let the user the proxy runs as write there, or name another file with {VARIABLE}"
        raise UnavailableError(f"{path} cannot be used ({error})", remedy) from error


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
        self._pruned_at: float | None = None
        """When this process has pruned last, by the monotonic clock."""
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

    def put_claim(self, case: str, at: float) -> None:
        self._writer.put(("claims", case), Write(PUT_CLAIM, (case, at)))

    def claim(self, case: str, at: float) -> bool:
        if ("claims", case) in self._writer.unwritten():
            return False
        with self._reading:
            try:
                connection = self._database.connection()
                done = connection.execute('INSERT OR IGNORE INTO claims ("case", at) VALUES (?, ?)', (case, at))
            except (sqlite3.Error, OSError, StateError) as error:
                log.warning("state: %s cannot be written (%s)", self._database.path, error)
                self.put_claim(case, at)
                return True
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

    def close(self) -> bool:
        is_written = self._writer.close(CLOSE_TIMEOUT)
        if not is_written:
            log.warning("state: not all of it could be written to %s", self._database.path)
        with self._reading:
            self._closed = True
            self._database.close()
        return is_written

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
        now = self._reckoned_at(connection)
        oldest = now - SESSION_AGE
        connection.execute("DELETE FROM sessions WHERE at < ?", (oldest,))
        connection.execute(
            "DELETE FROM sessions WHERE session IN (SELECT session FROM sessions ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (MAX_SESSIONS,),
        )
        connection.execute("DELETE FROM conditions WHERE status IS NULL AND at < ?", (oldest,))
        connection.execute("DELETE FROM notes WHERE at < ?", (oldest,))
        connection.execute("DELETE FROM metadata WHERE at < ?", (now - METADATA_AGE,))
        connection.execute("DELETE FROM claims WHERE at < ?", (now - CLAIM_AGE,))
        connection.execute("DELETE FROM spent WHERE day < ?", (day_of(now - USAGE_AGE),))

    def _reckoned_at(self, connection: sqlite3.Connection) -> float:
        """Return the unix second that ages are reckoned at now, and remember it.

        A clock that is years ahead must not age all rows at once. So this time follows the clock only as fast as time
        passes in this process, and a day more as it begins; a file that nobody has pruned yet begins with its newest
        row. After a long pause rows are then kept for some days longer, which harms nobody.
        """
        clock, passed = self._clock(), time.monotonic()
        before = connection.execute('SELECT at FROM claims WHERE "case" = ?', (PRUNED,)).fetchone()
        at = before[0] if before is not None else self._newest(connection)
        at += DAY_AT_ONCE if self._pruned_at is None else passed - self._pruned_at
        at, self._pruned_at = min(at, clock), passed
        connection.execute('INSERT OR REPLACE INTO claims ("case", at) VALUES (?, ?)', (PRUNED, at))
        return float(at)

    def _newest(self, connection: sqlite3.Connection) -> float:
        """When others have written last; now where nobody has."""
        (at,) = connection.execute(NEWEST, {"writer": self._writer.name}).fetchone()
        return self._clock() if at is None else float(at)


def rows(connection: sqlite3.Connection, since: int, except_writer: str, now: float) -> Snapshot:
    """What was written after a revision by others than this writer, as of the unix second ``now``."""
    news = (since, except_writer)
    snapshot = Snapshot()
    # As in `SqliteState._reckoned_at`, a clock that is ahead makes no session old.
    reckoned = 'SELECT at FROM claims WHERE "case" = ? UNION ALL SELECT max(at) FROM sessions'
    reckoned_at = connection.execute(reckoned, (PRUNED,)).fetchone()[0] or now
    for session, account_id, user_id, moves in connection.execute(
        "SELECT session, account_id, user_id, moves FROM"
        " (SELECT * FROM sessions WHERE revision > ? AND writer != ? AND at >= ? ORDER BY at DESC LIMIT ?)"
        " ORDER BY at",
        (*news, min(now, reckoned_at) - SESSION_AGE, MAX_SESSIONS),
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
