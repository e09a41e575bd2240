"""A request whose session is unknown here, without a proxy around it: the state is asked when its headers come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from mitmproxy import http

from codexpool.pool.identity import Asked, IdentityKey
from codexpool.pool.recovery import LookUp
from codexpool.protocol.routes import NO_BACKEND
from codexpool.proxy import tracer
from codexpool.proxy.flows import Closed, Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.pool.pools import RESPONSES
from tests.proxy.still_keeper import StillKeeper, flow


class Keeper(StillKeeper):
    """Answers about sessions when told to."""

    def __init__(self) -> None:
        super().__init__("first", "second")
        self.pool.sessions.can_be_looked_up = lambda: True
        self.asked: list[tuple[str, ...]] = []
        self.answers = asyncio.Event()

    def look_up(self, sessions: Sequence[str], seconds: float) -> asyncio.Task[None]:
        self.asked.append(tuple(sessions))
        return asyncio.get_running_loop().create_task(self._answer(sessions))

    async def _answer(self, sessions: Sequence[str]) -> None:
        await self.answers.wait()
        self.pool.sessions.found({session: (IdentityKey("acc-second", "user-second"), 0) for session in sessions})


@pytest.fixture
async def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
async def handler(keeper: Keeper) -> SwapHandler:
    handler = SwapHandler(History())
    handler.flows.mode = Serving(keeper)
    return handler


def identity_of(request: http.HTTPFlow) -> str:
    return str(request.request.headers["authorization"])


async def test_a_session_is_looked_up_while_its_request_still_comes(keeper: Keeper, handler: SwapHandler) -> None:
    request = flow(1)

    handler.open(request)

    assert keeper.asked == [("0199aaaa-bbbb-7ccc-8ddd-000000000001",)]
    assert identity_of(request) == "Bearer <codexpool:waiting>"
    keeper.answers.set()
    await handler.assign(request)
    assert identity_of(request) == "Bearer <codexpool:second>"


async def test_requests_of_one_session_wait_and_the_next_one_does_not(keeper: Keeper, handler: SwapHandler) -> None:
    requests = [flow(1), flow(1)]
    for request in requests:
        handler.open(request)
    waiting = [asyncio.ensure_future(handler.assign(request)) for request in requests]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)

    keeper.answers.set()
    await asyncio.gather(*waiting)
    requests.append(flow(1))
    handler.open(requests[2])

    assert len(keeper.asked) == 2
    assert {identity_of(request) for request in requests} == {"Bearer <codexpool:second>"}


async def test_a_reload_meanwhile_has_the_client_retry(keeper: Keeper, handler: SwapHandler) -> None:
    request = flow(1)
    handler.open(request)
    looking_up = handler.flows[request].looking_up
    assert looking_up is not None
    waiting = asyncio.ensure_future(handler.assign(request))
    await asyncio.sleep(0)

    handler.flows.mode = Closed("a reload")
    looking_up.cancel()
    await waiting

    assert request.response is not None
    assert request.response.status_code == 503


@pytest.mark.parametrize(("seconds", "is_told"), [(0.001, False), (0.2, True)])
def test_only_a_look_up_that_took_long_is_told(seconds: float, is_told: bool) -> None:
    trace = tracer.begun(flow(1), NO_BACKEND, Asked("s", RESPONSES), None, is_upgrade=False)

    tracer.waited(trace, LookUp(("s",), 0.25), seconds)

    assert bool(trace.waits) is is_told
