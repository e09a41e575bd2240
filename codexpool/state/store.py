"""The state in a database: what both engines share."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Select, and_, bindparam, delete, func, or_, select, update

from codexpool.common.emails import email_of
from codexpool.members.ledger import DAY, Account, Spent, day_of
from codexpool.pool.identity import IdentityKey
from codexpool.pool.pins import KEPT as PINS_KEPT
from codexpool.state import GONE, MAX_SESSIONS, Row, Snapshot, State, StateError, reading
from codexpool.state.clock import database_time
from codexpool.state.database import Database
from codexpool.state.logins import login_rows
from codexpool.state.notes import EMAIL
from codexpool.state.reading import readable
from codexpool.state.schema import claims, conditions, leases, metadata, notes, revision, schema, sessions, spent
from codexpool.state.times import moved_row, moved_snapshot
from codexpool.state.writer import UNSTORABLE, Writer

logger = logging.getLogger("codexpool")

T = TypeVar("T")

SESSION_AGE = 30 * DAY  # Seconds after which a session is not read any more, pruned or not.
USAGE_AGE = 400 * DAY  # Seconds for which usage is kept: a year, and time to look back on it.
PRUNING: Final = (  # What is deleted, and the age in seconds.
    (sessions, None, SESSION_AGE),
    (conditions, conditions.c.status.is_(None), 30 * DAY),
    (notes, or_(notes.c.kind != "pinned", notes.c.note == "{}"), 30 * DAY),
    (notes, None, 365 * DAY),  # Pins: a person made them, and no proxy writes them again.
    (metadata, None, 180 * DAY),  # whoami tells it again.
    (claims, None, 365 * DAY),
    (leases, None, 2 * DAY),
)
PRUNED = "pruned"  # The claim with the time at which ages were last computed.
CLOSE_TIMEOUT = 5.0  # Seconds ``close`` waits for the engine.
SPENT_EVERY = 5.0  # Seconds between two readings of what other processes have counted.
SPENT_OVERLAP = 15.0  # Seconds before the last one from which it is read again: it may be committed late.
MEASURE_EVERY = 60.0  # Seconds between two comparisons of the clocks.
OFFSET_STEP = 0.05  # Seconds below which a difference to the last comparison is taken for noise.

COLUMNS: Final = {  # What is read of each table, in this order.
    "sessions": ("session", "account_id", "user_id", "moves"),
    "metadata": ("fingerprint", "account_id", "user_id", "plan", "fedramp", "origin", "routing_override"),
    "conditions": ("fingerprint", "status", "since", "until", "evidence", "at"),
    "records": ("name", "fingerprint", "account_id", "user_id", "used_at"),
    "notes": ("kind", "name", "note"),
    "spent": ("writer", *Account._fields, *Spent._fields),
}

_BINDINGS: Final = select(sessions.c.session, sessions.c.account_id, sessions.c.user_id, sessions.c.moves).where(
    sessions.c.session.in_(bindparam("names", expanding=True))
)


class _Position(NamedTuple):
    """Up to where others' rows were read, and which sessions were reported that they had bound before us."""

    epoch: str = ""
    revision: int = -1
    spent_at: float = 0.0  # By the database's clock.
    reported: frozenset[str] = frozenset()


