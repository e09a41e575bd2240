"""Requests whose identity a person chose, without a proxy around them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from codexpool.config.model import IdentitySpec, MemberSpec
from codexpool.pool.identity import Asked, Condition, Metadata, Status
from codexpool.pool.pins import Pin
from codexpool.proxy import proxy_user, sockets
from codexpool.proxy.flows import Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.proxy.sockets import OpenSocket
from codexpool.tokens.member_key import hashed
from codexpool.traces.history import History
from tests.pool.pools import NOW, RESPONSES, ready_pool
from tests.proxy.observe.flows import observing
from tests.proxy.observe.flows import request as observed_request
from tests.proxy.still_keeper import StillKeeper, flow
from tests.running import key_of

SESSION = "0199aaaa-bbbb-7ccc-8ddd-000000000001"


def serving(*names: str) -> tuple[SwapHandler, StillKeeper]:
    exchanges, keeper = SwapHandler(History()), StillKeeper(*names)
    exchanges.flows.mode = Serving(keeper)
    return exchanges, keeper


def coming(named: str = "", key: str = "") -> http.HTTPFlow:
    """A request on a connection whose client names an identity."""
    request = flow(1)
    request.live = True
    setattr(request.client_conn, proxy_user._NAMED, named)
    if key:
        request.request.headers["authorization"] = f"Bearer {key}"
    return request


async def gone_through(exchanges: SwapHandler, request: http.HTTPFlow) -> http.Request | http.Response | None:
    exchanges.open(request)
    await exchanges.assign(request)
    return request.response or exchanges.outbound(request)


def sent_as(answer: http.Request | http.Response | None) -> str:
    assert isinstance(answer, http.Request), answer
    return str(answer.headers["chatgpt-account-id"]).removeprefix("acc-")


def limit(keeper: StillKeeper, name: str) -> None:
    identity = keeper.pool.identities[name]
    ends = 4e9  # a unix second that is far away
    keeper.pool.states.condition_learned(name, identity.fingerprint, Condition(Status.LIMITED, 1.0, ends))


# -- members


def with_members(keeper: StillKeeper) -> None:
    """Ann may use two identities, of different plans, and not the third."""
    specs = tuple(IdentitySpec(name, None, line) for line, name in enumerate(keeper.pool.identities, 1))  # type: ignore[arg-type]
    ann = MemberSpec("ann", hashed(key_of("ann")), 9, identities=("one", "two"))
    keeper.config = dataclasses.replace(keeper.config, identities=specs, members=(ann,))
    keeper.pool.identities["two"].metadata = Metadata("acc-two", "user-two", "plus")


async def test_member_gets_the_named_identity_and_sees_its_plan() -> None:
    exchanges, keeper = serving("one", "two", "third")
    with_members(keeper)

    assert sent_as(await gone_through(exchanges, coming("two", key_of("ann")))) == "two"
    request = coming("two", key_of("ann"))
    request.request.data.method, request.request.data.content = b"GET", b""
    request.request.data.host = "auth.openai.com"
    request.request.path = "/api/accounts/v1/user-auth-credential/whoami"
    answer = await gone_through(exchanges, request)
    assert isinstance(answer, http.Response)
    assert json.loads(answer.text or "")["chatgpt_plan_type"] == "plus"


async def test_member_does_not_learn_which_identities_others_have() -> None:
    exchanges, keeper = serving("one", "two", "third")
    with_members(keeper)
    told = set()
    for name in ("third", "wrok"):
        answer = await gone_through(exchanges, coming(name, key_of("ann")))
        assert isinstance(answer, http.Response)
        assert answer.status_code == 400
        told.add((answer.text or "").replace(name, "NAME"))

    assert len(told) == 1


# -- pins that come while a request or a socket is under way


async def test_waiting_request_leaves_under_the_pinned_identity() -> None:
    exchanges, keeper = serving("one", "two")
    request = coming()
    exchanges.open(request)
    assert exchanges.flows[request].attempt.name == "one"

    keeper.pool.pin(SESSION, Pin("two", NOW))
    await exchanges.assign(request)
    assert exchanges.is_outdated(request)

    assert sent_as(exchanges.outbound(request)) == "two"


async def test_waiting_request_stays_if_the_pinned_one_cannot_serve() -> None:
    exchanges, keeper = serving("one", "two")
    request = coming()
    exchanges.open(request)
    await exchanges.assign(request)
    limit(keeper, "two")

    keeper.pool.pin(SESSION, Pin("two", NOW))
    answer = exchanges.outbound(request)

    assert isinstance(answer, http.Response)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "0")


async def test_socket_of_a_pinned_session_closes_or_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ready_pool("one", "two")
    one = pool.identities["one"]
    assert one.metadata is not None
    attempt = SimpleNamespace(name="one", metadata=one.metadata, at=0.0)
    exchange: Any = SimpleNamespace(
        asked=Asked("s", RESPONSES), named="s", session="s", member=None, attempt=attempt, trace=SimpleNamespace()
    )
    gate = SimpleNamespace(may_go_on=lambda member: True)
    all_sockets: Any = SimpleNamespace(flows=SimpleNamespace(keeper=SimpleNamespace(pool=pool)), gate=gate)
    told: list[bytes] = []
    monkeypatch.setattr(sockets, "_inject", lambda flow, message, to_client=True: told.append(message))
    monkeypatch.setattr(sockets, "_hang_up", lambda flow: told.append(b"hung up"))
    socket: Any = OpenSocket(SimpleNamespace(websocket=None), exchange, all_sockets)  # type: ignore[arg-type]
    busy: Any = OpenSocket(SimpleNamespace(websocket=None), exchange, all_sockets)  # type: ignore[arg-type]

    pool.pin("s", Pin("two", NOW))
    create = WebSocketMessage(Opcode.TEXT, True, b'{"type": "response.create"}')
    busy._ask(create)
    socket.close_if_unserved(pool)
    await asyncio.sleep(0)

    assert create.dropped
    assert json.loads(told[0])["error"]["code"] == "websocket_connection_limit_reached"
    assert told[1:] == [b"hung up"]
    assert busy.has_left
    assert socket.has_left


# -- observe mode


@pytest.mark.parametrize(("named", "would"), [("two", "two"), ("wrok", None), ("", "one")])
async def test_observing_says_whom_a_client_would_get_by_its_name(
    tmp_path: Path, named: str, would: str | None
) -> None:
    observed, request = observing(tmp_path, "one", "two"), observed_request()
    setattr(request.client_conn, proxy_user._NAMED, named)

    observed.open(request)
    await observed.assign(request)

    if would is not None:
        assert f"would be sent as {would}" in request.comment
    else:
        assert "no identity would serve: the client asks for wrok (codexpool env --identity)" in request.comment
    assert request.response is None
