"""Which identity answers a client that asks what is left, and what the client sees of the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import Any

import pytest
from mitmproxy import http

from codexpool.config.model import Access, MemberSpec
from codexpool.pool.identity import Condition, Status
from codexpool.protocol.endpoints import CONFIG_BUNDLE, USAGE
from codexpool.protocol.lent_usage import NOTHING_KNOWN
from codexpool.protocol.routes import MODELS, Routes, moved
from codexpool.proxy.flows import Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.tokens.member_key import hashed
from codexpool.traces.history import History
from tests.protocol.codings import CODINGS
from tests.proxy.still_keeper import StillKeeper, flow
from tests.running import key_of

LEFT = {"plan_type": "business", "rate_limit": {"primary_window": {"used_percent": 7}}}


def serving(*names: str) -> tuple[SwapHandler, StillKeeper]:
    handler, keeper = SwapHandler(history=History()), StillKeeper(*names)
    handler.flows.mode = Serving(keeper)
    return handler, keeper


def asking(path: str = USAGE, agent: str = "codex-tui/0.171.0") -> http.HTTPFlow:
    """A request as the TUI sends it: it names no session."""
    asked = flow(0)
    asked.request.method, asked.request.path, asked.request.content = "GET", path, b""
    for name in ("session-id", "thread-id", "x-client-request-id"):
        del asked.request.headers[name]
    asked.request.headers["user-agent"] = agent
    return asked


async def goes(handler: SwapHandler, asked: http.HTTPFlow) -> str:
    """Send a request on its way. Return its identity: empty for the client's own credential."""
    handler.open(asked)
    await handler.assign(asked)
    wire = handler.outbound(asked)
    if isinstance(wire, http.Request):
        return account(wire)
    return ""


def account(wire: http.Request) -> str:
    return str(wire.headers["chatgpt-account-id"]).removeprefix("acc-")


def shown(asked: http.HTTPFlow) -> Any:
    """What the client gets."""
    assert asked.response is not None
    assert asked.response.status_code == 200
    return json.loads(asked.response.content or b"")


async def is_answered(handler: SwapHandler, asked: http.HTTPFlow, status: int, document: Any) -> None:
    asked.response = http.Response.make(status, json.dumps(document), {"content-type": "application/json"})
    handler.headers_came(asked)
    await handler.judge(asked)
    handler.finish(asked)


async def a_turn(handler: SwapHandler, number: int, agent: str = "codex-tui/0.171.0") -> str:
    """Have a turn of a session of its own served."""
    turn = flow(number)
    turn.request.headers["user-agent"] = agent
    identity = await goes(handler, turn)
    await is_answered(handler, turn, 200, {})
    return identity


def is_limited(keeper: StillKeeper, name: str, for_seconds: float) -> None:
    now = time.time()
    keeper.pool.identities[name].condition = Condition(Status.LIMITED, now, now + for_seconds)


async def test_a_client_before_its_first_turn_sees_what_a_new_session_would_have() -> None:
    handler, keeper = serving("first", "second")

    assert await goes(handler, asking()) == "first"
    assert keeper.pool.identities["first"].load.sessions == 0  # It does not count as one.


async def test_a_client_sees_what_the_identity_of_its_last_turn_has_left() -> None:
    handler, keeper = serving("first", "second")
    is_limited(keeper, "first", 900)
    assert await a_turn(handler, 1) == "second"
    keeper.reset()
    assert await a_turn(handler, 2, "codex_exec/0.171.0") == "first"

    assert await goes(handler, asking()) == "second"
    assert await goes(handler, asking(agent="codex_exec/0.171.0")) == "first"
    assert await goes(handler, asking(MODELS)) == "second"
    assert await goes(handler, asking(agent="another/1.0")) == "first"


@pytest.mark.parametrize(("source", "shows"), [("user", "second"), ("thread_title", "first")])
async def test_a_thread_that_no_person_sees_does_not_count(source: str, shows: str) -> None:
    """The TUI has a title made by a thread of its own, right after the first turn."""
    handler, keeper = serving("first", "second")
    assert await a_turn(handler, 1) == "first"
    is_limited(keeper, "first", 900)
    title = flow(2)
    title.request.headers["user-agent"] = "codex-tui/0.171.0"
    title.request.headers["x-codex-turn-metadata"] = f'{{"turn_id":"","thread_source":"{source}","sandbox":"none"}}'
    assert await goes(handler, title) == "second"
    await is_answered(handler, title, 200, {})
    keeper.reset()

    assert await goes(handler, asking()) == shows


async def test_a_client_at_the_limit_of_its_identity_sees_what_the_next_one_has_left() -> None:
    handler, keeper = serving("first", "second")
    assert await a_turn(handler, 1) == "first"
    is_limited(keeper, "first", 900)

    assert await goes(handler, asking()) == "second"


async def test_at_the_limit_of_all_a_client_sees_the_one_that_serves_again_first() -> None:
    handler, keeper = serving("first", "second", "third")
    for name, seconds in (("first", 900.0), ("second", 300.0), ("third", 600.0)):
        is_limited(keeper, name, seconds)
    asked = asking()

    assert await goes(handler, asked) == "second"
    await is_answered(handler, asked, 200, LEFT)
    assert shown(asked) == LEFT
    assert keeper.pool.identities["second"].status is Status.LIMITED


