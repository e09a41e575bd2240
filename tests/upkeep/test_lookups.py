"""Sessions that are unknown here are looked up: how many queries that takes, and that none holds a request up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from codexpool.common.tasks import Tasks
from codexpool.pool.identity import IdentityKey
from codexpool.state import UnavailableError
from codexpool.upkeep import lookups
from codexpool.upkeep.lookups import LookUps, Stored
from tests.upkeep.keepers import until

A = IdentityKey("acc-a", "user-a")
PATIENT = 30.0  # Seconds that only a test that fails would wait.


class State:
    """Answers while ``is_open`` is set; ``stored`` has the sessions it knows."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[IdentityKey, int]] = {}
        self.queries: list[set[str]] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_lost = False

    def look_up(self, sessions: Sequence[str]) -> Stored:
        self.queries.append(set(sessions))
        assert self.is_open.wait(PATIENT)
        if self.is_lost:
            raise UnavailableError("the state is lost", "wait")
        return {session: self.stored[session] for session in sessions if session in self.stored}


class Asking:
    """Look-ups of a state, and what they found."""

    def __init__(self) -> None:
        self.state = State()
        self.found: dict[str, tuple[IdentityKey, int]] = {}
        self.look_ups = LookUps(self.state.look_up, self.found.update, Tasks())

    async def ask(self, *sessions: str, seconds: float = PATIENT) -> None:
        await self.look_ups.look_up(sessions, seconds)


@pytest.fixture
async def asking() -> Asking:
    return Asking()


async def test_all_that_wait_share_one_query(asking: Asking) -> None:
    asking.state.stored = {f"s-{n}": (A, n) for n in range(50)}
    asking.state.is_open.clear()
    first = asyncio.ensure_future(asking.ask("s-0"))
    await until(lambda: asking.state.queries)

    others = [asyncio.ensure_future(asking.ask(f"s-{n % 50}", f"parent-{n % 3}")) for n in range(200)]
    await asyncio.sleep(0)
    asking.state.is_open.set()
    await asyncio.gather(first, *others)

    assert len(asking.state.queries) == 2
    assert asking.state.queries[0] == {"s-0"}
    assert asking.found == asking.state.stored


async def test_an_answer_that_is_late_is_waited_for_no_longer_but_taken_over(asking: Asking) -> None:
    asking.state.stored = {"s": (A, 1)}
    asking.state.is_open.clear()

    await asking.ask("s", seconds=0.01)

    assert asking.found == {}
    asking.state.is_open.set()
    await until(lambda: asking.found == {"s": (A, 1)})


async def test_nobody_waits_behind_a_query_that_is_overdue(asking: Asking) -> None:
    asking.state.is_open.clear()
    await asking.ask("s", seconds=0.01)

    await asyncio.wait_for(asking.ask("s", "other", seconds=0.0), PATIENT / 2)
    waiting = asyncio.ensure_future(asking.ask("another"))  # It has more patience than the query has taken.
    await asyncio.sleep(0.02)

    assert not waiting.done()
    asking.state.is_open.set()
    await waiting
    assert asking.state.queries == [{"s"}, {"other", "another"}]


async def test_a_state_that_is_lost_answers_nothing_and_is_asked_again(asking: Asking) -> None:
    asking.state.stored = {"s": (A, 0)}
    asking.state.is_lost = True
    await asking.ask("s")
    assert asking.found == {}

    asking.state.is_lost = False
    await asking.ask("s")

    assert asking.found == asking.state.stored


async def test_sessions_that_wait_for_a_query_are_bounded(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MOST", 3)
    asking.state.is_open.clear()
    await asking.ask("s", seconds=0.01)

    await asyncio.gather(*(asking.ask(f"s-{n}", seconds=0.01) for n in range(10)))

    asking.state.is_open.set()
    await until(lambda: len(asking.state.queries) == 2)
    assert asking.state.queries[1] == {"s-0", "s-1", "s-2"}
