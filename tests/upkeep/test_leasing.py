"""Bounds of several proxies on one state: slots and turns of a day go to who needs them, and a slow state holds no
turn up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, update

from codexpool.members import leases as leases_module
from codexpool.members.ledger import Account, Ledger, Spent, day_of
from codexpool.members.shares import Answer, Ask, Subject
from codexpool.members.turn_queue import Full, Slot, TurnQueue
from codexpool.state import State, UnavailableError
from codexpool.state.clock import now
from codexpool.state.leases import exchange
from codexpool.state.schema import proxies
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep import leasing
from codexpool.upkeep.leasing import Leasing
from tests.state.flushed import flushed
from tests.upkeep.keepers import until

POOL = "pool.toml"
LONG = 60.0  # seconds that no test takes


class Proxy:
    """What a proxy has of bounds: its queue, its ledger, and the state that both are leased from."""

    def __init__(self, state: State, at_once: int | None = None) -> None:
        self.state = state
        self.queue = TurnQueue(at_once)
        self.ledger = Ledger(self._put_spent)
        self.ledger.pool = POOL
        self.exchanges = 0
        self.is_connected = True
        self.before: Callable[[], object] = lambda: None  # What the state does before it answers.
        self.leasing = Leasing(self.queue, self.ledger, self._exchange, lambda: self.is_connected)
        self.task: asyncio.Task[None] | None = None

    def _put_spent(self, account: Account, spent: Spent) -> None:
        self.state.put_spent(account, spent)

    def _exchange(self, asks: Sequence[Ask]) -> dict[Subject, Answer]:
        self.exchanges += 1
        self.before()
        return self.state.transact(lambda connection: exchange(connection, self.state.name, POOL, asks))

    async def begins(self) -> None:
        def beat(connection: Connection) -> None:
            row = {"host": "h", "version": "1", "pid": 1, "since": 0.0, "sessions": 0, "at": now()}
            connection.execute(insert(proxies).values(writer=self.state.name, **row))

        self.state.transact(beat)
        self.task = asyncio.get_running_loop().create_task(self.leasing.run())
        await asyncio.sleep(0)

    async def begun(self, member: str = "ann", own: int | None = None, seconds: float = LONG) -> Slot | Full:
        """A turn gets a slot, as `codexpool.proxy.turns` gets it one."""
        if (slot := self.queue.acquire_now(member, own)) is not None:
            return slot
        return await self.queue.acquire(member, own, seconds, answered=self.leasing.ask())

    async def begins_today(self, most: int) -> bool:
        if (day := await self.leasing.reserve("ann", most)) is None:
            return False
        self.ledger.count_begun("ann", time.time())
        self.leasing.unreserve(day)
        return True

    def is_killed(self) -> None:
        assert self.task is not None
        self.task.cancel()
        died = update(proxies).where(proxies.c.writer == self.state.name).values(at=now() - 60)
        self.state.transact(lambda connection: connection.execute(died))


Make = Callable[..., Proxy]


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Proxies on one state that tell each other in a hundredth of the time."""
    for module, name, seconds in (
        (leasing, "WAIT_POLL", 0.01),
        (leasing, "POLL", 0.01),
        (leasing, "IDLE_POLL", 0.01),
        (leasing, "ANSWER", LONG),  # A busy machine is no slow state.
    ):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(Leasing.ask, "__defaults__", (LONG,))
    with ExitStack() as open_ones:

        def make(at_once: int | None = None) -> Proxy:
            state = SqliteState(tmp_path / "state.sqlite3")
            open_ones.callback(state.close)
            return Proxy(state, at_once)

        yield make


