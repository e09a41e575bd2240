"""Pauses between two askings: they grow, they end in time, and they are short while somebody waits."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from codexpool.credentials import authapi, token_endpoint
from codexpool.upkeep.renewals import AT_LEAST, FIRST_PAUSE, LONGEST_PAUSE, WANTED_AFTER, Pauses, Waiting
from tests.timetravel import time_travel

JITTER = 0.2
WELL_WITHIN = 30.0
"""Seconds after which what is well again has to be found out."""


async def attempts(pauses: Pauses, number: int, takes: float = 0.0) -> list[float]:
    """The seconds from one attempt to the next, each of which takes so long."""
    begun: list[float] = []
    for _ in range(number):
        pauses.begin()
        begun.append(time.time())
        await asyncio.sleep(takes)
        await pauses.pause()
    return [after - before for before, after in itertools.pairwise(begun)]


def test_they_grow_and_what_is_well_again_is_found_in_time() -> None:
    async def said() -> list[float]:
        return await attempts(Pauses(Waiting()), 12)

    with time_travel(1e9) as loop:
        pauses = loop.run_until_complete(said())

    for pause, expected in zip(pauses, (FIRST_PAUSE, 2, 4, 8, 16, *[LONGEST_PAUSE] * 6), strict=True):
        assert pause == pytest.approx(expected, rel=JITTER + 0.01)
    assert max(pauses) < WELL_WITHIN


@pytest.mark.parametrize("takes", [2 * authapi.TIMEOUT, token_endpoint.TIMEOUT])
def test_an_attempt_that_hung_was_a_pause_itself(takes: float) -> None:
    async def said() -> list[float]:
        return await attempts(Pauses(Waiting()), 12, takes)

    with time_travel(1e9) as loop:
        pauses = loop.run_until_complete(said())

    assert max(pauses) < WELL_WITHIN
    assert min(pauses) >= takes + AT_LEAST - 0.01


def test_pauses_are_short_while_a_request_waits() -> None:
    async def said() -> list[float]:
        waiting = Waiting()
        pauses = Pauses(waiting)
        await attempts(pauses, 6)
        with waiting.one_more():
            return await attempts(pauses, 6)

    with time_travel(1e9) as loop:
        assert loop.run_until_complete(said()) == pytest.approx([WANTED_AFTER] * 5, abs=0.1)


def test_a_new_request_ends_a_pause_once() -> None:
    """Further requests do not shorten the next pause again and again."""

    async def ended() -> float:
        waiting = Waiting()
        pauses = Pauses(waiting)
        await attempts(pauses, 6)
        pauses.begin()
        begun = time.time()
        pause = asyncio.create_task(pauses.pause())
        await asyncio.sleep(WANTED_AFTER + 1)
        with waiting.one_more():
            await pause
            assert time.time() - begun == pytest.approx(WANTED_AFTER + 1, abs=0.1)
            pauses.begin()
            begun = time.time()
            pause = asyncio.create_task(pauses.pause())
            for _ in range(50):
                with waiting.one_more():
                    await asyncio.sleep(0.01)
            await pause
        return time.time() - begun

    with time_travel(1e9) as loop:
        assert loop.run_until_complete(ended()) == pytest.approx(WANTED_AFTER, abs=0.1)


def test_a_change_ends_the_pause_and_resets_it() -> None:
    async def said() -> tuple[float, float]:
        pauses = Pauses(Waiting())
        await attempts(pauses, 6)
        pauses.begin()
        begun = time.time()
        pause = asyncio.create_task(pauses.pause())
        await asyncio.sleep(0.1)
        pauses.hurry()
        await pause
        return time.time() - begun, pauses.begin()

    with time_travel(1e9) as loop:
        at_once, then = loop.run_until_complete(said())
    assert at_once < 0.2
    assert then <= FIRST_PAUSE * (1 + JITTER)
