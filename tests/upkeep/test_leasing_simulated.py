"""Hours of several proxies that are killed now and then: the bounds hold, every turn is served, and nothing leaks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest

from codexpool.common import tasks
from codexpool.members.leases import KEEP, Leases
from codexpool.members.ledger import Account, Ledger, Spent
from codexpool.members.shares import Answer, Ask, Kind, Subject
from codexpool.members.turn_queue import Slot, TurnQueue
from codexpool.upkeep.leasing import ANSWER, Leasing
from tests.members.fleet_by_hand import ALIVE, Store
from tests.timetravel import TimeTravelLoop, time_travel

BEGIN = 1_700_000_000.0
OWN = {"a": 1, "b": 2, "c": None}
AT_ONCE, A_DAY, CLIENTS = 3, 60, 3
HOURS = 0.4
LONGEST = 60.0  # seconds of a turn
KILLED_EVERY = 200.0  # seconds, on average


class Proxy:
    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self.queue = TurnQueue(AT_ONCE, Leases(fleet.loop.time))
        self.under_way: Counter[str] = Counter()
        self.ledger = Ledger(self._put_spent)
        self._fleet = fleet
        self.leasing = Leasing(self.queue, self.ledger, self._exchange, lambda: True)
        self.tasks = [asyncio.create_task(self.leasing.run())]

    def _exchange(self, asks: Sequence[Ask]) -> dict[Subject, Answer]:
        return self._fleet.store.exchange(self.name, list(asks))

    def _put_spent(self, account: Account, spent: Spent) -> None:
        if account.is_of_begun:
            day = Subject(Kind.DAY, account.member, account.day)
            self._fleet.store.begun.setdefault(day, {})[self.name] = spent.turns

    async def client(self, member: str, chance: random.Random) -> None:
        """One turn after another; some clients leave while they wait."""
        while True:
            await asyncio.sleep(chance.expovariate(1 / 20))
            turn = asyncio.ensure_future(self.turn(member, chance.uniform(1, LONGEST)))
            try:
                if chance.random() < 0.1:
                    await asyncio.wait((turn,), timeout=chance.uniform(0, 5))
                    turn.cancel()
                await asyncio.wait((turn,))
            finally:
                turn.cancel()
            if not turn.cancelled() and not turn.result():
                return

    async def turn(self, member: str, seconds: float) -> bool:
        day = await self.leasing.reserve(member, A_DAY)
        if day is None:
            return False
        slot = self.queue.acquire_now(member, OWN[member])
        try:
            if slot is None:
                got = await self.queue.acquire(member, OWN[member], 1e6, answered=self.leasing.ask())
                assert isinstance(got, Slot)
                slot = got
            self.ledger.count_begun(member, time.time())
        finally:
            self.leasing.unreserve(day)
        self._fleet.begins(self, member)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.under_way[member] -= 1
            slot.release()
        return True


class Fleet:
    def __init__(self, loop: TimeTravelLoop, seed: int) -> None:
        self.loop, self.store = loop, Store()
        self.chance = random.Random(seed)
        self.begun: Counter[str] = Counter()
        self.proxies: list[Proxy] = []
        self.made = 0

    def starts(self) -> Proxy:
        self.made += 1
        proxy = Proxy(self, f"proxy {self.made}")
        self.proxies.append(proxy)
        for number in range(CLIENTS):
            for member in OWN:
                chance = random.Random(f"{self.made} {number} {member} {self.chance.random()}")
                proxy.tasks.append(asyncio.create_task(proxy.client(member, chance)))
        return proxy

    def begins(self, proxy: Proxy, member: str) -> None:
        """Count a turn that begins, and check the bounds. Turns of a killed proxy ended with it."""
        proxy.under_way[member] += 1
        self.begun[member] += 1
        own = OWN[member]
        assert own is None or sum(one.under_way[member] for one in self.proxies) <= own
        assert sum(one.under_way.total() for one in self.proxies) <= AT_ONCE
        assert self.begun[member] <= A_DAY

    async def is_killed(self, proxy: Proxy) -> None:
        self.proxies.remove(proxy)
        await ended(proxy.tasks)

    async def runs(self) -> None:
        for _ in range(3):
            self.starts()
        while self.loop.time() < BEGIN + HOURS * 3600:
            await asyncio.sleep(self.chance.expovariate(1 / KILLED_EVERY))
            await self.is_killed(self.chance.choice(self.proxies))
            await asyncio.sleep(self.chance.uniform(0, 2 * ALIVE))
            self.starts()

    def in_thread(self) -> Callable[..., Any]:
        async def answered(function: Callable[..., Any], *arguments: Any, daemon: bool = False) -> Any:
            """Take a while both ways. A turn that comes during an exchange waits for the next one, too."""
            await asyncio.sleep(self.chance.uniform(0, ANSWER / 10))
            self.store.now = self.loop.time()
            answer = function(*arguments)
            await asyncio.sleep(self.chance.uniform(0, ANSWER / 10))
            return answer

        return answered

    async def ends(self) -> None:
        """All clients leave; some seconds later the state has no lease."""
        for proxy in self.proxies:
            await ended(proxy.tasks[1:])
        await asyncio.sleep(KEEP + 5)
        for proxy in self.proxies:
            assert not proxy.queue.leases.held
            for subject, claims in self.store.claims.items():
                if (claim := claims.get(proxy.name)) is not None:
                    begun = proxy.ledger.turns_on(subject.day, subject.member)
                    assert (claim.slots, claim.waiting) == (begun if subject.kind is Kind.DAY else 0, 0)
            await ended(proxy.tasks[:1])


async def ended(running: Sequence[asyncio.Task[None]]) -> None:
    """End tasks, and raise what one of them has raised."""
    for task in running:
        task.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


@pytest.mark.parametrize("seed", range(2))
def test_bounds_hold_while_proxies_are_killed_and_nothing_leaks(seed: int) -> None:
    with time_travel(BEGIN) as loop:
        fleet = Fleet(loop, seed)
        with mock.patch.object(tasks, "in_thread", fleet.in_thread()):
            loop.run_until_complete(fleet.runs())
            assert fleet.begun["c"] == A_DAY
            loop.run_until_complete(fleet.ends())
