"""A proxy says that it runs, and knows which others do, whether the state can be reached or not."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from codexpool.state import UnavailableError, presence
from codexpool.state.fleet import Fleet, Proxy
from codexpool.state.location import Postgres
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep import heartbeat, persistence
from codexpool.upkeep.keeper import Keeper
from tests.upkeep.keepers import keeper_of, until, write_pool

AT = Postgres("postgresql://me:hunter2@db/pool")


class Losable(SqliteState):
    """A state that can be out of reach."""

    is_lost = False

    @property
    def is_connected(self) -> bool:
        return not self.is_lost

    def transact(self, work):  # type: ignore[no-untyped-def]
        if self.is_lost:
            raise UnavailableError("it is lost", "wait")
        return super().transact(work)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    monkeypatch.setattr(persistence, "POLL", 0.05)


@pytest.fixture
def pool_toml(tmp_path: Path) -> Path:
    return write_pool(tmp_path, "work")


def fleet(keeper: Keeper) -> Fleet:
    return keeper.heartbeat.fleet(AT)


async def test_a_proxy_is_listed_while_it_runs(pool_toml: Path) -> None:
    path = pool_toml.parent / "state.sqlite3"
    with keeper_of(pool_toml, lambda: SqliteState(path)) as keeper:
        await until(lambda: fleet(keeper).proxies)
        found = fleet(keeper)

        assert [proxy.writer for proxy in found.proxies] == [found.own]
        assert found.is_connected
    other = SqliteState(path)
    assert other.transact(presence.present) == ()
    other.close()


async def test_a_proxy_learns_of_another_one(pool_toml: Path) -> None:
    path = pool_toml.parent / "state.sqlite3"
    with (
        keeper_of(pool_toml, lambda: SqliteState(path)) as one,
        keeper_of(pool_toml, lambda: SqliteState(path)) as two,
    ):
        await until(lambda: len(fleet(one).proxies) == len(fleet(two).proxies) == 2)
        assert fleet(one).own != fleet(two).own


async def test_a_lost_state_shows_since_when_and_the_heartbeat_comes_back(pool_toml: Path) -> None:
    state = Losable(pool_toml.parent / "state.sqlite3")
    with keeper_of(pool_toml, lambda: state) as keeper:
        await until(lambda: fleet(keeper).proxies)
        connected = fleet(keeper)
        state.is_lost = True
        await until(lambda: not fleet(keeper).is_connected)
        lost = fleet(keeper)
        state.is_lost = False
        await until(lambda: fleet(keeper).read_at > lost.read_at)

    assert connected.since < lost.since
    assert lost.proxies == connected.proxies


async def test_a_heartbeat_that_fails_is_not_the_last_one(
    pool_toml: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures, send = [RuntimeError("a bug")], presence.beat

    def beat(connection: Connection, own: Proxy) -> tuple[Proxy, ...]:
        if failures:
            raise failures.pop()
        return send(connection, own)

    monkeypatch.setattr(presence, "beat", beat)

    with keeper_of(pool_toml, lambda: SqliteState(pool_toml.parent / "state.sqlite3")) as keeper:
        await until(lambda: fleet(keeper).proxies)

    assert "the heartbeat failed" in caplog.text


async def test_a_state_that_does_not_open_is_not_connected(pool_toml: Path) -> None:
    def closed() -> SqliteState:
        raise UnavailableError("it is not there", "wait")

    with keeper_of(pool_toml, closed) as keeper:
        found = fleet(keeper)

    assert not found.is_connected
    assert found.proxies == ()
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("host", "pid", "is_listed"),
    [
        (socket.gethostname(), os.getpid(), False),  # as the first process of a container has each time
        (socket.gethostname(), 2**22 + 1, False),  # beyond the largest pid of Linux
        (socket.gethostname(), os.getppid(), True),
        ("another", 2**22 + 1, True),
    ],
    ids=["the own pid", "no process", "a process", "another machine"],
)
async def test_a_proxy_of_this_machine_that_was_killed_is_gone_at_once(
    pool_toml: Path, host: str, pid: int, is_listed: bool
) -> None:
    state = SqliteState(pool_toml.parent / "state.sqlite3")
    age = time.monotonic() - heartbeat.STARTED
    killed = Proxy("killed", host, "1.0", pid, age + 60.0, 0.0, 1)
    state.transact(lambda connection: presence.beat(connection, killed))

    with keeper_of(pool_toml, lambda: state) as keeper:
        await until(lambda: fleet(keeper).proxies)
        await until(lambda: is_listed or len(fleet(keeper).proxies) == 1)

        assert ("killed" in {proxy.writer for proxy in fleet(keeper).proxies}) is is_listed
