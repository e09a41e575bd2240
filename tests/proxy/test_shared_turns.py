"""Turns of a member through two proxies with one state: its bounds hold for both of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from codexpool.config.model import MemberSpec
from codexpool.members.register import Member
from codexpool.members.turn_queue import Slot
from codexpool.proxy import turns
from codexpool.proxy.turns import Denied, Turns
from codexpool.state.clock import now
from codexpool.state.fleet import DEAD_AFTER
from codexpool.state.location import SqliteFile
from codexpool.state.schema import proxies
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep import leasing
from codexpool.upkeep.keeper import Keeper
from codexpool.upkeep.leasing import Leasing
from tests.upkeep.keepers import keeper_of, until, write_pool

ANN = MemberSpec("ann", "", 1, turns_at_once=1, turns_a_day=3)


class Proxy:
    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.is_under(ANN)

    def is_under(self, ann: MemberSpec) -> None:
        self.keeper.config = replace(self.keeper.config, members=(ann,))

    @property
    def name(self) -> str:
        return self.keeper.heartbeat.fleet(SqliteFile(Path())).own

    def is_killed(self) -> None:
        """It tells nobody, and writes nothing."""
        self.keeper._tasks.stop()

    async def begins(self) -> Slot | Denied:
        return await Turns().begin(self.keeper, Member(ANN, "", "account", "user", None))

    async def has_a_turn(self) -> Slot:
        slot = await self.begins()
        assert isinstance(slot, Slot)
        return slot


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Proxy, Proxy]]:
    for name in ("POLL", "WAIT_POLL", "IDLE_POLL"):
        monkeypatch.setattr(leasing, name, 0.02)
    for module in (leasing, turns):  # A busy machine is no slow state.
        monkeypatch.setattr(module, "ANSWER", 60.0)
    monkeypatch.setattr(Leasing.ask, "__defaults__", (60.0,))
    path = write_pool(tmp_path, "a")
    with ExitStack() as stack:
        keepers = [stack.enter_context(keeper_of(path, lambda: SqliteState(tmp_path / "state"))) for _ in range(2)]
        for keeper in keepers:
            await until(partial(getattr, keeper.queue.leases, "is_shared"))
        yield Proxy(keepers[0]), Proxy(keepers[1])


async def test_turns_at_once_and_a_day_hold_for_both_proxies(
    fleet: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "ELSEWHERE_PATIENCE", 0.05)
    one, two = fleet
    slot = await one.has_a_turn()

    denied = await two.begins()
    assert isinstance(denied, Denied)
    assert "ann already has 1 turn under way" in denied.message

    # when it ends: a turn at the other proxy waits for its slot, as for one of its own
    monkeypatch.setattr(turns, "ELSEWHERE_PATIENCE", 60.0)
    slot.release()
    (await two.has_a_turn()).release()
    (await one.has_a_turn()).release()
    denied = await two.begins()
    assert isinstance(denied, Denied)
    assert "ann has used today's 3 turns" in denied.message
    assert one.keeper.ledger.turns_today("ann", time.time()) == 3


async def test_a_turn_that_got_no_slot_is_not_counted(
    fleet: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "ELSEWHERE_PATIENCE", 0.01)
    one, two = fleet
    slot = await one.has_a_turn()
    for _ in range(5):
        assert isinstance(await two.begins(), Denied)
    slot.release()
    monkeypatch.setattr(turns, "ELSEWHERE_PATIENCE", 60.0)

    for _ in range(2):
        (await two.has_a_turn()).release()

    assert isinstance(await two.begins(), Denied)


async def test_a_client_that_leaves_while_its_turn_waits_leaves_nothing_behind(
    fleet: tuple[Proxy, Proxy],
) -> None:
    one, two = fleet
    slot = await one.has_a_turn()
    waiting = asyncio.create_task(two.begins())
    await until(lambda: two.keeper.queue.has_waiting)
    waiting.cancel()
    await asyncio.wait((waiting,))
    slot.release()

    assert not two.keeper.queue.has_waiting
    (await one.has_a_turn()).release()
    (await two.has_a_turn()).release()


async def test_a_turn_waits_for_the_slot_of_a_proxy_that_was_killed_until_that_counts_as_dead(
    fleet: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for another turn of its own proxy: its client repeats the turn that the killed one had."""
    monkeypatch.setattr(turns, "OWN_PATIENCE", 0.0)
    one, two = fleet
    await one.has_a_turn()
    repeated = asyncio.create_task(two.has_a_turn())
    await until(lambda: two.keeper.queue.has_waiting)

    silent = update(proxies).where(proxies.c.writer != two.name).values(at=now() - DEAD_AFTER - 1)

    def is_silent() -> bool:  # More than once: an exchange may be under way as it is killed.
        two.keeper._persistence.transact(lambda connection: connection.execute(silent))
        return repeated.done()

    one.is_killed()
    await until(is_silent)

    await repeated
