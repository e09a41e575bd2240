"""However the words of several proxies on one token cross, all of them learn that it is dead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from codexpool.pool.identity import Condition, Evidence, Identity, Status
from codexpool.pool.pool import Pool
from codexpool.pool.states import PoolListener
from codexpool.pool.usage import MAIN, Limit
from codexpool.state import Row, Rows
from codexpool.state.news import next_revision
from codexpool.state.schema import revision, schema
from codexpool.state.store import written_since
from codexpool.state.upserts import upserts
from codexpool.upkeep.news import apply
from tests.pool.pools import NOW, condemn, metadata, unverified, vouch

UPSERTS = upserts(sqlite_insert)
TOKEN = unverified("a").fingerprint


class Proxy(Rows, PoolListener):
    """A proxy whose rows and news wait until a test passes them on."""

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(lambda: self.now)
        self.name, self.connection, self.now, self.seen = name, connection, NOW, 0
        self.unwritten: dict[object, Row] = {}
        self.is_learning = True
        self.pool = Pool(self)
        self.pool.replace_identities([unverified("a", at=NOW - 60)], self.pool.selection, NOW)
        vouch(self.pool, "a", NOW - 60)
        self.is_learning = False

    def put(self, row: Row) -> None:
        self.unwritten[row[:2]] = row

    def status_changed(self, identity: Identity, before: Condition) -> None:
        if not self.is_learning:
            self.put_condition(identity.fingerprint, identity.condition)

    def does(self, what: str, now: float) -> None:
        self.now = now
        match what:
            case "limits":
                evidence = Evidence(now, status=429, fingerprint=TOKEN)
                self.pool.states.limited("a", metadata("a").key, Limit(MAIN, now + 1.5), evidence)
            case "rests":
                self.pool.states.throttled("a", Evidence(now, status=429, fingerprint=TOKEN), 0.5)
            case "returns":
                self.pool.states.return_if_due(self.pool.identities["a"], now)
            case "dies":
                condemn(self.pool, "a", now)
            case "writes":
                self.writes()
            case "reads":
                self.reads(now)

    def writes(self) -> None:
        by_us = {"revision": next_revision(self.connection, self.name), "writer": self.name}
        for row in self.unwritten.values():
            self.connection.execute(UPSERTS[row.table], {**row.values, **by_us})
        self.unwritten.clear()

    def reads(self, now: float) -> None:
        news = written_since(self.connection, self.seen, self.name)
        self.seen = self.connection.execute(revision.select()).one().value
        self.is_learning = True
        with mock.patch("time.time", return_value=now):
            apply(self.pool, news, "pool")
        self.is_learning = False


@contextmanager
def fleet() -> Iterator[Sequence[Proxy]]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        schema.create_all(connection)
        connection.execute(insert(revision).values(value=0, epoch="e"))
        yield [Proxy(name, connection) for name in ("here", "there", "elsewhere")]
    engine.dispose()


STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["limits", "rests", "returns", "writes", "reads"]),
    st.sampled_from([0.0, 0.01, 1.0]),
)


@settings(max_examples=60)
@given(before=st.lists(STEP, max_size=12), dies=st.integers(0, 2), after=st.lists(STEP, max_size=12))
def test_all_proxies_learn_that_a_token_is_dead(
    before: list[tuple[int, str, float]], dies: int, after: list[tuple[int, str, float]]
) -> None:
    now = NOW
    with fleet() as proxies:
        for who, what, seconds in [*before, (dies, "dies", 0.01), *after]:
            now += seconds
            proxies[who].does(what, now)
        for what in ("writes", "reads"):
            for proxy in proxies:
                proxy.does(what, now + 1)

        assert {proxy.pool.identities["a"].status for proxy in proxies} == {Status.NEEDS_REPLACEMENT}
