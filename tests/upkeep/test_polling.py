"""What is read of accounts beside requests: when, for whom, and that no trouble with it harms an identity."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest

from codexpool.common.tasks import Tasks
from codexpool.credentials.account_api import UnreadError
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Selection
from codexpool.pool.states import PoolListener
from codexpool.pool.usage import MAIN, Limit
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.polling import MORE_AT_ONCE, MOST_AT_ONCE, Poller
from codexpool.upkeep.schedule import AT_ONCE, EVERY, PACE
from tests.pool.pools import NOW, RESPONSES, metadata, statuses, unverified, vouch
from tests.timetravel import TimeTravelLoop, time_travel
from tests.upkeep.keepers import Alone

HOUR = 3600.0
OPEN, CLOSED = (UsageReport((FamilyReport(MAIN, (), is_open),)) for is_open in (True, False))


class World(PoolListener):
    """A pool, its poller, and a backend whose answers take ``seconds``."""

    def __init__(self, loop: TimeTravelLoop, *names: str) -> None:
        self.loop, self.seconds = loop, 0.1
        self.says: dict[str, UsageReport | Exception] = {}
        self.asked: list[tuple[float, str]] = []
        self.under_way = self.most_under_way = 0
        self.more: list[str] = []
        self.pool = Pool(self)
        self.tasks = Tasks()
        self.poller = Poller(self.pool, self.tasks, self, self.bearer, lambda key: None, self.read_more, Alone())  # type: ignore[arg-type]
        self.pool.replace_identities(map(unverified, names), Selection.DRAIN_FIRST, NOW)

    async def usage(self, bearer: Bearer, metadata: Metadata) -> UsageReport:
        name = metadata.account_id.removeprefix("account-")
        self.asked.append((time.time() - NOW, name))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        said = self.says.get(name, OPEN)
        if isinstance(said, Exception):
            raise said
        return said

    async def read_more(self, identity: Identity) -> None:
        self.more.append(identity.name)

    def bearer(self, name: str) -> Bearer | None:
        return Bearer.of(f"at-test-{name}")

    def status_changed(self, identity: Identity, before: Condition) -> None:
        self.poller.follow(identity, before)

    # -- what happens

    def begin(self) -> None:
        async def running() -> None:
            self.tasks.spawn(self.poller.run())

        self.do(running())

    def ready(self, *names: str) -> None:
        async def vouched() -> None:
            for name in names:
                vouch(self.pool, name, time.time())

        self.do(vouched())

    def limit(self, *names: str) -> None:
        """Have answers report a limit, a second ago."""
        for name in names:
            evidence = Evidence(time.time(), fingerprint=self.pool.identities[name].fingerprint)
            self.pool.states.limited(name, metadata(name).key, Limit(resets_in=5 * 86_400.0), evidence)
        self.passes(1)

    def passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def look(self, clients: int = 1) -> list[float]:
        """Have clients look at all limited identities at once. Return the seconds that each waits."""
        request = Asked("s", RESPONSES)

        async def one() -> float:
            begun = time.time()
            identities = self.pool.worth_a_look(request, begun)
            await self.poller.look(identities, lambda: self.pool.can_serve(request, time.time()), 3.0)
            return time.time() - begun

        async def all_of_them() -> list[float]:
            return await asyncio.gather(*(one() for _ in range(clients)))

        found: list[float] = self.do(all_of_them())
        return found

    @property
    def reads(self) -> Counter[str]:
        return Counter(name for _, name in self.asked)


@pytest.fixture
def loop() -> Iterator[TimeTravelLoop]:
    with time_travel(NOW) as made:
        yield made


@pytest.fixture
def world(loop: TimeTravelLoop) -> World:
    made = World(loop, "a", "b")
    made.begin()
    return made


def test_each_identity_is_read_when_it_becomes_ready_and_then_only_while_in_use(world: World) -> None:
    world.ready("a", "b")
    world.passes(5)
    assert world.reads == {"a": 1, "b": 1}

    for _ in range(5):
        world.poller.used(metadata("a").key)
        world.passes(EVERY)

    assert 4 <= world.reads["a"] <= 7
    assert world.reads["b"] == 1
    assert world.more.count("a") == world.reads["a"]


def test_a_limited_identity_is_read_after_a_minute_and_every_half_hour(world: World) -> None:
    world.ready("a")
    world.passes(5)
    world.limit("a")
    world.says["a"] = CLOSED

    world.passes(100)
    assert world.reads["a"] == 2
    world.passes(2 * EVERY * 1.2)
    assert 4 <= world.reads["a"] <= 5

    world.says["a"] = OPEN
    world.passes(EVERY * 1.25)
    assert statuses(world.pool)["a"] == Status.READY


TROUBLES: list[Exception] = [
    UnreadError("wham/usage answers 401"),
    UnreadError("wham/usage cannot be reached (no whole answer within 10 s)"),
    UnreadError("wham/usage answers 429", retry_after=1e9),
    RuntimeError("a bug"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_reading_that_fails_changes_no_status_and_is_repeated(
    world: World, trouble: Exception, is_limited: bool
) -> None:
    world.says["a"] = trouble
    world.ready("a")
    if is_limited:
        world.limit("a")
    before = statuses(world.pool)["a"]
    world.passes(5)
    assert statuses(world.pool)["a"] == before

    world.says["a"] = CLOSED
    for _ in range(4):
        world.poller.used(metadata("a").key)
        world.passes(EVERY)

    assert world.reads["a"] >= 2
    assert statuses(world.pool)["a"] == Status.LIMITED


def test_an_identity_that_was_paused_or_removed_meanwhile_is_not_read(world: World) -> None:
    world.ready("a", "b")
    world.passes(5)
    for name in "ab":
        world.poller.used(metadata(name).key)
    world.pool.states.workspace_closed("a", Evidence(time.time(), fingerprint=world.pool.identities["a"].fingerprint))
    world.pool.replace_identities([world.pool.identities["a"]], Selection.DRAIN_FIRST, time.time())
    world.poller.keep()

    world.passes(3 * EVERY)

    assert world.reads == {"a": 1, "b": 1}


def test_an_identity_removed_during_its_reading_leaves_no_trace(world: World) -> None:
    world.says["a"] = CLOSED
    world.ready("a", "b")
    world.passes(0.05)
    world.pool.replace_identities([world.pool.identities["b"]], Selection.DRAIN_FIRST, time.time())
    world.poller.keep()

    world.passes(5)

    assert statuses(world.pool) == {"b": Status.READY}


def test_two_tokens_of_one_account_are_one_reading(loop: TimeTravelLoop) -> None:
    world = World(loop, "a", "twin")
    world.begin()
    world.ready("a")
    vouch(world.pool, "twin", NOW, who="a")

    world.passes(10)

    assert world.reads == {"a": 1}


def test_what_another_proxy_has_read_is_not_read_again(world: World) -> None:
    world.ready("a")
    world.passes(5)
    world.poller.used(metadata("a").key)
    usage = world.pool.states.usage(metadata("a").key)

    for _ in range(6):
        world.passes(EVERY / 2)
        usage.take({"read_at": time.time(), "windows": []}, time.time())
        world.poller.used(metadata("a").key)

    assert world.reads["a"] == 1


def test_a_clock_that_is_set_back_stops_nothing(world: World) -> None:
    world.ready("a")
    world.passes(5)
    world.limit("a")
    world.says["a"] = CLOSED

    def set_back() -> float:
        return world.loop.now - 10 * HOUR

    with mock.patch.object(time, "time", set_back):
        world.passes(2 * HOUR)

    assert world.reads["a"] >= 3


# -- before an identity serves


def first(world: World, name: str) -> float:
    begun = time.time()
    world.do(world.poller.first(name, Bearer.of(f"at-test-{name}"), metadata(name)))
    return time.time() - begun


def test_the_first_reading_limits_a_drained_identity_before_it_is_ready(world: World) -> None:
    world.says["a"] = UsageReport((FamilyReport(MAIN, (Gauge(MAIN, 300, 100, NOW + HOUR),), False),))

    assert first(world, "a") < 0.2
    world.ready("a")

    assert statuses(world.pool)["a"] == Status.LIMITED
    world.passes(5)
    assert world.reads["a"] == 1


def test_a_start_waits_for_the_first_reading_for_a_moment_only(world: World) -> None:
    world.seconds = 9.0

    assert first(world, "a") == pytest.approx(1.5)
    world.ready("a")
    assert world.pool.identities["a"].is_unread(time.time())
    world.passes(10)

    assert not world.pool.identities["a"].is_unread(time.time())


def test_a_first_reading_that_fails_delays_nothing(world: World) -> None:
    world.says["a"] = UnreadError("wham/usage answers 500")

    assert first(world, "a") < 0.2
    world.ready("a")

    assert world.pool.unread_pause(Asked("s", RESPONSES), time.time()) == 0


def test_a_thousand_identities_begin_at_the_pace_of_the_schedule(loop: TimeTravelLoop) -> None:
    names = [f"n{number}" for number in range(1_000)]
    world = World(loop, *names)
    world.begin()

    async def verified(name: str) -> None:
        await world.poller.first(name, Bearer.of(f"at-test-{name}"), metadata(name))
        vouch(world.pool, name, time.time())

    async def all_of_them() -> None:
        await asyncio.gather(*map(verified, names))

    world.do(all_of_them())
    assert len(world.asked) == AT_ONCE
    known = [i.name for i in world.pool.identities.values() if not i.is_unread(time.time())]
    chosen = {getattr(world.pool.choose(Asked(f"s{n}", RESPONSES), time.time()), "name", "") for n in range(20)}
    assert chosen <= set(known)
    world.passes(1_000 * PACE + 10)

    by_second = Counter(int(at) for at, _ in world.asked)
    assert max(by_second.values()) <= AT_ONCE + 1 / PACE
    assert world.most_under_way <= AT_ONCE
    assert len(world.reads) == 1_000


# -- while clients wait


def test_clients_that_wait_share_one_look_and_go_on_when_one_identity_can_serve(world: World) -> None:
    world.ready("a", "b")
    world.passes(100)
    world.limit("a", "b")
    world.says["a"] = CLOSED
    before = world.reads

    waited = world.look(clients=20)

    assert max(waited) < 0.2
    assert world.reads - before == {"a": 1, "b": 1}
    assert statuses(world.pool) == {"a": Status.LIMITED, "b": Status.READY}


def test_a_look_ends_after_its_time_although_the_backend_hangs(world: World) -> None:
    world.ready("a")
    world.passes(100)
    world.limit("a")
    world.seconds = 9.0

    assert world.look() == [pytest.approx(3.0)]
    world.passes(10)
    assert statuses(world.pool)["a"] == Status.READY


def test_while_all_stay_limited_each_is_asked_once_a_minute(world: World) -> None:
    world.says = {"a": CLOSED, "b": CLOSED}
    world.ready("a", "b")
    world.passes(100)
    before = len(world.asked)
    for _ in range(300):
        world.look(clients=3)
        world.passes(1)

    for name in "ab":
        times = [at for at, asked in world.asked[before:] if asked == name]
        assert len(times) >= 4
        assert min(later - at for at, later in pairwise(times)) >= 60


def test_a_limit_that_a_reading_has_found_can_be_looked_at_at_once(world: World) -> None:
    """Once: it may have been lifted since the start."""
    world.says["a"] = CLOSED
    first(world, "a")
    world.ready("a")
    world.look()
    assert world.reads["a"] == 2

    world.look()
    assert world.reads["a"] == 2


def test_lists_of_models_that_are_slow_keep_no_look_waiting(loop: TimeTravelLoop) -> None:
    names = [f"n{number}" for number in range(200)]
    world = World(loop, *names)

    async def hangs(identity: Identity) -> None:
        world.more.append(identity.name)
        await asyncio.sleep(HOUR)

    world.poller = Poller(world.pool, world.tasks, world, world.bearer, lambda key: None, hangs, Alone())  # type: ignore[arg-type]
    world.begin()
    world.ready(*names)
    world.passes(100)
    world.limit(*names)

    assert world.look() == [pytest.approx(world.seconds)]
    assert len(world.more) == MORE_AT_ONCE


def test_a_look_at_many_identities_is_bounded_and_covers_them_in_turn(loop: TimeTravelLoop) -> None:
    names = [f"n{number}" for number in range(150)]
    world = World(loop, *names)
    world.ready(*names)
    world.limit(*names)
    world.says = dict.fromkeys(names, CLOSED)

    world.look()
    assert world.most_under_way <= MOST_AT_ONCE
    assert len(world.asked) == 100
    world.look()

    assert len(world.reads) == 150


class Another(Alone):
    """Another proxy, which is asking already, and tells after so many seconds; ``tells`` is what it has learned."""

    def __init__(self, seconds: float, tells: Callable[[], object]) -> None:
        self.seconds, self.tells = seconds, tells

    async def is_to_ask(self, question: str) -> bool:
        return False

    async def news(self) -> None:
        await asyncio.sleep(self.seconds)
        self.tells()


def test_what_another_proxy_reads_at_this_moment_is_not_read(loop: TimeTravelLoop) -> None:
    world = World(loop, "a")
    usage = world.pool.states.usage(metadata("a").key)
    world.poller._others = Another(0.5, lambda: usage.read(OPEN, time.time(), time.time()))
    world.begin()
    world.ready("a")

    world.passes(10)

    assert world.asked == []
    assert world.more == ["a"]


def test_a_reading_that_another_proxy_owes_is_made_here(loop: TimeTravelLoop) -> None:
    """It was killed, or its reading has failed."""
    world = World(loop, "a")
    world.poller._others = Another(0.5, lambda: None)
    world.begin()
    world.ready("a")

    world.passes(10)

    assert [name for _, name in world.asked] == ["a"]