class Store(State):
    """An error of the engine is logged once, and new data stays in memory until it can be written."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Connect to the database, whose tables are made if they are missing. Raises StateError."""
        super().__init__(clock)
        self._database = database
        self._reading = threading.Lock()
        self._read_to = _Position()
        self._read_at = -math.inf  # When others' rows were last read, on the monotonic clock.
        self._spent_next = 0.0  # When it is read again what others have counted, on the monotonic clock.
        self._measure_at = 0.0  # When the clocks are compared again, on the monotonic clock.
        self._failing = False
        self._closed = False
        self._pruned_at: float | None = None  # When this process last pruned, on the monotonic clock.
        database.open()
        with database.reading() as connection:
            self._measure_offset(connection)
        self.where = database.name
        self._writer = Writer(database, self._values, self._prune)
        self.name = self._writer.name

    @property
    def is_connected(self) -> bool:
        return self._database.is_connected

    @property
    def waiting(self) -> int:
        return len(self._writer.unwritten())

    def put(self, row: Row) -> None:
        self._writer.put(row)

    def claim(self, case: str, at: float) -> bool:
        if ("claims", case) in self._writer.unwritten():
            return False
        claim = self._database.insert(claims).values(case=case, at=at + self.offset).on_conflict_do_nothing()
        try:
            return self.transact(lambda connection: connection.scalar(claim.returning(claims.c.case))) is not None
        except StateError as error:
            logger.warning("state: %s", error)
        except UNSTORABLE as error:
            logger.warning("state: a claim cannot be stored (%s)", type(error).__name__)
        self.put_claim(case, at)
        return True

    def load(self) -> Snapshot:
        with self._reading:
            return self._read(self._all)

    def changes(self, wait: float = 0) -> Snapshot:
        end = time.monotonic() + wait
        with self._reading:
            is_read = time.monotonic() - self._read_at < wait  # By the call before this one.
            while not self._closed:
                if not is_read:
                    news = self._read(self._news, self._is_up_to_date)
                    if news != Snapshot() or time.monotonic() >= end or not self.is_connected:
                        return news
                is_read = False
                self._database.wait(max(0.0, end - time.monotonic()), self.name)
        return Snapshot()

    def look_up(self, sessions: Collection[str]) -> dict[str, tuple[IdentityKey, int]]:
        names = list(sessions)
        try:
            with self._database.asking() as connection:
                return bindings(connection, names)
        except UNSTORABLE:  # One of the names is refused, which cannot be there. The others are asked for.
            half = len(names) // 2
            return self.look_up(names[:half]) | self.look_up(names[half:]) if half else {}

    def transact(self, work: Callable[[Connection], T]) -> T:
        with self._database.writing() as connection:
            return work(connection)

    def scope(self, pool_toml: Path) -> str:
        return self._database.scope(pool_toml)

    def close(self) -> bool:
        is_written = self._writer.close(CLOSE_TIMEOUT)
        if not is_written:
            logger.warning("state: not all data could be written to %s", self._database.name)
        self._closed = True
        self._database.wake()
        if self._reading.acquire(timeout=CLOSE_TIMEOUT):  # Otherwise the engine does not answer.
            self._reading.release()
        self._database.close()
        return is_written

    def _values(self, row: Row) -> dict[str, Any]:
        """Return the values of a row as they are stored."""
        values = dict(moved_row(row, self.offset).values)
        return {**values, "at": self._now()} if row.table == "spent" else values

    def _read(
        self,
        read: Callable[[Connection], tuple[Snapshot, _Position]],
        is_needless: Callable[[], bool] = lambda: False,
    ) -> Snapshot:
        if self._closed:
            return Snapshot()
        try:
            if is_needless():
                snapshot, position = Snapshot(), self._read_to
            else:
                with self._database.reading() as connection:
                    self._measure_offset(connection)
                    snapshot, position = read(connection)
        except Exception as error:  # A StateError; but no bug, either, may end the reading.
            if not self._failing:
                self._failing = True
                logger.warning("state: %s", error, exc_info=None if isinstance(error, StateError) else error)
            return Snapshot()
        if self._failing:
            self._failing = False
            self._writer.retry()
        self._read_to, self._read_at = position, time.monotonic()
        self._writer.reported(position.reported)
        return moved_snapshot(snapshot, -self.offset)

    def _is_up_to_date(self) -> bool:
        """Return whether there is nothing to read, which one question tells."""
        if self._writer.lost or time.monotonic() >= min(self._spent_next, self._measure_at):
            return False
        with self._database.asking() as connection:
            return self._revision(connection) == self._read_to[:2]

    def _all(self, connection: Connection) -> tuple[Snapshot, _Position]:
        """Return all there is, from which on there is news."""
        position = _Position(*self._revision(connection), spent_at=self._now())
        return contents(connection, self._now()), position

    def _news(self, connection: Connection) -> tuple[Snapshot, _Position]:
        """Return what others wrote since the last reading."""
        news, before, now, lost = Snapshot(), self._read_to, self._now(), frozenset(self._writer.lost)
        position = _Position(*self._revision(connection), before.spent_at, lost)
        if position[:2] != before[:2]:
            # Not if it is another database, or an older copy of this one.
            is_same = position.epoch == before.epoch and position.revision >= before.revision
            news = written_since(connection, before.revision if is_same else -1, self.name)
        for session, (key, moves) in bindings(connection, lost).items():
            news.sessions[session] = key
            if moves:
                news.moves[session] = moves
        if time.monotonic() >= self._spent_next:
            news.spent = spent_since(connection, now, before.spent_at - SPENT_OVERLAP, self.name)
            position = position._replace(spent_at=now)
            self._spent_next = time.monotonic() + SPENT_EVERY
        return news, position

    def _now(self) -> float:
        """Return the time of the database."""
        return self._clock() + self.offset

    def _measure_offset(self, connection: Connection) -> None:
        """Compare the clocks, now and then. What the question itself may have taken is no offset."""
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + MEASURE_EVERY
        if self._database.shares_our_clock:
            return
        before = self._clock()
        then, after = database_time(connection), self._clock()
        offset, may_be_off = then - (before + after) / 2, abs(after - before) / 2
        if abs(offset - self.offset) >= OFFSET_STEP + may_be_off:
            self.offset = offset

    @staticmethod
    def _revision(connection: Connection) -> tuple[str, int]:
        value, epoch = connection.execute(select(revision.c.value, revision.c.epoch)).one()
        return epoch, value

    def _prune(self, connection: Connection) -> None:
        now = self._aging_time(connection)
        for table, condition, age in PRUNING:
            too_old = table.c.at < now - age
            connection.execute(delete(table).where(too_old if condition is None else and_(too_old, condition)))
        most = select(sessions.c.session).order_by(sessions.c.at.desc()).limit(None).offset(MAX_SESSIONS)
        connection.execute(delete(sessions).where(sessions.c.session.in_(most)))
        is_pin = notes.c.kind == "pinned"
        pins = select(notes.c.name).where(is_pin).order_by(notes.c.at.desc()).offset(PINS_KEPT)
        connection.execute(delete(notes).where(is_pin, notes.c.name.in_(pins)))
        connection.execute(delete(spent).where(spent.c.day < day_of(now - USAGE_AGE)))

    def _aging_time(self, connection: Connection) -> float:
        """Return the unix second from which ages are computed, and store it.

        A clock that is years ahead must not age all rows at once. So this time follows the clock only as fast as time
        passes in this process, plus a day at its first pruning; in a file that was never pruned it begins at the
        newest session. After a long pause, rows are therefore kept for some days longer.
        """
        clock, passed = self._now(), time.monotonic()
        before = connection.execute(select(claims.c.at).where(claims.c.case == PRUNED)).scalar()
        if before is None:
            newest = select(func.max(sessions.c.at)).where(sessions.c.writer != self.name)
            before = connection.execute(newest).scalar()
        at = clock if before is None else float(before)
        at += DAY if self._pruned_at is None else passed - self._pruned_at
        at, self._pruned_at = min(at, clock), passed
        if not connection.execute(update(claims).where(claims.c.case == PRUNED).values(at=at)).rowcount:
            connection.execute(self._database.insert(claims).values(case=PRUNED, at=at).on_conflict_do_nothing())
        return at


