"""The state in a SQLite file, which the proxies and commands of one machine share."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

from codexpool.members.ledger import DAY, Account, Spent, day_of
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.pool.pins import KEPT as PINS_KEPT
from codexpool.state import GONE, MAX_SESSIONS, Record, Row, Rows, Snapshot, StateError, UnavailableError
from codexpool.state.database import COLUMNS, Database, open_read_only
from codexpool.state.writer import Writer

logger = logging.getLogger("codexpool")

VARIABLE = "CODEXPOOL_STATE"  # The environment variable that names another file.

_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")  # At least two letters: one is a drive of Windows.
COUNTED_BY: Final = ("day", "member", "identity", "model", "pool")  # How usage can be grouped, see `Account`.
PRUNING: Final = (  # What is deleted, and the age in seconds.
    ("DELETE FROM sessions WHERE at < ?", 30 * DAY),
    ("DELETE FROM conditions WHERE status IS NULL AND at < ?", 30 * DAY),
    ("DELETE FROM notes WHERE at < ? AND (kind != 'pinned' OR note = '{}')", 30 * DAY),
    ("DELETE FROM notes WHERE at < ?", 365 * DAY),  # Pins: a person made them, and no proxy writes them again.
    ("DELETE FROM metadata WHERE at < ?", 180 * DAY),  # whoami tells it again.
    ("DELETE FROM claims WHERE at < ?", 365 * DAY),
)
SESSION_AGE = 30 * DAY  # Seconds after which a session is not read any more, pruned or not.
USAGE_AGE = 400 * DAY  # Seconds for which usage is kept: a year, and time to look back on it.
PRUNED = "pruned"  # The claim with the time at which ages were last computed.
CLOSE_TIMEOUT = 5.0  # Seconds ``close`` waits for the disk.

_EVIDENCE_FIELDS = {field.name for field in fields(Evidence)}


def named_state(environ: Mapping[str, str]) -> Path | None:
    """Return the file that ``CODEXPOOL_STATE`` names, if it is set. Raises StateError for a URL."""
    named = environ.get(VARIABLE)
    if not named:
        return None
    if url := _URL.match(named):
        # The scheme only: the rest may contain a password.
        what = f"{VARIABLE} is a URL ({url[1]}:…), and only files are supported"
        raise StateError(what, "name a file, as in ~/codexpool/state.sqlite3, or unset it to use the default")
    return Path(named).expanduser().absolute()


def state_path(environ: Mapping[str, str]) -> Path:
    """Return the file of the state: `named_state`, or one in the user's state folder. Raises StateError."""
    if (named := named_state(environ)) is not None:
        return named
    import platformdirs  # In the thread that opens the state, not at start-up.

    return platformdirs.user_state_path("codexpool", appauthor=False) / "state.sqlite3"