async def test_a_member_has_no_more_turns_at_once_than_its_bound_in_all_proxies(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    assert isinstance(await a.begun(own=2), Slot)
    assert isinstance(await b.begun(own=2), Slot)

    assert await b.begun(own=2, seconds=0.05) == Full(2, is_members=True)


async def test_a_pool_has_no_more_turns_at_once_than_its_bound_in_all_proxies(proxy: Make) -> None:
    a, b = proxy(at_once=1), proxy(at_once=1)
    await a.begins()
    await b.begins()
    assert isinstance(await a.begun("", own=None), Slot)

    assert await b.begun("ann", own=3, seconds=0.05) == Full(1, is_members=False)


async def test_a_turn_that_waits_gets_the_slot_of_one_that_ends_elsewhere(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    slot = await a.begun(own=1)
    waiting = asyncio.create_task(b.begun(own=1))
    await until(lambda: b.queue.has_waiting)
    assert isinstance(slot, Slot)

    slot.release()

    assert isinstance(await waiting, Slot)
    assert a.queue.acquire_now("ann", 1) is None


async def test_a_slot_that_is_idle_elsewhere_goes_to_a_turn_that_waits(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    slot = await a.begun(own=1)
    assert isinstance(slot, Slot)
    slot.release()

    assert isinstance(await b.begun(own=1), Slot)


async def test_the_slots_of_a_killed_proxy_are_free_again(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    await a.begun(own=1)

    a.is_killed()

    assert isinstance(await b.begun(own=1), Slot)


async def test_the_next_turn_of_a_member_costs_no_query(proxy: Make) -> None:
    a = proxy()
    await a.begins()
    slot = await a.begun(own=1)
    assert isinstance(slot, Slot)
    slot.release()
    answers = threading.Event()
    a.before = answers.wait
    try:
        assert isinstance(a.queue.acquire_now("ann", 1), Slot)
    finally:
        answers.set()


async def test_a_member_without_bounds_costs_no_query(proxy: Make) -> None:
    a = proxy()
    await a.begins()
    for _ in range(3):
        slot = await a.begun(own=None)
        assert isinstance(slot, Slot)
        slot.release()
    await asyncio.sleep(0.05)

    assert a.exchanges == 0


async def test_a_proxy_that_has_nothing_leased_asks_nothing(proxy: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "KEEP", 0.02)
    a = proxy()
    await a.begins()
    slot = await a.begun(own=1)
    assert isinstance(slot, Slot)
    slot.release()
    await until(lambda: not a.queue.leases.held)
    before = a.exchanges

    await asyncio.sleep(0.05)

    assert a.exchanges == before


async def test_a_state_that_does_not_answer_holds_no_turn_up(proxy: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "ANSWER", 0.05)
    monkeypatch.setattr(Leasing.ask, "__defaults__", (0.05,))
    a, answers = proxy(), threading.Event()
    a.before = answers.wait
    await a.begins()
    try:
        slots = [await asyncio.wait_for(a.begun(own=2), 10) for _ in range(2)]

        assert all(isinstance(slot, Slot) for slot in slots)
        # The bound counts here, too.
        assert await a.begun(own=2, seconds=0.01) == Full(2, is_members=True)
        assert not a.queue.leases.is_shared
    finally:
        answers.set()


async def test_a_state_out_of_reach_is_not_waited_for(proxy: Make) -> None:
    a = proxy()
    a.is_connected = False
    await a.begins()

    assert isinstance(a.queue.acquire_now("ann", 1) or await a.begun(own=1), Slot)
    assert a.exchanges == 0


async def test_turns_begun_without_the_state_count_when_it_is_back(proxy: Make) -> None:
    a, b = proxy(), proxy()
    a.is_connected = False
    await a.begins()
    await b.begins()
    slots = [await a.begun(own=2), await a.begun(own=2)]
    assert all(isinstance(slot, Slot) for slot in slots)

    a.is_connected = True
    await until(lambda: a.queue.leases.is_shared and a.queue.leases.held)

    assert await b.begun(own=2, seconds=0.05) == Full(2, is_members=True)


async def test_a_failure_leaves_a_proxy_to_its_own_turns_until_the_state_answers_again(
    proxy: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise UnavailableError("the disk is full", "free some space")

    a = proxy()
    a.before = fail
    await a.begins()

    assert isinstance(await a.begun(own=1), Slot)
    a.before = lambda: None
    await until(lambda: a.queue.leases.is_shared and a.queue.leases.held)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# -- turns of a day


async def test_all_proxies_together_begin_as_many_turns_a_day_as_the_bound(proxy: Make) -> None:
    fleet = [proxy(), proxy(), proxy()]
    for one in fleet:
        await one.begins()

    async def begins_all(one: Proxy) -> int:
        count = 0
        while await one.begins_today(most=50):
            count += 1
        return count

    counts = await asyncio.gather(*map(begins_all, fleet))

    assert sum(counts) == 50
    assert all(one.ledger.turns_today("ann", time.time()) == 50 for one in fleet)


async def test_turns_that_a_proxy_has_leased_and_does_not_use_go_to_the_others(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    assert await a.begins_today(most=40)
    (held,) = a.queue.leases.held.values()
    assert held.slots > 1

    begun = 0
    while await b.begins_today(most=40):
        begun += 1

    assert begun == 39


async def test_what_a_killed_proxy_has_begun_counts_and_the_rest_of_its_lease_does_not(proxy: Make) -> None:
    a, b = proxy(), proxy()
    await a.begins()
    await b.begins()
    assert await a.begins_today(most=40)
    assert flushed(a.state, 20)

    a.is_killed()

    begun = 0
    while await b.begins_today(most=40):
        begun += 1

    assert begun == 39


async def test_without_the_state_the_day_is_counted_by_what_is_known(proxy: Make) -> None:
    a = proxy()
    a.ledger.note_elsewhere("ann", day_of(time.time()), 3)
    a.is_connected = False
    await a.begins()

    assert [await a.begins_today(most=5) for _ in range(3)] == [True, True, False]
