"""Sessions of several proxies with one state: the next request is served as the last one was, wherever it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from codexpool.pool import recovery
from codexpool.pool.identity import Asked, IdentityKey
from codexpool.pool.recovery import LookUp, Try, Wait, attempts
from codexpool.state import State
from codexpool.state.location import Location, Postgres, SqliteFile
from codexpool.state.opening import open_state
from codexpool.upkeep import persistence
from codexpool.upkeep.keeper import Keeper
from tests.pool.pools import RESPONSES, bound
from tests.postgres import Server
from tests.upkeep.keepers import Unheard, keeper_of, until, until_ready, write_pool
from tests.upkeep.shared_state import Engine


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "OPEN_PAUSES", (0.05, 0.05))
    monkeypatch.setattr(persistence, "PATIENCE", 0.1)
    monkeypatch.setattr(persistence, "POLL", 0.05)


class Heard(Unheard):
    """Remembers which sessions others have moved."""

    def __init__(self) -> None:
        self.moved: dict[str, IdentityKey] = {}

    def sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None:
        self.moved |= moved


class Fleet:
    """Proxies with a pool.toml each: what they would choose for a new session differs."""

    def __init__(self, folder: Path, stack: ExitStack, open_state: Callable[[], State] | None = None) -> None:
        self.engine = Engine()
        self._open_state = open_state or self.engine.open
        self._folder = folder
        self._stack = stack

    async def proxy(self, *names: str) -> Keeper:
        """Start a proxy that gives new sessions to the first of these."""
        folder = self._folder / "-".join(names)
        folder.mkdir()
        path = write_pool(folder, *names)
        path.write_text('[pool]\nselection = "drain-first"\n' + path.read_text())
        keeper = self._stack.enter_context(keeper_of(path, self._open_state, listener=Heard()))
        await until_ready(keeper)
        return keeper


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


async def turn(keeper: Keeper, session: str, parent: str | None = None) -> str:
    """Take a request of a session to its first attempt; return the name of the identity."""
    steps = attempts(keeper.pool, Asked(session, RESPONSES, parent), time.time, time.monotonic)
    while True:
        match step := next(steps):
            case LookUp(sessions, seconds):
                await keeper.look_up(sessions, seconds)
            case Wait(seconds):
                await keeper.change(seconds)
            case Try(identity):
                return identity.name
            case _:
                raise AssertionError(step)


def moved_by(keeper: Keeper) -> dict[str, IdentityKey]:
    listener = keeper._listener
    assert isinstance(listener, Heard)
    return listener.moved


def key_of(name: str) -> IdentityKey:
    return IdentityKey(f"acc-{name}", f"user-{name}")


async def connected(keeper: Keeper) -> None:
    await until(keeper.pool.sessions.can_be_looked_up)


async def test_the_next_request_is_served_alike_by_another_proxy(fleet: Fleet) -> None:
    """Also by a proxy that is started again, and for the agent that the session has started."""
    one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")

    assert await turn(one, "s") == "a"

    assert await turn(two, "s") == "a"
    assert await turn(two, "child", parent="s") == "a"
    assert await turn(await fleet.proxy("b", "a", "c"), "child") == "a"


async def test_a_known_session_costs_no_query(fleet: Fleet) -> None:
    one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")
    for keeper in (one, two, one, two, one):
        assert await turn(keeper, "s") == "a"
    assert await turn(one, "child", parent="s") == "a"

    assert fleet.engine.queries == [{"s"}, {"s"}, {"child"}]


async def test_a_session_bound_by_two_at_once_has_one_identity_in_the_end(fleet: Fleet) -> None:
    one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")
    fleet.engine.answering.clear()
    at_once = asyncio.gather(turn(one, "s"), turn(two, "s"))
    await until(lambda: len(fleet.engine.queries) == 2)
    fleet.engine.answering.set()
    assert set(await at_once) <= {"a", "b"}

    first = fleet.engine.sessions["s"][0]
    await until(lambda: bound(one.pool, "s") == bound(two.pool, "s") == first)

    assert await turn(one, "s") == await turn(two, "s")


async def test_a_session_moved_by_another_proxy_is_followed(fleet: Fleet) -> None:
    one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")
    assert await turn(one, "s") == await turn(two, "s") == "a"

    one.session_bound("s", one.pool.sessions.bind("s", key_of("b")))

    await until(lambda: moved_by(two) == {"s": key_of("a")})
    assert await turn(two, "s") == "b"


async def test_a_proxy_that_starts_without_the_engine_serves_and_joins_later(fleet: Fleet) -> None:
    fleet.engine.sessions["s"] = key_of("a"), 0
    fleet.engine.is_lost = True
    two = await fleet.proxy("b", "a")
    assert await turn(two, "s") == "b"
    assert await turn(two, "new") == "b"
    assert fleet.engine.queries == []

    fleet.engine.is_lost = False

    await until(lambda: moved_by(two) == {"s": key_of("b")})
    assert await turn(two, "s") == "a"
    assert fleet.engine.sessions == {"s": (key_of("a"), 0), "new": (key_of("b"), 0)}


async def test_an_engine_lost_in_between_is_not_waited_for(fleet: Fleet) -> None:
    one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")
    await connected(one)
    await connected(two)
    assert await turn(one, "s") == "a"
    fleet.engine.is_lost = True

    # while it is lost, a session that is unknown here is bound here
    assert await turn(one, "s") == "a"
    assert await turn(two, "s") == "b"
    assert await turn(two, "new") == "b"
    assert fleet.engine.queries == [{"s"}]

    # then: it is back, and has all that was learned
    fleet.engine.is_lost = False
    await until(lambda: moved_by(two) == {"s": key_of("b")})
    assert await turn(two, "s") == await turn(one, "s") == "a"
    assert await turn(one, "new") == "b"


async def test_a_request_does_not_wait_for_a_slow_engine(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer counts when it comes."""
    monkeypatch.setattr(recovery, "LONGEST_LOOK_UP", 0.05)
    two = await fleet.proxy("b", "a")
    await connected(two)
    fleet.engine.sessions["s"] = key_of("a"), 0
    fleet.engine.answering.clear()

    assert await turn(two, "s") == "b"
    assert not fleet.engine.answering.is_set()

    fleet.engine.answering.set()
    await until(lambda: moved_by(two) == {"s": key_of("b")})
    assert await turn(two, "s") == "a"


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "state.sqlite3")
    return Postgres(request.getfixturevalue("postgres_url"))