def agents_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder beside the state that has the tasks of agent identities. Raises nothing."""
    try:
        return state_path(environ).parent / "agents"
    except StateError:
        return state_path({}).parent / "agents"  # Whatever opens the state reports the error.


def open_state(path: Path) -> SqliteState:
    """Open the state in the file at ``path``; create it if it is missing.

    Raises UnavailableError if it cannot be used now, and another StateError if it must not be touched: a newer
    codexpool or another program wrote it.
    """
    try:
        return SqliteState(path)
    except (OSError, sqlite3.Error) as error:
        remedy = f"let the user that runs the proxy write there, or set {VARIABLE} to another file"
        raise UnavailableError(f"{path} cannot be used ({error})", remedy) from error


def read_state(path: Path) -> Snapshot | None:
    """Read the state in the file at ``path`` without changing anything; None if there is none, or it is unreadable.

    May take a while. Raises nothing: the log says what is wrong.
    """
    if not path.is_file():
        return None
    try:
        with contextlib.closing(open_read_only(path)) as connection:
            connection.execute("BEGIN")
            return rows(connection, 0, "", time.time())
    except (sqlite3.Error, OSError, StateError) as error:
        logger.warning("state: %s cannot be read: %s", path, error)
        return None


def read_spent(path: Path, by: Sequence[str], since: str) -> dict[tuple[str, ...], Spent]:
    """Return the usage since a day (``2026-11-25``, included), grouped ``by`` some of `COUNTED_BY`, in that order.

    Empty if there is no state. May take a while. Raises StateError, sqlite3.Error and OSError.
    """
    if not path.is_file():
        return {}
    columns = ", ".join(COUNTED_BY[COUNTED_BY.index(name)] for name in by)  # Nothing else gets into the statement.
    with contextlib.closing(open_read_only(path)) as connection:
        found = connection.execute(
            "SELECT sum(turns), sum(unmetered), sum(input), sum(cached), sum(output), sum(reasoning),"
            f" min(first_at), max(last_at), {columns} FROM spent"
            f" WHERE day >= ? AND identity != '' GROUP BY {columns} ORDER BY {columns}",
            (since,),
        )
        return {tuple(row[8:]): Spent(*row[:8]) for row in found}


class SqliteState(Rows):
    """The state in one file. A disk error is logged once, and new data stays in memory until it can be written."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises StateError, sqlite3.Error and OSError; later calls raise nothing."""
        super().__init__(clock)
        self._database = Database(path)
        self._reading = threading.Lock()
        self._connection = self._database.connection()
        self._seen = 0
        self._data_version = -1
        self._failing = False
        self._closed = False
        self._pruned_at: float | None = None  # When this process last pruned, on the monotonic clock.
        self._writer = Writer(Database(path), self._prune)

    def put(self, row: Row) -> None:
        self._writer.put(row)

    def claim(self, case: str, at: float) -> bool:
        """Return whether the caller must handle a case: True once, in one process. May take a while.

        If the claim cannot be written now, it is granted: better handled twice than never.
        """
        if ("claims", case) in self._writer.unwritten():
            return False
        with self._reading:
            try:
                connection = self._database.connection()
                done = connection.execute('INSERT OR IGNORE INTO claims ("case", at) VALUES (?, ?)', (case, at))
            except (sqlite3.Error, OSError, StateError) as error:
                logger.warning("state: %s cannot be written (%s)", self._database.path, error)
                self.put_claim(case, at)
                return True
            return done.rowcount == 1

    def load(self) -> Snapshot:
        """Return all there is. May take a while; raises nothing."""
        with self._reading:
            return self._read(since=0, except_writer="")

    def changes(self) -> Snapshot:
        """Return what others wrote since the last ``load`` or ``changes``. Cheap if nothing; raises nothing."""
        # An unwritten row of ours will replace what others wrote before it: that is not news.
        ours = self._writer.unwritten()
        with self._reading:
            news = self._read(since=None, except_writer=self._writer.name)
        for table, key in ours | self._writer.unwritten():
            if table not in ("spent", "claims"):
                getattr(news, table).pop(key, None)
        return news

    def close(self) -> bool:
        """Write what is unwritten, within a few seconds. Return whether all was written."""
        is_written = self._writer.close(CLOSE_TIMEOUT)
        if not is_written:
            logger.warning("state: not all data could be written to %s", self._database.path)
        with self._reading:
            self._closed = True
            self._database.close()
        return is_written

    def _read(self, since: int | None, except_writer: str) -> Snapshot:
        """Return what was written after revision ``since`` (None: the last one seen), except by ``except_writer``."""
        if self._closed:
            return Snapshot()
        try:
            connection = self._database.connection()
            if connection is not self._connection:  # The file was replaced: nothing of it was seen.
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
                logger.warning("state: %s cannot be read (%s)", self._database.path, error)
            return Snapshot()
        self._seen, self._data_version, self._failing = seen, data_version, False
        return snapshot

    def _prune(self, connection: sqlite3.Connection) -> None:
        now = self._aging_time(connection)
        for statement, age in PRUNING:
            connection.execute(statement, (now - age,))
        connection.execute(
            "DELETE FROM sessions WHERE session IN (SELECT session FROM sessions ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (MAX_SESSIONS,),
        )
        connection.execute(
            "DELETE FROM notes WHERE kind = 'pinned' AND name IN"
            " (SELECT name FROM notes WHERE kind = 'pinned' ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (PINS_KEPT,),
        )
        connection.execute("DELETE FROM spent WHERE day < ?", (day_of(now - USAGE_AGE),))

    def _aging_time(self, connection: sqlite3.Connection) -> float:
        """Return the unix second from which ages are computed, and store it.

        A clock that is years ahead must not age all rows at once. So this time follows the clock only as fast as time
        passes in this process, plus a day at its first pruning; in a file that was never pruned it begins at the
        newest session. After a long pause, rows are therefore kept for some days longer.
        """
        clock, passed = self._clock(), time.monotonic()
        before = connection.execute('SELECT at FROM claims WHERE "case" = ?', (PRUNED,)).fetchone()
        if before is None:
            newest = "SELECT max(at) FROM sessions WHERE writer != ?"
            before = connection.execute(newest, (self._writer.name,)).fetchone()
        at = clock if before[0] is None else float(before[0])
        at += DAY if self._pruned_at is None else passed - self._pruned_at
        at, self._pruned_at = min(at, clock), passed
        connection.execute('INSERT OR REPLACE INTO claims ("case", at) VALUES (?, ?)', (PRUNED, at))
        return at


