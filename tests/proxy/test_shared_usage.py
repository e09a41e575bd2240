"""Many clients ask what is left; each identity is asked seldom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from codexpool.pool.identity import IdentityKey
from codexpool.proxy.shared_usage import KEPT, LASTS, LASTS_AT_LIMIT, LONGEST, PATIENCE, SharedUsage

ONE, TWO = IdentityKey("acc-one", "user-one"), IdentityKey("acc-two", "user-two")
LEFT: dict[str, Any] = {"rate_limit": {"allowed": True, "limit_reached": False}}
AT_LIMIT: dict[str, Any] = {"rate_limit": {"allowed": False, "limit_reached": True}}


class Backend:
    """Identities that are asked for their clients, and how often each was."""

    def __init__(self, document: dict[str, Any] | None = LEFT) -> None:
        self.at = 0.0
        self.document = document
        self.shared = SharedUsage(lambda: self.at)
        self.asked: list[IdentityKey] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def client(self, key: IdentityKey = ONE) -> Any:
        if (document := await self.shared.answer(key)) is not None:
            return document
        self.asked.append(key)
        await self.may_answer.wait()
        if self.document is not None:
            self.shared.keep(key, self.document)
        self.shared.ended(key)
        return self.document


async def test_clients_at_the_same_time_cost_one_request_each_identity() -> None:
    backend = Backend()
    backend.may_answer.clear()
    clients = [asyncio.create_task(backend.client(key)) for key in (ONE, TWO) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    backend.may_answer.set()

    assert await asyncio.gather(*clients) == [LEFT] * 40
    assert sorted(backend.asked) == [ONE, TWO]


@pytest.mark.parametrize(("document", "lasts"), [(LEFT, LASTS), (AT_LIMIT, LASTS_AT_LIMIT)])
async def test_an_answer_is_shared_for_some_seconds_and_longer_at_a_limit(
    document: dict[str, Any], lasts: float
) -> None:
    backend = Backend(document)
    for at in (0.0, lasts / 2, lasts - 0.1):
        backend.at = at
        assert await backend.client() == document
    assert len(backend.asked) == 1

    backend.at = lasts
    await backend.client()

    assert len(backend.asked) == 2


async def test_a_failure_has_one_of_the_others_ask() -> None:
    backend = Backend(None)
    backend.may_answer.clear()
    clients = [asyncio.create_task(backend.client()) for _ in range(5)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(backend.asked) == 1
    backend.may_answer.set()

    assert await asyncio.gather(*clients) == [None] * 5
    assert len(backend.asked) == 5  # One after the other.


async def test_a_client_does_not_wait_for_a_request_that_hangs() -> None:
    backend = Backend()
    assert await backend.shared.answer(ONE) is None
    backend.at = PATIENCE

    assert await backend.client() == LEFT


async def test_what_is_kept_has_a_bound() -> None:
    shared = SharedUsage(lambda: 0.0)
    assert await shared.answer(ONE) is None
    shared.keep(ONE, {**LEFT, "more": "x" * LONGEST})
    shared.ended(ONE)
    assert await shared.answer(ONE) is None
    for number in range(KEPT + 5):
        key = IdentityKey(str(number), "u")
        assert await shared.answer(key) is None
        shared.keep(key, LEFT)

    assert len(shared._answers) == len(shared._asked) == KEPT