def bindings(connection: Connection, names: Collection[str]) -> dict[str, tuple[IdentityKey, int]]:
    """Return the identity and the moves of the sessions among ``names`` that are known."""
    found = connection.execute(_BINDINGS, {"names": list(names)}) if names else ()
    return {session: (IdentityKey(account_id, user_id), moves) for session, account_id, user_id, moves in found}


def contents(connection: Connection, now: float) -> Snapshot:
    """Return all there is, but for sessions, as of the unix second ``now``."""
    snapshot = Snapshot()
    for fingerprint, *about in connection.execute(_columns("metadata")):
        if known := readable("token's metadata", reading.metadata, *about):
            snapshot.metadata[fingerprint] = known
    for name, fingerprint, *about in connection.execute(_columns("records")):
        if fingerprint != GONE and (record := readable("record", reading.record, fingerprint, *about)):
            snapshot.records[name] = record
    _add_conditions(snapshot, connection.execute(_columns("conditions")))
    _add_notes(snapshot, connection.execute(_columns("notes")))
    for fingerprint, known in snapshot.metadata.items():
        email = email_of(snapshot.notes.get((EMAIL, fingerprint), {}).get("email"))
        snapshot.metadata[fingerprint] = replace(known, email=email)
    snapshot.logins = login_rows(connection, -1)
    snapshot.spent = spent_since(connection, now, -math.inf, "")
    return snapshot


