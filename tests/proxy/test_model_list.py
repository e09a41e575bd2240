"""The list of models that a client gets, and the etag by which answers name it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from codexpool.pool.exclusions import subjects
from codexpool.protocol import frames
from codexpool.protocol.models import TESTED, entries_of
from codexpool.protocol.routes import MODELS, Policy, Route, Routes
from codexpool.proxy import sockets
from codexpool.proxy.flows import Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.proxy.still_keeper import StillKeeper, flow

SMALL, LARGE = "gpt-small", "gpt-large"
THEIRS = '"theirs"'


def list_for(keeper: StillKeeper, name: str, *slugs: str, version: str = TESTED) -> None:
    identity = keeper.pool.identities[name]
    models = [{"slug": slug, "priority": number} for number, slug in enumerate(slugs)]
    entries = entries_of(json.dumps({"models": models}).encode())
    plan = subjects(identity.fingerprint, identity.metadata).plan
    keeper.pool.entitlements.learn(plan, version, entries, THEIRS, time.time())


def serving(*, known: bool = True) -> tuple[SwapHandler, StillKeeper]:
    handler, keeper = SwapHandler(history=History()), StillKeeper("free", "paid")
    handler.flows.mode = Serving(keeper)
    if known:
        list_for(keeper, "free", SMALL)
        list_for(keeper, "paid", SMALL, LARGE)
    return handler, keeper


def asking(query: str = f"?client_version={TESTED}", condition: str = "", method: str = "GET") -> http.HTTPFlow:
    asked = flow(0)
    asked.request.method, asked.request.path, asked.request.content = method, MODELS + query, b""
    for name in ("session-id", "thread-id", "x-client-request-id"):
        del asked.request.headers[name]
    if condition:
        asked.request.headers["if-none-match"] = condition
    return asked


async def answer_to(handler: SwapHandler, asked: http.HTTPFlow) -> http.Response | None:
    """The proxy's own answer; None if the request leaves."""
    handler.open(asked)
    await handler.assign(asked)
    if asked.response is not None:
        await handler.judge(asked)
        handler.finish(asked)
    return asked.response


def turn(number: int, model: str = SMALL, version: str = TESTED, upgrade: bool = False) -> http.HTTPFlow:
    asked = flow(number)
    asked.request.headers["x-codex-routing-hint"] = f"model={model}"
    asked.request.headers["version"] = version
    if upgrade:
        asked.request.method, asked.request.headers["upgrade"] = "GET", "websocket"
    return asked


async def answered(handler: SwapHandler, asked: http.HTTPFlow, etag: str = THEIRS) -> str | None:
    """The etag that the client sees in an answer of the backend, which names another one."""
    handler.open(asked)
    await handler.assign(asked)
    handler.outbound(asked)
    asked.response = http.Response.make(200, b"{}", {"X-Models-Etag": etag} if etag else {})
    handler.headers_came(asked)
    etags = asked.response.headers.get_all("x-models-etag")
    assert len(etags) <= 1
    return etags[0] if etags else None


async def etag_of(handler: SwapHandler) -> str:
    """The etag of the list that a client gets."""
    answer = await answer_to(handler, asking())
    assert answer is not None
    return str(answer.headers["etag"])


async def test_a_client_gets_the_models_of_all_identities() -> None:
    handler, keeper = serving()
    asked = asking()

    answer = await answer_to(handler, asked)

    assert answer is not None
    assert [model["slug"] for model in json.loads(answer.content or b"")["models"]] == [SMALL, LARGE]
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert keeper.lists.asked == [(TESTED, True)]
    assert "codexpool" in asked.request.headers["authorization"]  # The flow shows no credential.
    assert asked.comment == "codexpool: the models of all identities"


async def test_a_client_that_has_the_list_is_told_so() -> None:
    handler, _ = serving()
    etag = await etag_of(handler)

    same = await answer_to(handler, asking(condition=f"W/{etag}"))
    other = await answer_to(handler, asking(condition=THEIRS))

    assert (same and same.status_code, same and same.content, same and same.headers["etag"]) == (304, b"", etag)
    assert (other and other.status_code) == 200


@pytest.mark.parametrize(
    ("known", "query", "method"),
    [
        (False, f"?client_version={TESTED}", "GET"),
        (True, "?client_version=0.99.0", "GET"),
        (True, "", "GET"),
        (True, f"?client_version={TESTED}&limit=1", "GET"),
        (True, f"?client_version={TESTED}", "POST"),
    ],
)
async def test_any_other_request_gets_the_answer_of_one_identity(known: bool, query: str, method: str) -> None:
    handler, keeper = serving(known=known)

    assert await answer_to(handler, asking(query, method=method)) is None
    assert all(not is_answered for _, is_answered in keeper.lists.asked)


