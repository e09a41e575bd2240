"""Proxies that share a state know of each other by their heartbeats."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import Connection, update

from codexpool.state import State
from codexpool.state.fleet import DEAD_AFTER, FORGOTTEN_AFTER, Proxy
from codexpool.state.presence import beat, leave, present
from codexpool.state.schema import proxies
from tests.state.engines import Engine

A = Proxy("a", "host-a", "1.0", 7, up=100.0, silent=0.0, sessions=3)
B = Proxy("b", "host-b", "1.1", 8, up=5.0, silent=0.0, sessions=0)


@pytest.fixture
def state(engine: Engine) -> State:
    return engine.state()


def names(found: tuple[Proxy, ...]) -> list[tuple[str, bool]]:
    return [(proxy.writer, proxy.is_alive) for proxy in found]


def silence(connection: Connection, writer: str, seconds: float) -> None:
    """Let the last heartbeat of a proxy be longer ago."""
    connection.execute(update(proxies).where(proxies.c.writer == writer).values(at=proxies.c.at - seconds))


def test_a_row_with_a_time_that_is_none_is_no_proxy(state: State) -> None:
    """A page with it would be no JSON."""
    for own in (A, B):
        state.transact(partial(beat, own=own))
    odd = update(proxies).where(proxies.c.writer == "b").values(since=float("-inf"))
    state.transact(lambda connection: connection.execute(odd))

    assert names(state.transact(present)) == [("a", True)]


def test_a_heartbeat_tells_who_else_runs(state: State) -> None:
    state.transact(lambda connection: beat(connection, A))

    first, second = state.transact(lambda connection: beat(connection, B))

    assert (first.host, first.version, first.pid, first.sessions) == ("host-a", "1.0", 7, 3)
    assert first.up == pytest.approx(100.0, abs=5)
    assert first.silent == pytest.approx(0.0, abs=5)
    assert second.writer == "b"


def test_a_heartbeat_replaces_the_one_before(state: State) -> None:
    state.transact(lambda connection: beat(connection, A))
    state.transact(lambda connection: silence(connection, "a", 60))

    [found] = state.transact(lambda connection: beat(connection, A._replace(sessions=4, up=160.0)))

    assert found.is_alive
    assert found.sessions == 4
    assert found.up == pytest.approx(160.0, abs=5)


def test_a_proxy_without_a_heartbeat_counts_as_dead_and_is_forgotten(state: State) -> None:
    state.transact(lambda connection: (beat(connection, A), beat(connection, B)))

    state.transact(lambda connection: silence(connection, "a", DEAD_AFTER + 1))
    assert names(state.transact(present)) == [("a", False), ("b", True)]

    state.transact(lambda connection: silence(connection, "a", FORGOTTEN_AFTER))
    assert names(state.transact(lambda connection: beat(connection, B))) == [("b", True)]


def test_a_proxy_that_ends_is_gone_at_once(state: State) -> None:
    state.transact(lambda connection: (beat(connection, A), beat(connection, B)))

    state.transact(lambda connection: leave(connection, "a"))

    assert names(state.transact(present)) == [("b", True)]