def written_since(connection: Connection, since: int, writer: str) -> Snapshot:
    """Return the news that others than ``writer`` had after a revision."""

    def of(name: str) -> Select[Any]:
        table = schema.tables[name]
        return _columns(name).where(table.c.revision > since, table.c.writer != writer)

    snapshot = Snapshot()
    _add_sessions(snapshot, connection.execute(of("sessions").where(sessions.c.moves > 0)))
    _add_conditions(snapshot, connection.execute(of("conditions")))
    _add_notes(snapshot, connection.execute(of("notes")))
    snapshot.logins = login_rows(connection, since)
    return snapshot


def add_sessions(snapshot: Snapshot, connection: Connection, now: float) -> None:
    """Add all sessions that are not too old."""
    # As in `Store._aging_time`, a clock that is ahead makes no session old.
    aged = connection.execute(select(claims.c.at).where(claims.c.case == PRUNED)).scalar()
    aged = aged or connection.execute(select(func.max(sessions.c.at))).scalar() or now
    is_young = sessions.c.at >= min(now, aged) - SESSION_AGE
    latest = _columns("sessions").where(is_young).order_by(sessions.c.at.desc()).limit(MAX_SESSIONS)
    _add_sessions(snapshot, reversed(connection.execute(latest).all()))


def spent_since(connection: Connection, now: float, since: float, writer: str) -> dict[tuple[Account, str], Spent]:
    """Return what others than ``writer`` have written since a time about the days around today."""
    around_today = spent.c.day.between(day_of(now - DAY), day_of(now + DAY))
    asked = _columns("spent").where(around_today, spent.c.writer != writer)
    if since > 0:
        asked = asked.where(spent.c.at >= since)
    found = {}
    for by, *columns in connection.execute(asked):
        account, counted = columns[: len(Account._fields)], columns[len(Account._fields) :]
        found[(Account(*account), by)] = Spent(*counted)
    return found


def _columns(name: str) -> Select[Any]:
    table = schema.tables[name]
    return select(*(table.c[column] for column in COLUMNS[name]))


def _add_sessions(snapshot: Snapshot, found: Iterable[Any]) -> None:
    for session, account_id, user_id, moves in found:
        snapshot.sessions[session] = IdentityKey(account_id, user_id)
        if moves:
            snapshot.moves[session] = moves


def _add_conditions(snapshot: Snapshot, found: Iterable[Any]) -> None:
    for fingerprint, status, *about, at in found:
        if status is None:
            snapshot.dropped[fingerprint] = at
        elif condition := readable(f"condition ({status!r:.40})", reading.condition, status, *about):
            snapshot.conditions[fingerprint] = condition


def _add_notes(snapshot: Snapshot, found: Iterable[Any]) -> None:
    for kind, name, text in found:
        if (note := readable(f"note ({kind!r:.40})", reading.note, text)) is not None:
            snapshot.notes[(kind, name)] = note


def usage(connection: Connection, by: Sequence[str], since: str) -> dict[tuple[str, ...], Spent]:
    """Return the usage since a day (``2026-11-25``, included), grouped ``by`` columns of `spent`, in their order."""
    grouped = [spent.c[name] for name in by]
    sums = [func.sum(spent.c[name]) for name in Spent._fields[:-2]]
    found = connection.execute(
        select(*sums, func.min(spent.c.first_at), func.max(spent.c.last_at), *grouped)
        .where(spent.c.day >= since, spent.c.identity != "")
        .group_by(*grouped)
        .order_by(*grouped)
    )
    return {tuple(row[8:]): Spent._make((*map(int, row[:6]), *row[6:8])) for row in found}