async def test_a_turn_whose_model_only_the_body_names_goes_to_an_identity_that_has_it() -> None:
    handler, _ = serving()
    asked = flow(1)
    asked.request.content = json.dumps({"model": LARGE, "input": []}).encode()

    handler.open(asked)
    await handler.assign(asked)

    exchange = handler.flows.get(asked)
    assert exchange is not None
    assert exchange.attempt.name == "paid"


async def test_answers_name_the_list_that_the_client_gets() -> None:
    """Under whichever identity, and over both transports: else the client would fetch it after each turn."""
    handler, _ = serving()
    etag = await etag_of(handler)

    seen = {await answered(handler, turn(n, model)) for n, model in enumerate((SMALL, LARGE, SMALL))}
    seen |= {await answered(handler, turn(3, LARGE, f"{TESTED}-alpha.1", upgrade=True))}

    assert seen == {etag}


@pytest.mark.parametrize(("known", "version"), [(False, TESTED), (True, "0.99.0"), (True, "")])
async def test_answers_name_no_list_while_clients_get_that_of_one_identity(known: bool, version: str) -> None:
    handler, _ = serving(known=known)

    assert await answered(handler, turn(1, version=version)) is None


async def test_answers_name_no_list_to_clients_that_ask_with_their_own_login() -> None:
    handler, keeper = serving()
    keeper.config = replace(keeper.config, routes=Routes((Route(MODELS, Policy.OWN),)))

    assert await answered(handler, turn(1)) is None


async def test_an_answer_without_an_etag_gets_none_and_news_of_the_backend_are_followed() -> None:
    handler, keeper = serving()

    assert await answered(handler, turn(1), etag="") is None
    await answered(handler, turn(2, LARGE), etag='"news"')

    assert keeper.lists.named == [("paid", TESTED, '"news"')]


# -- on an open socket


def open_socket(handler: SwapHandler, asked: http.HTTPFlow) -> sockets.OpenSocket:
    exchange = handler.flows.get(asked)
    assert exchange is not None
    return sockets.OpenSocket(asked, exchange, handler.sockets)


async def socket_of(handler: SwapHandler, number: int, model: str) -> sockets.OpenSocket:
    """A socket whose handshake named this model, or none."""
    asked = turn(number, model, upgrade=True)
    if not model:
        del asked.request.headers["x-codex-routing-hint"]
    await answered(handler, asked)
    return open_socket(handler, asked)


@pytest.mark.parametrize("kind", [frames.METADATA, frames.ALSO_METADATA])
async def test_frames_name_the_list_that_the_client_gets(kind: str) -> None:
    handler, _ = serving()
    etag = await etag_of(handler)
    socket = await socket_of(handler, 1, SMALL)
    frame = {"type": kind, "headers": {"X-Models-Etag": THEIRS, "x-other": "kept"}, "n": 1}
    message = WebSocketMessage(Opcode.TEXT, False, json.dumps(frame).encode())

    socket.on_backend(message)

    assert json.loads(message.content) == {
        "type": kind,
        "headers": {"x-other": "kept", "x-models-etag": etag},
        "n": 1,
    }


async def test_a_frame_without_an_etag_is_not_changed() -> None:
    handler, _ = serving()
    socket = await socket_of(handler, 1, SMALL)
    content = b'{"type": "codex.response.metadata",  "headers": {"x-other": "kept"}}'
    message = WebSocketMessage(Opcode.TEXT, False, content)

    socket.on_backend(message)

    assert message.content == content


@pytest.mark.parametrize("named", ["", SMALL])
async def test_a_turn_for_a_model_that_the_identity_lacks_has_the_client_connect_again(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """The handshake that follows gets an identity that has the model, even if it names none."""
    told: list[bytes] = []
    monkeypatch.setattr(sockets, "_inject", lambda flow, message, to_client=True: told.append(message))
    handler, keeper = serving()
    socket = await socket_of(handler, 1, named)
    assert socket.exchange.attempt.name == "free"

    for model, is_told in ((SMALL, False), (LARGE, True)):
        content = {"type": "response.create", "model": model, "input": []}
        message: Any = WebSocketMessage(Opcode.TEXT, True, json.dumps(content).encode())
        await socket.on_client(message)
        assert message.dropped is is_told
        assert bool(told) is is_told

    assert told == [frames.connect_again()]
    assert (await socket_of(handler, 1, LARGE if named else "")).exchange.attempt.name == "paid"
    assert keeper.pool.identities["free"].status == "ready"


async def test_a_turn_stays_where_no_other_identity_serves_it() -> None:
    handler, keeper = serving()
    socket = await socket_of(handler, 1, SMALL)
    keeper.pool.replace_identities([keeper.pool.identities["free"]], keeper.pool.selection, time.time())
    content = {"type": "response.create", "model": LARGE, "input": []}
    message: Any = WebSocketMessage(Opcode.TEXT, True, json.dumps(content).encode())

    await socket.on_client(message)

    assert not message.dropped
