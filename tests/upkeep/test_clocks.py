"""Machines whose clocks are minutes apart agree on what each of them has learned, and on when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import Condition, Evidence, Identity, Status, Word
from codexpool.pool.pool import Pool
from codexpool.pool.usage import MAIN, Limit, Usage, Window
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.state import Snapshot
from codexpool.state.notes import BREAKER, NOT_FOR, RESET, RESUMED, USAGE
from codexpool.state.times import moved_snapshot
from codexpool.upkeep.news import apply
from tests.pool.pools import RESPONSES, metadata, unverified, vouch

TRUE = 1_800_000_000.0  # The database's time at which one proxy learns something.
SCOPE = "pool"
KEY = metadata("a").key
TOKEN = unverified("a").fingerprint


@contextmanager
def clock(at: float) -> Iterator[None]:
    with mock.patch("time.time", return_value=at):
        yield


def pool_at(at: float) -> Pool:
    """A pool whose identity was vouched for a minute ago."""
    pool = Pool()
    pool.replace_identities([unverified("a", at=at - 60)], pool.selection, at)
    vouch(pool, "a", at - 60)
    return pool


def said(word: Status, at: float, until: float | None = None, **evidence: Any) -> Snapshot:
    return Snapshot(conditions={TOKEN: Condition(word, at, until, Evidence(at, fingerprint=TOKEN, **evidence))})


def noted(kind: str, name: str, note: dict[str, Any]) -> Snapshot:
    return Snapshot(notes={(kind, name): json.loads(json.dumps(note))})


def read(at: float, allowed: bool) -> Snapshot:
    usage = Usage()
    report = UsageReport((FamilyReport(MAIN, (Gauge(MAIN, 300, 50.0 if allowed else 100.0, at + 600),), allowed),))
    usage.read(report, at, at)
    return noted(USAGE, json.dumps(KEY), usage.document())


def met(at: float) -> Snapshot:
    usage = Usage()
    usage.limit(Limit(MAIN, at + 600), at)
    usage.see(Window(MAIN, 300, 100.0, at + 600, at))
    return noted(USAGE, json.dumps(KEY), usage.document())


def excluded(at: float) -> Snapshot:
    pool = pool_at(at)
    pool.not_for_endpoint("a", RESPONSES, Evidence(at, status=401, fingerprint=TOKEN))
    return noted(NOT_FOR, TOKEN, pool.exclusions.document(TOKEN))


NEWS = {
    "limited": lambda at: said(Status.LIMITED, at, at + 600),
    "paused": lambda at: said(Status.PAUSED, at, status=402),
    "dead": lambda at: said(Status.NEEDS_REPLACEMENT, at, status=401, whoami=Word.REFUSED),
    "well": lambda at: Snapshot(dropped={TOKEN: at}),
    "usage": lambda at: read(at, allowed=True),
    "used up": lambda at: read(at, allowed=False),
    "limit met": met,
    "reset": lambda at: noted(RESET, json.dumps(KEY), {"at": at}),
    "resumed": lambda at: noted(RESUMED, TOKEN, {"at": at}),
    "breaker": lambda at: noted(BREAKER, SCOPE, {"opened_at": at, "until": at + 60, "names": ["x"], "at": at}),
    "breaker closed": lambda at: noted(BREAKER, SCOPE, {"opened_at": None, "until": 0.0, "names": [], "at": at}),
    "not for": excluded,
}
"""What a proxy writes whose clock says ``at``."""


def outcome(written: list[tuple[str, float, float]], offset: float, ends: float) -> list[Any]:
    """Return what a proxy knows after it has read news, in the database's time; ``offset`` is its clock's error.

    ``written`` has the news, when they were learned, and the error of the clock of the proxy that did.
    """
    pool, doubted = pool_at(TRUE + offset), []
    for what, at, theirs in written:
        stored = moved_snapshot(NEWS[what](TRUE + at + theirs), -theirs)
        with clock(TRUE + at + 0.2 + offset):
            applied = apply(pool, moved_snapshot(stored, offset), SCOPE)
        doubted += [bool(applied.doubted), bool(applied.ahead)]
    identity, at = pool.identities["a"], TRUE + ends + offset
    return [doubted, *_known(pool, identity, at, offset)]


def _known(pool: Pool, identity: Identity, at: float, offset: float) -> Iterator[Any]:
    condition, usage, breaker = identity.condition, pool.states.usage(KEY), pool.states.breaker
    yield condition.status
    yield from _moved(offset, condition.since, condition.until, breaker.opened_at, breaker.until, usage.reset_at)
    yield breaker.state(at)
    yield [(e.what, *_moved(offset, e.since, e.until)) for e in pool.exclusions.of(identity, at)]
    yield from _moved(offset, usage.read_at, *usage.limited.values(), *usage.said_at.values(), identity.resumed_at)
    yield [_moved(offset, w.resets_at, w.seen_at) for w in usage.windows.values()]
    yield round(usage.headroom(MAIN, at), 3)


def _moved(offset: float, *times: float | None) -> list[float | None]:
    return [round(time - offset, 3) if time else time for time in times]


CLOCK = st.sampled_from([-300.0, -7.0, 0.0, 300.0])


@pytest.mark.parametrize("what", NEWS)
def test_each_kind_of_news_means_the_same_by_every_clock(what: str) -> None:
    same = outcome([(what, 0.0, 0.0)], 0.0, ends=30.0)

    for theirs in (-300.0, 300.0):
        for ours in (-300.0, 300.0):
            assert outcome([(what, 0.0, theirs)], ours, ends=30.0) == same


@given(
    news=st.lists(st.tuples(st.sampled_from(sorted(NEWS)), st.integers(1, 120), CLOCK), min_size=1, max_size=6),
    ours=CLOCK,
    ends=st.sampled_from([121.0, 599.0, 800.0]),
)
def test_any_news_from_any_machines_mean_the_same_by_every_clock(
    news: list[tuple[str, float, float]], ours: float, ends: float
) -> None:
    in_order = sorted(news, key=lambda one: one[1])
    by_one_clock = [(what, at, 0.0) for what, at, _ in in_order]

    assert outcome(in_order, ours, ends) == outcome(by_one_clock, 0.0, ends)