def rows(connection: sqlite3.Connection, since: int, except_writer: str, now: float) -> Snapshot:
    """Return what was written after a revision, except by one writer, as of the unix second ``now``."""

    def select(table: str, more: str = "", values: tuple[object, ...] = (), columns: str = "") -> sqlite3.Cursor:
        statement = f"SELECT {COLUMNS[table]}{columns} FROM {table} WHERE revision > ? AND writer != ?{more}"
        return connection.execute(statement, (since, except_writer, *values))

    snapshot = Snapshot()
    # As in `SqliteState._aging_time`, a clock that is ahead makes no session old.
    aged = 'SELECT at FROM claims WHERE "case" = ? UNION ALL SELECT max(at) FROM sessions'
    oldest = min(now, connection.execute(aged, (PRUNED,)).fetchone()[0] or now) - SESSION_AGE
    latest = select("sessions", " AND at >= ? ORDER BY at DESC LIMIT ?", (oldest, MAX_SESSIONS)).fetchall()
    for session, account_id, user_id, _, moves in reversed(latest):
        snapshot.sessions[session] = IdentityKey(account_id, user_id)
        if moves:
            snapshot.moves[session] = moves
    for fingerprint, account_id, user_id, plan, fedramp, origin, routing_override, _ in select("metadata"):
        metadata = Metadata(account_id, user_id, plan, bool(fedramp), origin, routing_override)
        snapshot.metadata[fingerprint] = metadata
    for fingerprint, status, begun, until, evidence, _ in select("conditions"):
        if status is not None and (condition := _condition(status, begun, until, evidence)):
            snapshot.conditions[fingerprint] = condition
    for name, fingerprint, account_id, user_id, used_at in select("records"):
        if fingerprint != GONE:
            snapshot.records[name] = Record(fingerprint, IdentityKey(account_id, user_id), used_at)
    for kind, name, note, _ in select("notes"):
        with contextlib.suppress(ValueError):
            snapshot.notes[(kind, name)] = json.loads(note)
    days = (day_of(now - DAY), day_of(now + DAY))
    for *columns, writer in select("spent", " AND day BETWEEN ? AND ?", days, ", writer"):
        snapshot.spent[(Account(*columns[:5]), writer)] = Spent(*columns[5:])
    return snapshot


def _condition(status: str, since: float, until: float | None, evidence: str | None) -> Condition | None:
    """Return a stored condition, or None if this version does not know its status."""
    try:
        stored = json.loads(evidence) if evidence else None
        known = {name: value for name, value in stored.items() if name in _EVIDENCE_FIELDS} if stored else None
        return Condition(Status(status), since, until, Evidence(**known) if known else None)
    except (ValueError, TypeError, AttributeError):
        logger.warning("state: ignoring a condition (%s) that cannot be read", status)
        return None
