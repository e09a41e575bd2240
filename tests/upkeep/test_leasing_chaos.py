"""Bounds of a fleet while PostgreSQL hangs, loses connections or ends: turns begin, and the bounds hold again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from codexpool.members.turn_queue import Full, Slot
from codexpool.state.location import Postgres
from codexpool.state.opening import open_state
from codexpool.upkeep import leasing
from codexpool.upkeep.leasing import Leasing
from tests import postgres
from tests.upkeep.keepers import until
from tests.upkeep.test_leasing import Proxy

RECOVERS = 60.0  # seconds, of which few are needed


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server that may be stopped."""
    if postgres.binaries() is None:
        assert os.environ.get(postgres.VARIABLE) != "required"
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with postgres.Server() as server:
        yield server


@pytest.fixture
async def fleet(server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Proxy, Proxy]]:
    for name in ("POLL", "WAIT_POLL", "IDLE_POLL"):
        monkeypatch.setattr(leasing, name, 0.05)
    url = server.new_schema()
    with ExitStack() as stack:
        proxies = []
        for _ in range(2):
            state = open_state(Postgres(url))
            stack.callback(state.close)
            proxies.append(Proxy(state, at_once=3))
            await proxies[-1].begins()
        # A busy machine is no slow state, until a test wants it to be.
        monkeypatch.setattr(leasing, "ANSWER", RECOVERS)
        monkeypatch.setattr(Leasing.ask, "__defaults__", (RECOVERS,))
        yield proxies[0], proxies[1]


def hangs(server: postgres.Server) -> None:
    server.freeze()


def ends(server: postgres.Server) -> None:
    server.stop()


def is_back(server: postgres.Server, how: Callable[[postgres.Server], None]) -> None:
    if how is hangs:
        server.thaw()
    elif how is ends:
        server.start()


async def test_a_lost_connection_lets_no_turn_begin_beyond_the_bound(
    fleet: tuple[Proxy, Proxy], server: postgres.Server
) -> None:
    one, two = fleet
    await one.begun(own=1)

    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'codexpool'")

    assert await two.begun(own=1, seconds=0.01) == Full(1, is_members=True)


@pytest.mark.parametrize("happens", [hangs, ends])
async def test_turns_begin_and_the_bound_holds_again(
    fleet: tuple[Proxy, Proxy],
    server: postgres.Server,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[postgres.Server], None],
) -> None:
    one, two = fleet
    first = [await one.begun(own=2), await one.begun(own=2)]
    assert await two.begun(own=2, seconds=0.01) == Full(2, is_members=True)

    with monkeypatch.context() as patched:
        patched.setattr(leasing, "ANSWER", 0.1)
        patched.setattr(Leasing.ask, "__defaults__", (0.1,))
        await asyncio.to_thread(happens, server)
        try:
            slot = await two.begun(own=2)
            assert isinstance(slot, Slot)
            slot.release()
        finally:
            await asyncio.to_thread(is_back, server, happens)

    await until(lambda: one.queue.leases.is_shared and two.queue.leases.is_shared, RECOVERS)
    await until(lambda: one.queue.leases.held)
    assert await two.begun(own=2, seconds=0.01) == Full(2, is_members=True)
    for slot in first:
        assert isinstance(slot, Slot)
        slot.release()
    slot = await two.begun(own=2)
    assert isinstance(slot, Slot)
    slot.release()
