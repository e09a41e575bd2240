"""The state in a database: what both engines share."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Select, and_, delete, func, or_, select, update

from codexpool.members.ledger import DAY, Account, Spent, day_of
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.pool.pins import KEPT as PINS_KEPT
from codexpool.state import GONE, MAX_SESSIONS, Record, Row, Snapshot, State, StateError
from codexpool.state.database import Database
from codexpool.state.logins import login_rows
from codexpool.state.schema import claims, conditions, leases, metadata, notes, revision, sessions, spent
from codexpool.state.writer import Writer

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

COLUMNS: Final = {  # What is read of each table, in this order.
    "sessions": ("session", "account_id", "user_id", "moves"),
    "metadata": ("fingerprint", "account_id", "user_id", "plan", "fedramp", "origin", "routing_override"),
    "conditions": ("fingerprint", "status", "since", "until", "evidence"),
    "records": ("name", "fingerprint", "account_id", "user_id", "used_at"),
    "notes": ("kind", "name", "note"),
    "spent": ("writer", *Account._fields, *Spent._fields),
}

_EVIDENCE_FIELDS = {field.name for field in fields(Evidence)}


class Store(State):
    """An error of the engine is logged once, and new data stays in memory until it can be written."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Connect to the database, whose tables are made if they are missing. Raises StateError."""
        super().__init__(clock)
        self._database = database
        self._reading = threading.Lock()
        self._seen: tuple[str, int] = ("", 0)  # The epoch and revision that were last read.
        self._failing = False
        self._closed = False
        self._pruned_at: float | None = None  # When this process last pruned, on the monotonic clock.
        database.open()
        self._writer = Writer(database, self._prune)
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
        claim = self._database.insert(claims).values(case=case, at=at).on_conflict_do_nothing()
        try:
            return self.transact(lambda connection: connection.execute(claim).rowcount) == 1
        except StateError as error:
            logger.warning("state: %s", error)
            self.put_claim(case, at)
            return True

    def load(self) -> Snapshot:
        with self._reading:
            return self._read(is_all=True)

    def changes(self, wait: float = 0) -> Snapshot:
        end = time.monotonic() + wait
        while (news := self._changes()) == Snapshot() and (rest := end - time.monotonic()) > 0 and not self._closed:
            self._database.wait(rest, self.name)
        return news

    def _changes(self) -> Snapshot:
        # An unwritten row of ours will replace what others wrote before it: that is not news.
        ours = self._writer.unwritten()
        with self._reading:
            news = self._read(is_all=False)
        for table, key in ours | self._writer.unwritten():
            if table not in ("spent", "claims"):
                getattr(news, table).pop(key, None)
        return news

    def look_up(self, sessions: Collection[str]) -> dict[str, tuple[IdentityKey, int]]:
        with self._database.reading() as connection:
            return bindings(connection, sessions)

    def transact(self, work: Callable[[Connection], T]) -> T:
        with self._database.writing() as connection:
            return work(connection)

    def scope(self, pool_toml: Path) -> str:
        return self._database.scope(pool_toml)

    def close(self) -> bool:
        is_written = self._writer.close(CLOSE_TIMEOUT)
        if not is_written:
            logger.warning("state: not all data could be written to %s", self._database.name)
        self._database.stop_waiting()
        with self._reading:
            self._closed = True
            self._database.close()
        return is_written

    def _read(self, is_all: bool) -> Snapshot:
        """Return all there is, or what others wrote since the last reading."""
        if self._closed:
            return Snapshot()
        lost = set() if is_all else self._writer.take_lost()
        try:
            with self._database.reading() as connection:
                seen = self._revision(connection)
                is_same = seen[0] == self._seen[0] and seen[1] >= self._seen[1]  # Not another database, or a backup.
                if is_all:
                    snapshot = rows(connection, self._clock())
                elif seen == self._seen:
                    snapshot = Snapshot()
                else:
                    since = self._seen[1] if is_same else -1
                    snapshot = rows(connection, self._clock(), since=since, except_writer=self.name)
                for session, (key, moves) in bindings(connection, lost).items():
                    snapshot.sessions[session] = key
                    if moves:
                        snapshot.moves[session] = moves
        except StateError as error:
            if not self._failing:
                self._failing = True
                logger.warning("state: %s", error)
            return Snapshot()
        self._seen, self._failing = seen, False
        return snapshot

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
        clock, passed = self._clock() + self.offset, time.monotonic()
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
    if not names:
        return {}
    columns = (sessions.c.session, sessions.c.account_id, sessions.c.user_id, sessions.c.moves)
    found = connection.execute(select(*columns).where(sessions.c.session.in_(names)))
    return {session: (IdentityKey(account_id, user_id), moves) for session, account_id, user_id, moves in found}


def rows(connection: Connection, now: float, *, since: int = -1, except_writer: str = "") -> Snapshot:
    """Return what was written after a revision, except by one writer, as of the unix second ``now``."""

    def of(name: str) -> Select[Any]:
        table = spent.metadata.tables[name]
        columns = [table.c[column] for column in COLUMNS[name]]
        return select(*columns).where(table.c.revision > since, table.c.writer != except_writer)

    snapshot = Snapshot()
    # As in `Store._aging_time`, a clock that is ahead makes no session old.
    aged = connection.execute(select(claims.c.at).where(claims.c.case == PRUNED)).scalar()
    aged = aged or connection.execute(select(func.max(sessions.c.at))).scalar() or now
    is_young = sessions.c.at >= min(now, aged) - SESSION_AGE
    latest = of("sessions").where(is_young).order_by(sessions.c.at.desc()).limit(MAX_SESSIONS)
    for session, account_id, user_id, moves in reversed(connection.execute(latest).all()):
        snapshot.sessions[session] = IdentityKey(account_id, user_id)
        if moves:
            snapshot.moves[session] = moves
    for fingerprint, *about in connection.execute(of("metadata")):
        snapshot.metadata[fingerprint] = Metadata(*about)
    for fingerprint, status, begun, until, evidence in connection.execute(of("conditions")):
        if status is not None and (condition := _condition(status, begun, until, evidence)):
            snapshot.conditions[fingerprint] = condition
    for name, fingerprint, account_id, user_id, used_at in connection.execute(of("records")):
        if fingerprint != GONE:
            snapshot.records[name] = Record(fingerprint, IdentityKey(account_id, user_id), used_at)
    for kind, name, note in connection.execute(of("notes")):
        with contextlib.suppress(ValueError):
            snapshot.notes[(kind, name)] = json.loads(note)
    snapshot.logins = login_rows(connection, since)
    around_today = spent.c.day.between(day_of(now - DAY), day_of(now + DAY))
    for writer, *columns in connection.execute(of("spent").where(around_today)):
        account, counted = columns[: len(Account._fields)], columns[len(Account._fields) :]
        snapshot.spent[(Account(*account), writer)] = Spent(*counted)
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
