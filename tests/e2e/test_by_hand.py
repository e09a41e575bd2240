"""Identities chosen by hand: named by the client as its user to the proxy, and pinned to a session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from codexpool.state.notes import PINNED, pin_name
from codexpool.state.sqlite import SqliteState
from tests.e2e.world import BACKEND, MODEL, OWN, World, own_headers, served_by, socket_turn
from tests.running import until

OTHER = {"work": "spare", "spare": "work"}


def at(world: World, user: str) -> str:
    """The proxy's URL with a user."""
    return world.proxy.url.replace("://", f"://{user}@")


@contextmanager
def terminal(world: World, user: str) -> Iterator[httpx.Client]:
    """A client whose proxy's URL has this user."""
    with httpx.Client(
        proxy=at(world, user), verify=world.proxy.trust, headers=own_headers(), timeout=30, trust_env=False
    ) as client:
        yield client


def put_pin(world: World, session: str, name: str | None) -> None:
    """Do what `codexpool pin` and `unpin` do."""
    with closing(SqliteState(world.proxy.state)) as state:
        note = {"identity": name, "at": int(time.time())} if name is not None else {}
        state.put_note(PINNED, pin_name(str(world.proxy.pool), session), note)


def is_pinned(world: World, session: str) -> bool:
    with httpx.Client(proxy=world.proxy.url, trust_env=False) as client:
        pins = client.get("http://codex.pool/api/status").json()["pins"]
    return any(pin["session"] == session for pin in pins)


async def socket_of(world: World, user: str, session: str) -> connect:
    headers = {**own_headers(), "thread-id": session}
    url = MODEL.replace("https", "wss")
    return connect(url, proxy=at(world, user), ssl=world.proxy.trust, additional_headers=headers)


async def test_one_session_in_two_terminals_gets_what_each_names(shared: World) -> None:
    world = shared
    with terminal(world, "work") as one, terminal(world, "spare:") as two:
        served = [served_by(world.turn(client, "both")) for client in (one, two, one, two)]
    async with await socket_of(world, "work:", "both") as one, await socket_of(world, "spare:", "both") as two:
        served += [served_by(await socket_turn(socket)) for socket in (one, two, one, two)]

    assert served == ["work", "spare"] * 4
    assert not any(name.lower() == "proxy-authorization" for seen in world.seen for name, _ in seen.headers)
    world.check()


async def test_unknown_name_is_told_and_changes_nothing_else(shared: World) -> None:
    world = shared
    with terminal(world, "wrok") as client:
        refused = world.turn(client, "unknown")
        others = [client.get(BACKEND + "/backend-api/codex/models?client_version=1.2.3"), client.get(OWN)]
    with pytest.raises(InvalidStatus) as upgrade:
        async with await socket_of(world, "wrok:", "unknown"):
            pass

    assert (refused.status_code, refused.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert refused.text.startswith("codexpool: the client asks for wrok (codexpool env --identity), but the pool has")
    assert upgrade.value.response.status_code == 426
    assert [answer.status_code for answer in others] == [200, 200]
    world.check()


async def test_pin_moves_a_session_and_outlives_a_restart(shared: World) -> None:
    world = shared
    async with world.socket("pinned") as socket:
        before = served_by(await socket_turn(socket))
        put_pin(world, "pinned", OTHER[before])
        with pytest.raises(ConnectionClosed):  # An idle one: the client would connect again for its next turn.
            async with asyncio.timeout(10):
                await socket.recv()
    async with world.socket("pinned") as socket:
        assert served_by(await socket_turn(socket)) == OTHER[before]

    world.proxy.stop()
    world.proxy.start()
    world.standin.limit(next(t.token for t in world.tokens if t.name == OTHER[before]), time.time() + 3600)
    with world.proxy.client() as client:
        assert served_by(world.turn(client, "another")) == before
        refused = world.turn(client, "pinned")
        assert refused.status_code == 429
        assert f"this session is pinned to {OTHER[before]} (codexpool unpin)" in refused.text

        put_pin(world, "pinned", None)
        until(lambda: not is_pinned(world, "pinned"), 10, "the end of the pin")
        assert served_by(world.turn(client, "pinned")) == before