@pytest.mark.parametrize("coding", CODINGS)
async def test_the_client_is_not_told_whose_limits_it_sees(coding: str) -> None:
    handler, _ = serving("first")
    asked = asking()
    await goes(handler, asked)
    encoding, encode = CODINGS[coding]
    document = {"user_id": "user-first", "account_id": "acc-first", "email": "a@example.invalid", **LEFT}
    asked.response = http.Response.make(200, b"", {"content-type": "application/json"})
    asked.response.raw_content = encode(json.dumps(document).encode())
    if encoding:
        asked.response.headers["content-encoding"] = encoding

    handler.headers_came(asked)
    await handler.judge(asked)

    assert shown(asked) == {**LEFT, "account_id": "acc-client"}


@pytest.mark.parametrize("encoding", ["", "zstd", "odd"])
@pytest.mark.parametrize("body", [b"\xff\x00 a@example.invalid", b"<html>", b"[" * 100_000, b"x" * 2_000_000])
async def test_an_answer_that_cannot_be_read_is_not_passed_on(body: bytes, encoding: str) -> None:
    handler, _ = serving("first")
    asked = asking()
    await goes(handler, asked)
    asked.response = http.Response.make(200, body, {"content-type": "application/json"})
    asked.response.headers["content-encoding"] = encoding

    handler.headers_came(asked)
    await handler.judge(asked)

    assert shown(asked) == NOTHING_KNOWN


@pytest.mark.parametrize("status", [203, 206, 300])
async def test_no_other_status_shows_the_person(status: int) -> None:
    """A client may ask for a range of the answer."""
    handler, _ = serving("first")
    asked = asking()
    await goes(handler, asked)

    await is_answered(handler, asked, status, {"email": "a@example.invalid", **LEFT})

    assert asked.response is not None
    assert json.loads(asked.response.content or b"") == LEFT


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_a_refusal_goes_to_the_next_identity_and_changes_none(status: int) -> None:
    handler, keeper = serving("first", "second")
    asked = asking()
    tried = [await goes(handler, asked)]
    await is_answered(handler, asked, status, {"error": {"code": "token_revoked"}})
    assert handler.should_resend(asked)
    wire = handler.outbound(asked)
    assert isinstance(wire, http.Request)
    tried.append(account(wire))
    await is_answered(handler, asked, status, {"error": {"code": "token_revoked"}})

    assert tried == ["first", "second"]
    assert not handler.should_resend(asked)
    assert shown(asked) == NOTHING_KNOWN
    assert {identity.status for identity in keeper.pool.identities.values()} == {Status.READY}
    assert await goes(handler, flow(5)) == "first"  # Its turns still go there.
    assert await goes(handler, again := asking()) == ""  # None is asked for a while.
    assert shown(again) == NOTHING_KNOWN


async def test_without_an_identity_to_ask_the_client_sees_no_limits_and_no_error() -> None:
    handler, keeper = serving("first")
    keeper.pool.identities["first"].condition = Condition(Status.NEEDS_REPLACEMENT, time.time())
    asked = asking()

    await goes(handler, asked)

    assert shown(asked) == NOTHING_KNOWN


async def test_a_pool_for_members_shows_its_limits_to_members_only(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, _ = serving("first")
    monkeypatch.setattr(type(handler.gate), "access", Access.MEMBERS)
    asked = asking()

    assert await goes(handler, asked) == ""
    assert asked.response is None
    assert asked.request.headers["authorization"] == "Bearer at-test-client-0123456789abcdef"


IMAGES = "/backend-api/codex/images/generations"


@pytest.mark.parametrize(("moved_path", "path"), [(USAGE, USAGE), ("/backend-api/codex/images/", IMAGES)])
async def test_what_pool_toml_makes_own_keeps_the_clients_credential_unless_it_is_a_members(
    moved_path: str, path: str
) -> None:
    handler, keeper = serving("first")
    members = (MemberSpec("ann", hashed(key_of("ann")), 1),)
    moves = Routes((moved(moved_path, is_own=True),))
    before = await goes(handler, asking(path))
    # when pool.toml is reloaded
    keeper.config = dataclasses.replace(keeper.config, members=members, routes=moves)
    own, members_own = asking(path), asking(path)
    members_own.request.headers["authorization"] = f"Bearer {key_of('ann')}"

    assert before == "first"
    assert await goes(handler, own) == ""
    assert own.response is None
    assert own.request.headers["authorization"] == "Bearer at-test-client-0123456789abcdef"
    assert await goes(handler, members_own) == "first"


@pytest.mark.parametrize("path", ["/backend-api/codex/realtime/x", USAGE, CONFIG_BUNDLE])
async def test_a_member_gets_no_socket_on_a_path_that_is_lent(path: str) -> None:
    """Its messages would not be inspected."""
    handler, keeper = serving("first")
    members = (MemberSpec("ann", hashed(key_of("ann")), 1),)
    moves = Routes((moved("/backend-api/codex/realtime/", is_own=True),))
    keeper.config = dataclasses.replace(keeper.config, members=members, routes=moves)
    opens = asking(path)
    opens.request.headers["authorization"] = f"Bearer {key_of('ann')}"
    opens.request.headers["upgrade"] = "websocket"

    assert await goes(handler, opens) == ""
    assert opens.response is not None
    assert opens.response.status_code == 403


async def test_many_clients_of_one_identity_cost_it_one_request() -> None:
    handler, _ = serving("first")
    asked = asking()
    assert await goes(handler, asked) == "first"
    waits = asking(agent="another/1.0")
    waits.request.headers["chatgpt-account-id"] = "acc-another"
    handler.open(waits)
    waiting = asyncio.create_task(handler.assign(waits))
    await asyncio.sleep(0)
    await is_answered(handler, asked, 200, {**LEFT, "account_id": "acc-first", "email": "a@example.invalid"})
    await waiting

    assert shown(asked) == {**LEFT, "account_id": "acc-client"}
    assert shown(waits) == {**LEFT, "account_id": "acc-another"}
