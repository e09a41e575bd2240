"""A session keeps its identity."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.e2e.conftest import Make
from tests.e2e.world import E2EProxy, World, served_by, socket_turn
from tests.running import pat, pool_toml, until

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'


async def socket_served_by(world: World, session: str) -> str:
    async with world.socket(session) as socket:
        return served_by(await socket_turn(socket))


def test_sessions_keep_their_identity_and_new_ones_spread(shared: World) -> None:
    """Over turns and restarts."""
    world = shared
    with world.proxy.client() as client:
        before = {f"stay-{n}": served_by(world.turn(client, f"stay-{n}")) for n in range(8)}
        assert all(served_by(world.turn(client, session)) == name for session, name in before.items())
    assert set(before.values()) == {"work", "spare"}
    assert min(Counter(before.values()).values()) >= 2

    world.proxy.stop()
    world.proxy.start()
    with world.proxy.client() as client:
        assert {session: served_by(world.turn(client, session)) for session in before} == before


def test_a_session_keeps_its_identity_at_another_proxy(make: Make, tmp_path: Path) -> None:
    """Over both transports; each proxy would give a new session to another identity."""
    work, spare = pat("work"), pat("spare")
    world = make(work, spare, head=DRAIN_FIRST)
    with ExitStack() as stack:
        two = E2EProxy(world.standin, tmp_path / "two", environ={"CODEXPOOL_STATE": str(world.proxy.state)}, ready=2)
        pool_toml(tmp_path / "two", replace(spare), replace(work), head=DRAIN_FIRST)
        stack.callback(two.end)
        two.start()
        one_client, two_client = stack.enter_context(world.proxy.client()), stack.enter_context(two.client())
        elsewhere = World(world.standin, two, world.tokens)

        assert served_by(world.turn(one_client, "of-one")) == "work"
        assert asyncio.run(socket_served_by(elsewhere, "of-one")) == "work"
        assert asyncio.run(socket_served_by(elsewhere, "of-two")) == "spare"
        assert served_by(world.turn(one_client, "of-two")) == "spare"

        # when: the first one moves a session, the second one follows
        world.standin.limit(work.token, time.time() + 3600)
        assert served_by(world.turn(one_client, "of-one")) == "spare"
        until(lambda: served_by(world.turn(two_client, "of-one")) == "spare", 10, "the second proxy to follow")
    world.check()
