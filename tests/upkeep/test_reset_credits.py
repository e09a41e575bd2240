"""After a person has spent a reset credit: what was limited serves, and the backend's old numbers limit nobody."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from codexpool.common.tasks import Tasks
from codexpool.credentials.account_api import UnreadError
from codexpool.pool.exclusions import Exclusion, Kind, subjects
from codexpool.pool.identity import Evidence, Identity, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.usage import MAIN, SETTLES, Limit, ResetCredits, Window
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.reset_credits import Credit, Credits
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.state import Snapshot
from codexpool.state.notes import RESET, USAGE
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.news import apply
from codexpool.upkeep.polling import Poller
from tests.pool.pools import NOW, Changes, metadata, ready_pool, statuses
from tests.upkeep.keepers import Alone

POOL = "/p/pool.toml"
HOUR = 3600.0
DRAINED = UsageReport((FamilyReport(MAIN, (Gauge(MAIN, 300, 100.0, NOW + HOUR),), False),))


class Heard(Changes):
    """Whose usage is to be read, and whose exclusions have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.subjects: list[str] = []

    def limits_reset(self, identity: Identity) -> None:
        self.read.append(identity.name)

    def exclusions_changed(self, subject: str) -> None:
        self.subjects.append(subject)


def limit(pool: Pool, name: str, at: float) -> None:
    evidence = Evidence(at, status=429, fingerprint=pool.identities[name].fingerprint)
    pool.states.usage(metadata(name).key).see(Window(MAIN, 300, 100.0, at + HOUR, at))
    pool.states.limited(name, metadata(name).key, Limit(MAIN, at + HOUR), evidence)


def note(name: str, at: float) -> Snapshot:
    return Snapshot(notes={(RESET, json.dumps(metadata(name).key)): {"at": at}})


def test_a_running_proxy_hears_of_a_reset_and_reads_the_usage_again() -> None:
    heard, now = Heard(), time.time()
    pool = ready_pool("a", "b", changes=heard)
    limit(pool, "a", now - 60)
    limit(pool, "b", now - 60)
    identity = pool.identities["a"]
    owner = subjects(identity.fingerprint, identity.metadata).owner
    pool.exclusions.add(Exclusion(Kind.LIMIT, owner, "gpt-x", now - 60, now + HOUR, "429", is_limit=True))

    apply(pool, note("a", now - 1), POOL)

    assert statuses(pool) == {"a": Status.READY, "b": Status.LIMITED}
    usage = pool.states.usage(metadata("a").key)
    assert (usage.windows, usage.limited) == ({}, {})
    assert pool.exclusions.of(identity, now) == []
    assert (heard.read, heard.subjects) == (["a"], [owner])


def test_a_limit_met_after_the_reset_stays() -> None:
    """As does what a note of an earlier reset finds at the next start."""
    pool, now = ready_pool("a"), time.time()
    limit(pool, "a", now - 5)

    apply(pool, note("a", now - 60), POOL)

    assert statuses(pool) == {"a": Status.LIMITED}
    assert pool.states.usage(metadata("a").key).windows


def test_the_note_of_a_reset_and_the_usage_of_before_may_come_in_any_order() -> None:
    now = time.time()
    before = ready_pool("a")
    limit(before, "a", now - 60)
    usage = json.loads(json.dumps(before.states.usage(metadata("a").key).document()))
    notes = {(USAGE, json.dumps(metadata("a").key)): usage, **note("a", now - 1).notes}
    for order in (notes, dict(reversed(notes.items()))):
        pool = ready_pool("a")

        apply(pool, Snapshot(notes=order), POOL)

        assert statuses(pool) == {"a": Status.READY}


@pytest.mark.parametrize("odd", [{}, {"at": None}, {"at": "x"}, {"at": 9e12}, {"request": "r", "at": None}])
def test_a_note_without_a_reset_changes_nothing(odd: dict[str, object]) -> None:
    pool, now = ready_pool("a"), time.time()
    limit(pool, "a", now - 5)

    apply(pool, Snapshot(notes={(RESET, json.dumps(metadata("a").key)): odd}), POOL)

    assert statuses(pool) == {"a": Status.LIMITED}


def test_numbers_of_before_the_reset_limit_nobody_for_a_while() -> None:
    pool = ready_pool("a")
    key, usage = metadata("a").key, pool.states.usage(metadata("a").key)
    pool.was_reset(key, NOW, NOW)

    pool.usage_read(key, DRAINED, NOW + 60, NOW + 61)
    assert statuses(pool) == {"a": Status.READY}
    assert (usage.windows, usage.limited) == ({}, {})

    limit(pool, "a", NOW + 90)  # A refused turn is believed at once.
    assert statuses(pool) == {"a": Status.LIMITED}
    pool.usage_read(key, DRAINED, NOW + 120, NOW + 121)
    assert statuses(pool) == {"a": Status.LIMITED}

    pool.was_reset(key, NOW + 200, NOW + 200)
    pool.usage_read(key, DRAINED, NOW + 200 + SETTLES, NOW + 201 + SETTLES)
    assert statuses(pool) == {"a": Status.LIMITED}


# -- the poller


class Account:
    """Has credits, as ``listed`` says; counts what it is asked."""

    def __init__(self, available: int, listed: Credits | UnreadError) -> None:
        self.available, self.listed = available, listed
        self.lists = 0

    async def usage(self, bearer: Bearer, metadata: Metadata) -> UsageReport:
        return UsageReport((), reset_credits=self.available)

    async def reset_credits(self, bearer: Bearer, metadata: Metadata) -> Credits:
        self.lists += 1
        if isinstance(self.listed, UnreadError):
            raise self.listed
        return self.listed


async def no_more(identity: Identity) -> None: ...


async def read(pool: Pool, account: Account, times: int = 1) -> ResetCredits | None:
    """Read the usage of ``a`` so often. Return what is known then."""
    tasks, bearer = Tasks(), Bearer.of("at-test-a")
    api: Any = account
    poller = Poller(pool, tasks, api, lambda name: bearer, lambda key: None, no_more, Alone())
    usage = pool.states.usage(metadata("a").key)
    for _ in range(times):
        usage.asked_at = usage.read_at = 0.0
        await poller.first("a", bearer, metadata("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    tasks.stop()
    return usage.credits


async def test_credits_are_listed_once_and_not_with_every_reading() -> None:
    account = Account(2, Credits(2, (Credit("c", NOW + HOUR * 1e6, ""),)))

    known = await read(ready_pool("a"), account, times=3)

    assert known is not None
    assert (known.available, known.expires_at, known.is_listed) == (2, NOW + HOUR * 1e6, True)
    assert account.lists == 1


async def test_without_credits_no_list_is_asked_for() -> None:
    account = Account(0, Credits(0, ()))

    known = await read(ready_pool("a"), account)

    assert known is not None
    assert (known.available, account.lists) == (0, 0)


async def test_a_list_that_cannot_be_read_is_asked_for_again() -> None:
    account = Account(2, UnreadError("503"))

    known = await read(ready_pool("a"), account, times=2)

    assert known is not None
    assert (known.available, known.expires_at, account.lists) == (2, None, 2)
