"""The claims of proxies to the bounds of members and of the pool, and the exchange that changes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, and_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from codexpool.members.shares import Answer, Ask, Claim, Kind, Settled, Standing, Subject, settle
from codexpool.state import UnavailableError
from codexpool.state.clock import now
from codexpool.state.fleet import DEAD_AFTER
from codexpool.state.schema import leases, proxies, spent

WAITING_FOR: Final = 3.0  # Seconds after which a proxy that said that turns wait no longer has slots reserved.
LOCK: Final = ""  # The writer of the row that an exchange locks.
COUNTED: Final = ("slots", "used", "waiting", "weight", "finish")  # What a row has of a `Claim`.


def exchange(connection: Connection, holder: str, pool: str, asks: Sequence[Ask]) -> dict[Subject, Answer]:
    """Tell what a proxy keeps and wants of some bounds of a pool, and return what it gets.

    Raises UnavailableError if the proxy has no row in `proxies`: its leases would not end with it.
    """
    subjects = [ask.subject for ask in asks]
    clocks = _lock(connection, pool, subjects)
    claims = _claims(connection, pool, subjects)  # Before the own heartbeat: it may be too late for its leases.
    beaten = connection.execute(update(proxies).where(proxies.c.writer == holder).values(at=now()))
    if not beaten.rowcount:
        raise UnavailableError("this proxy has not sent a heartbeat yet", "wait a second")
    begun = _begun(connection, pool, subjects)
    found = {
        subject: Standing(clocks[str(subject)], claims.get(str(subject), ()), begun.get(str(subject), {}))
        for subject in subjects
    }
    settled = settle(holder, asks, found)
    _write(connection, pool, settled)
    return {subject: outcome.answer for subject, outcome in settled.items()}


def _lock(connection: Connection, pool: str, subjects: Iterable[Subject]) -> dict[str, float]:
    """Lock some bounds until the end of the transaction, in one order everywhere, and return their clocks."""
    if not (names := sorted(map(str, subjects))):
        return {}
    rows = [_row(pool, name, Claim(LOCK)) for name in names]
    locked = _upsert(connection.dialect.name, ("writer",)).returning(leases.c.subject, leases.c.finish)
    return {row.subject: row.finish for row in connection.execute(locked, rows)}


def _claims(connection: Connection, pool: str, subjects: Iterable[Subject]) -> dict[str, list[Claim]]:
    """Return the claims of the proxies that are alive, by bound."""
    found = connection.execute(
        select(leases, (leases.c.at > now() - WAITING_FOR).label("is_new"))
        .join(proxies, and_(proxies.c.writer == leases.c.writer, proxies.c.at > now() - DEAD_AFTER))
        .where(leases.c.pool == pool, leases.c.subject.in_(list(map(str, subjects))))
    )
    claims: dict[str, list[Claim]] = {}
    for row in found:
        waiting = row.waiting if row.is_new else 0
        claim = Claim(row.writer, row.slots, row.used, waiting, row.weight, row.finish)
        claims.setdefault(row.subject, []).append(claim)
    return claims


def _begun(connection: Connection, pool: str, subjects: Iterable[Subject]) -> dict[str, dict[str, int]]:
    """Return the turns that each proxy has begun, by bound of a day."""
    days = {(subject.day, subject.member): str(subject) for subject in subjects if subject.kind is Kind.DAY}
    if not days:
        return {}
    found = connection.execute(
        select(spent.c.day, spent.c.member, spent.c.writer, spent.c.turns).where(
            spent.c.pool == pool,
            spent.c.day.in_({day for day, _ in days}),
            spent.c.member.in_({member for _, member in days}),
            spent.c.identity == "",
        )
    )
    begun: dict[str, dict[str, int]] = {}
    for day, member, writer, turns in found:
        if (name := days.get((day, member))) is not None:
            begun.setdefault(name, {})[writer] = turns
    return begun


def _write(connection: Connection, pool: str, settled: dict[Subject, Settled]) -> None:
    rows = []
    for subject, outcome in settled.items():
        rows.append(_row(pool, str(subject), outcome.claim))
        rows.append(_row(pool, str(subject), Claim(LOCK, finish=outcome.clock)))
    if rows:
        connection.execute(_upsert(connection.dialect.name, (*COUNTED, "at")), rows)


def _row(pool: str, subject: str, claim: Claim) -> dict[str, Any]:
    counted = {name: getattr(claim, name) for name in COUNTED}
    return {"pool": pool, "subject": subject, "writer": claim.holder, **counted}


@cache
def _upsert(dialect: str, columns: tuple[str, ...]) -> Any:
    """Return the statement that inserts rows, and updates these columns of those that exist."""
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(leases).values(at=now())
    return insert.on_conflict_do_update(
        index_elements=["pool", "subject", "writer"], set_={name: insert.excluded[name] for name in columns}
    )