async def test_proxies_agree_by_an_engine(location: Location, tmp_path: Path) -> None:
    """New sessions, moves, and a session that two bind at once."""
    with ExitStack() as stack:
        fleet = Fleet(tmp_path, stack, lambda: open_state(location))
        one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")

        assert await turn(one, "s") == "a"
        await until(lambda: one._persistence.look_up(["s"]))
        assert await turn(two, "s") == "a"
        two.session_bound("s", two.pool.sessions.bind("s", key_of("b")))
        await until(lambda: bound(one.pool, "s") == key_of("b"))
        assert moved_by(one) == {"s": key_of("a")}

        for keeper in (one, two):
            keeper.pool.choose(Asked("at once", RESPONSES), time.time())
        await until(lambda: bound(one.pool, "at once") == bound(two.pool, "at once"))
        (stored,) = one._persistence.look_up(["at once"]).values()
        assert stored == (bound(one.pool, "at once"), 0)


async def test_a_session_is_stored_before_it_is_served(fleet: Fleet) -> None:
    one = await fleet.proxy("a", "b")
    await connected(one)

    await turn(one, "s")

    assert fleet.engine.sessions == {"s": (key_of("a"), 0)}


@pytest.mark.usefixtures("postgres")  # Skipped where there is none. The server is its own: it is stopped.
async def test_a_session_goes_on_while_postgresql_hangs_or_is_gone(tmp_path: Path) -> None:
    """A server that hangs answers nothing and refuses nothing, as one behind a cable that was pulled."""
    with Server() as server, ExitStack() as stack:
        fleet = Fleet(tmp_path, stack, lambda: open_state(Postgres(server.url())))
        one, two = await fleet.proxy("a", "b"), await fleet.proxy("b", "a")
        await connected(one)
        await connected(two)
        assert await turn(one, "known") == "a"
        await until(lambda: one._persistence.look_up(["known"]))
        assert await turn(two, "known") == "a"

        server.freeze()
        assert await turn(one, "s") == "a"
        assert await turn(two, "s") == "b"  # It has waited in vain.
        assert await turn(two, "known") == "a"
        server.thaw()
        await until(lambda: bound(one.pool, "s") == bound(two.pool, "s"))

        server.stop()
        await until(lambda: not two.pool.sessions.can_be_looked_up())
        assert await turn(one, "later") == "a"
        assert await turn(two, "later") == "b"
        server.start()
        await until(lambda: bound(one.pool, "later") == bound(two.pool, "later"))
