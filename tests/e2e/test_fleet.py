"""Two proxies with one PostgreSQL: what an outage of the database costs, under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets import ConnectionClosed

from tests.e2e.world import MODEL, E2EProxy, served_by, socket_turn
from tests.e2e.world import World as OneWorld
from tests.postgres import VARIABLE, Server, binaries
from tests.running import CLIENT, pat, pool_toml, until
from tests.standin import StandIn

pytestmark = pytest.mark.skipif(
    binaries() is None and os.environ.get(VARIABLE) != "required",
    reason="needs PostgreSQL: apt-get install postgresql",
)

OUTAGE = float(os.environ.get("CODEXPOOL_OUTAGE", "3"))
"""Seconds that the database is gone. 30 take longer, and show no more than 3."""

NAMES = ("a", "b", "c", "d")
CONNECT_AGAIN = "websocket_connection_limit_reached"


class Load:
    """Clients in front of a proxy, half of them on sockets, with one new session after another."""

    def __init__(self, world: OneWorld, label: str, clients: int = 4) -> None:
        self.world, self.label, self.clients = world, label, clients
        self.served: dict[str, str] = {}
        """The identity that served a session last."""
        self.turns: Counter[str] = Counter()
        self.failures: list[str] = []
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._client(sockets=number % 2 == 1))

    async def _client(self, sockets: bool) -> None:
        while not self._ended.is_set():
            session = f"{self.label}-{next(self._numbers)}"
            try:
                await (self._socket_session(session) if sockets else self._http_session(session))
            except Exception as error:
                self.failures.append(f"{session}: {error!r}")

    async def _http_session(self, session: str) -> None:
        async with self.world.proxy.async_client() as client:
            for _ in range(3):
                body = {"model": "m", "input": "hello"}
                answer = await client.post(MODEL, json=body, headers={"thread-id": session})
                self._note(session, served_by(answer))

    async def _socket_session(self, session: str) -> None:
        turns = 0
        for _ in range(
            3
        ):  # The socket of a session that moves ends: connect again and repeat the turn, as Codex does.
            with contextlib.suppress(ConnectionClosed):
                async with self.world.socket(session) as socket:
                    while turns < 3:
                        answer = await socket_turn(socket)
                        if answer[-1].get("error", {}).get("code") == CONNECT_AGAIN:
                            break
                        self._note(session, served_by(answer))
                        turns += 1
            if turns == 3:
                return
        raise AssertionError("no socket lasts")

    def _note(self, session: str, name: str) -> None:
        self.turns[name] += 1
        self.served[session] = name


class Pair:
    """Two proxies, one database, one stand-in."""

    def __init__(self, standin: StandIn, database: Server, worlds: list[OneWorld]) -> None:
        self.standin, self.database = standin, database
        self.first, self.second = worlds

    def stored(self) -> set[str]:
        """Return the sessions that the database has."""
        return {session for (session,) in self.database.sql("SELECT session FROM sessions")}

    def serves(self, world: OneWorld, session: str) -> str:
        with world.proxy.client() as client:
            return served_by(world.turn(client, session))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    tokens = tuple(pat(name) for name in NAMES)
    with ExitStack() as stack:
        database = stack.enter_context(Server())
        standin = stack.enter_context(StandIn(tokens, clients=[CLIENT], folder=tmp_path))
        worlds = []
        for name in ("first", "second"):
            environ = {"CODEXPOOL_STATE": database.url()}
            proxy = E2EProxy(standin, tmp_path / name, environ=environ, ready=len(NAMES), door=False)
            pool_toml(proxy.folder, *tokens)
            stack.callback(proxy.end)
            proxy.start(wait=False)
            worlds.append(OneWorld(standin, proxy, tokens))
        for world in worlds:
            world.proxy.listens()
        yield Pair(standin, database, worlds)


@pytest.mark.parametrize("way", ["stopped", "frozen"])
def test_without_the_database_no_turn_fails_and_nothing_is_lost(pair: Pair, way: str) -> None:
    with Load(pair.first, "first") as first, Load(pair.second, "second") as second:
        until(lambda: first.turns.total() > 20 and second.turns.total() > 20, 30, "some turns")
        # given a database that is gone for a while
        (pair.database.stop if way == "stopped" else pair.database.freeze)()
        gone = time.monotonic()
        known = set(first.served) | set(second.served)
        # when a token dies meanwhile, and sessions begin
        pair.standin.kill(pat("a").token)
        until(lambda: "a needs_replacement" in pair.first.proxy.log, 20, "the token's end")
        until(lambda: time.monotonic() > gone + OUTAGE, OUTAGE + 5, "the end of the outage")
        begun = {s: name for s, name in first.served.items() if s not in known and name != "a"}
        (pair.database.start if way == "stopped" else pair.database.thaw)()
        until(lambda: begun.keys() <= pair.stored(), 30, "the sessions to be in the database")
        turns = first.turns.total()
        until(lambda: first.turns.total() > turns + 20, 30, "some more turns")

    # then no turn has failed
    assert first.failures + second.failures == []
    # and the other proxy knows what the first one has learned
    until(lambda: "a needs_replacement" in pair.second.proxy.log, 20, "the word of the token")
    some = list(begun.items())[:10]
    assert len(some) > 3
    for session, name in some:
        assert pair.serves(pair.second, session) == name
    # and every turn was counted
    for world in (pair.first, pair.second):
        world.proxy.stop()
    ((counted,),) = pair.database.sql("SELECT sum(turns) FROM spent WHERE identity <> ''")
    assert counted == first.turns.total() + second.turns.total() + len(some)
