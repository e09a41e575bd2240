"""A refusal of one identity affects only that one, and one request never stops the pool for others."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.conftest import Make
from tests.e2e.world import MODEL, World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import RESPONSES, Answer, Token

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'
NO_MATCHING_RULE = {"error": {"code": "no_matching_rule", "message": "no rule lets this token in"}}
UNCLEAR = [{"error": {"code": None, "message": "refresh and try again"}}, {"detail": "Codex is not enabled here"}]
WARMING_UP = {"type": "response.create", "model": "m", "generate": False, "input": []}
CONNECT_AGAIN = "websocket_connection_limit_reached"
EIGHT_DAYS = 8 * 86_400
IMAGES = "/backend-api/codex/images/generations"
MODELS = "/backend-api/codex/models"


def unsupported(model: str) -> dict[str, Any]:
    return {"detail": f"The '{model}' model is not supported when using Codex with a ChatGPT account."}


def in_a_frame(body: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "message": body["detail"]}}


def asked(world: World, name: str, path: str = RESPONSES, transport: str = "http") -> int:
    """How often an identity was asked something."""
    seen = [s for s in world.seen if s.path == path and s.name == name and s.method != "GET"]
    return sum((s.transport == "message") == (transport == "websocket") for s in seen)


def always(token: Token, path: str = RESPONSES, **more: Any) -> Answer:
    return Answer(path=path, token=token.token, times=None, **more)


def listed(world: World) -> dict[str, dict[str, Any]]:
    """What `codexpool list` says, which is another process."""
    codexpool = str(Path(sys.executable).with_name("codexpool"))
    command = [codexpool, "list", "--json", "--config", str(world.proxy.pool)]
    environ = {**os.environ, "CODEXPOOL_STATE": str(world.proxy.state)}
    out = subprocess.run(command, env=environ, check=True, timeout=30, capture_output=True, text=True).stdout
    return {row["name"]: row for row in json.loads(out)["identities"]}


async def reconnecting(world: World, session: str, turns: int = 1, model: str = "m", most: int = 4) -> list[Any]:
    """Turns on WebSockets, by a client that connects again when it is told to: who served them, or how they ended."""
    served: list[Any] = []
    for _ in range(most):
        async with world.socket(session) as socket:
            while len(served) < turns:
                await socket.send(json.dumps({"type": "response.create", "model": model, "input": "hello"}))
                events: list[dict[str, Any]] = []
                while not events or events[-1]["type"] not in ("response.completed", "response.failed", "error"):
                    async with asyncio.timeout(15):
                        events.append(json.loads(await socket.recv()))
                if events[-1].get("error", {}).get("code") == CONNECT_AGAIN:
                    break
                served.append(served_by(events) if events[-1]["type"] == "response.completed" else events[-1])
        if len(served) == turns:
            return served
    raise AssertionError(f"told to connect again {most} times")


# -- an endpoint that refuses one token


def test_an_endpoint_that_refuses_one_pat_gets_the_next(
    make: Make,
) -> None:
    """That is remembered for this token and endpoint."""
    world = make(pat("one"), pat("two"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], status=401, body=NO_MATCHING_RULE))
    with world.proxy.client() as client:
        served = [served_by(world.turn(client, session)) for session in ("s", "s", "t", "u")]

    # the second serves, the first is asked once and goes on serving all else
    assert served == ["two"] * 4
    assert asked(world, "one") == 1
    with world.proxy.client() as client:
        assert client.get(f"https://chatgpt.com{MODELS}", headers={"thread-id": "new"}).status_code == 200
    # and another process says so
    until(lambda: listed(world)["one"]["not_for"], 10, "the list to say so")
    rows = listed(world)
    assert (rows["one"]["status"], rows["two"]["not_for"]) == ("ready", [])
    [words] = rows["one"]["not_for"]
    assert words.startswith("not used on codex/responses until")
    assert "401 no_matching_rule on codex/responses" in words
    world.check()


def test_an_endpoints_refusal_lasts_as_long_as_the_token(make: Make) -> None:
    """It outlives the proxy."""
    world = make(pat("one"), pat("two"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], status=401, body=NO_MATCHING_RULE))
    with world.proxy.client() as client:
        served_by(world.turn(client, "s"))
    until(lambda: listed(world)["one"]["not_for"], 10, "the state to have it")
    world.proxy.stop()
    world.proxy.ready = 2
    world.proxy.start()
    with world.proxy.client() as client:
        assert served_by(world.turn(client, "t")) == "two"
    assert asked(world, "one") == 1

    new = Token("at-test-brand-new-0123456789abcdef", "acc-one", "user-one", name="new")
    world.standin.add(new)
    world.proxy.pool.write_text(world.proxy.pool.read_text().replace(world.tokens[0].token, new.token))

    with world.proxy.client() as client:
        until(lambda: served_by(world.turn(client, f"n-{time.monotonic()}")) == "new", 15, "the new token to serve")
    assert listed(world)["one"]["not_for"] == []


# -- a model that an account does not have


@pytest.mark.parametrize("hint", [True, False], ids=["hint", "no hint"])
def test_a_model_one_account_lacks_is_served_by_another(make: Make, hint: bool) -> None:
    world = make(pat("free"), pat("paid"), head=DRAIN_FIRST)
    world.standin.plan(Answer(path=RESPONSES, token=world.tokens[0].token, status=400, body=unsupported("m")))
    headers = {"x-codex-routing-hint": "model=m"} if hint else {}
    with world.proxy.client() as client:
        served = [served_by(world.turn(client, session, headers=headers)) for session in ("s", "s", "t")]
        other = client.post(MODEL, json={"model": "other", "input": "x"}, headers={"thread-id": "v"})

    assert served == ["paid"] * 3
    assert served_by(other) == "free"  # which has all other models
    assert asked(world, "free") == 2
    until(lambda: listed(world)["free"]["not_for"], 10, "the list to say so")
    assert listed(world)["free"]["not_for"][0].startswith("not used for the model m until")
    world.check()


@pytest.mark.parametrize("has_error", [True, False], ids=["error", "detail"])
async def test_a_model_refused_in_a_frame_moves_the_session(make: Make, has_error: bool) -> None:
    """The client does not come back to the same identity."""
    world = make(pat("free"), pat("paid"), head=DRAIN_FIRST)
    free = world.tokens[0]
    body = in_a_frame(unsupported("m")) if has_error else unsupported("m")
    world.standin.plan(always(free, transport="message", status=400, body=body))

    # given a client whose handshake does not say which model it will ask
    assert await reconnecting(world, "s", turns=3) == ["paid"] * 3
    assert asked(world, "free", transport="websocket") == 1
    # when it connects again, in the same session
    assert await reconnecting(world, "s") == ["paid"]
    assert asked(world, "free", transport="websocket") == 1
    # then what is known counts over HTTP too
    with world.proxy.client() as client:
        assert served_by(world.turn(client, "t")) == "paid"
    world.check()


async def test_a_model_no_account_has_is_refused_once(make: Make) -> None:
    world = make(pat("a"), pat("b"), head=DRAIN_FIRST)
    for token in world.tokens:
        world.standin.plan(always(token, transport="message", status=400, body=in_a_frame(unsupported("m"))))
        world.standin.plan(always(token, method="POST", status=400, body=unsupported("m")))

    [last] = await reconnecting(world, "s", most=3)

    assert "m' model is not supported" in json.dumps(last) or "not used for the model m" in json.dumps(last)
    with world.proxy.client() as client:
        answer = world.turn(client, "t")
    assert answer.status_code == 400
    assert "a: not used for the model m until" in answer.text
    assert {asked(world, name, transport="websocket") for name in "ab"} == {1}


async def test_a_socket_without_a_session_is_moved_once(make: Make) -> None:
    world = make(pat("free"), pat("paid"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], transport="message", status=400, body=in_a_frame(unsupported("m"))))

    assert await reconnecting(world, "", turns=2, most=2) == ["paid", "paid"]


# -- a 403 that does not say why


@pytest.mark.parametrize("body", UNCLEAR, ids=["code null", "detail"])
def test_an_unclear_403_is_tried_once_elsewhere(make: Make, body: Any) -> None:
    """After the third the identity rests."""
    world = make(pat("one"), pat("two"), pat("three"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], status=403, body=body))
    with world.proxy.client() as client:
        served = [served_by(world.turn(client, "s")) for _ in range(4)]

    assert served == ["two"] * 4
    assert asked(world, "one") == 3
    assert world.proxy.log.count("one: 403 on codex/responses") >= 3
    world.proxy.says("one rests until")
    assert "two rests" not in world.proxy.log
    world.check()


def test_an_unclear_403_from_two_identities_is_relayed(make: Make) -> None:
    world = make(pat("one"), pat("two"), pat("three"), head=DRAIN_FIRST)
    world.standin.plan(Answer(path=RESPONSES, status=403, times=2, body=UNCLEAR[0]))
    with world.proxy.client() as client:
        answer = world.turn(client, "s")

    assert (answer.status_code, answer.json()) == (403, UNCLEAR[0])
    assert [seen.name for seen in world.seen if seen.path == RESPONSES] == ["one", "two"]


@pytest.mark.parametrize("status", [402, 403])
def test_a_handshake_refused_by_all_sends_the_client_to_http(make: Make, status: int) -> None:
    """There it sees why."""
    world = make(*(pat(name) for name in "abcd"))
    world.standin.plan(Answer(path=RESPONSES, status=status, times=None, body=UNCLEAR[0]))
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "MDEyMzQ1Njc4OWFiY2RlZg=="}
    with world.proxy.client() as client:
        refused = client.get(MODEL, headers={"thread-id": "s", "sec-websocket-version": "13", **upgrade})
        told = world.turn(client, "s")

    assert refused.status_code == 426
    assert (told.status_code, told.json()) == (status, UNCLEAR[0])


async def test_an_unclear_403_in_a_frame_is_tried_elsewhere_once(make: Make) -> None:
    world = make(pat("one"), pat("two"), pat("three"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], transport="message", status=403, body=UNCLEAR[0]))
    assert await reconnecting(world, "s") == ["two"]

    for token in world.tokens:
        world.standin.plan(always(token, transport="message", status=403, body=UNCLEAR[0]))
    [last] = await reconnecting(world, "t")

    assert (last["status"], last["error"]["message"]) == (403, "refresh and try again")
    assert [seen.name for seen in world.seen if seen.transport == "message"] == ["one", "two", "one", "two"]


# -- sockets that are closed


@pytest.mark.parametrize("code", [1008, 1011])
async def test_three_sockets_closed_early_make_an_identity_rest(make: Make, code: int) -> None:
    world = make(pat("one"), pat("two"), head=DRAIN_FIRST)
    world.standin.plan(always(world.tokens[0], transport="message", close=code))
    for number in range(3):
        async with world.socket("s") as socket:
            # given a client that warms its socket up first, as Codex does
            if number % 2:
                await socket.send(
                    json.dumps({"type": "response.create", "model": "m", "generate": False, "input": []})
                )
            with pytest.raises(ConnectionClosed):
                await socket_turn(socket)
    world.proxy.says("one rests until")

    async with world.socket("s") as socket:
        assert served_by(await socket_turn(socket)) == "two"
    assert world.proxy.log.count(f"its socket was closed with {code} before an answer") >= 3


# -- one request and all the others


SIDE = [
    Answer(status=403, body={"error": {"code": "model_not_available_in_workspace", "message": "no"}}),
    Answer(
        status=429, body={"error": {"type": "usage_limit_reached", "message": "no", "resets_in_seconds": EIGHT_DAYS}}
    ),
]


@pytest.mark.parametrize("refusal", SIDE, ids=["403", "limit"])
def test_a_side_endpoint_refused_by_all_spares_the_model(make: Make, refusal: Answer) -> None:
    world = make(*(pat(name) for name in "abcde"))
    world.standin.plan(
        Answer(path=IMAGES, times=None, status=refusal.status, headers=refusal.headers, body=refusal.body)
    )
    with world.proxy.client() as client:
        last: httpx.Response | None = None
        for number in range(12):
            last = client.post(f"https://chatgpt.com{IMAGES}", json={"n": number}, headers={"thread-id": "pictures"})
            assert len({served_by(world.turn(client, f"{number}-{n}")) for n in range(5)}) >= 1

    assert last is not None
    assert last.status_code == refusal.status  # its own answer, and not one of ours
    assert {row["status"] for row in listed(world).values()} == {"ready"}
    for words in ("is paused:", " rests until", "is limited", "no identity can serve"):
        assert words not in world.proxy.log


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"detail": {"code": "deactivated_workspace"}}),
        (429, {"error": {"type": "usage_limit_reached", "message": "no", "resets_in_seconds": EIGHT_DAYS}}),
    ],
    ids=["402", "limit"],
)
def test_a_turn_refused_by_all_rests_two_identities_at_most(make: Make, status: int, body: Any) -> None:
    world = make(*(pat(name) for name in "abcde"))
    headers = {"x-codex-routing-hint": "model=exotic"}
    with world.proxy.client() as client:
        for number in range(8):
            world.standin.plan(Answer(path=RESPONSES, method="POST", times=None, status=status, body=body))
            exotic = client.post(
                MODEL, json={"model": "exotic", "input": "x"}, headers={"thread-id": f"x-{number}", **headers}
            )
            assert exotic.status_code >= 400
            world.standin._plan.clear()
            served_by(world.turn(client, f"s-{number}", headers={"x-codex-routing-hint": "model=m"}))

    assert sum(row["status"] != "ready" for row in listed(world).values()) <= 2


def test_a_turn_only_one_identity_serves_is_served(make: Make) -> None:
    # given a workspace that has lapsed with all its identities, and one of another workspace
    world = make(*(pat(name) for name in "abcdef"), head=DRAIN_FIRST)
    for token in world.tokens[:-1]:
        world.standin.plan(always(token, status=402, body={"detail": {"code": "deactivated_workspace"}}))
    with world.proxy.client() as client:
        assert [served_by(world.turn(client, session)) for session in "stu"] == ["f"] * 3


def test_tokens_that_die_right_after_whoami_are_found_dead(make: Make) -> None:
    # given tokens that whoami has just spoken of, of which all but two die
    tokens = tuple(pat(f"t{number}") for number in range(8))
    world = make(*tokens)
    for token in tokens[:6]:
        world.standin.kill(token.token)

    # when requests come at once, so that the deaths look like the fault of one request
    async def at_once() -> list[httpx.Response]:
        async with world.proxy.async_client() as client:
            body = {"model": "m", "input": "hello"}
            turns = (client.post(MODEL, json=body, headers={"thread-id": f"s{n}"}) for n in range(6))
            return await asyncio.gather(*turns)

    for answer in asyncio.run(at_once()):
        served_by(answer)

    # then whoami is asked about each token that was refused, and new sessions need not find out one by one
    refused = {seen.name for seen in world.seen if seen.status == 401}
    assert len(refused) > 2
    until(
        lambda: {s.name for s in world.whoamis() if s.status == 401} >= refused, 15, "whoami's word on each of them"
    )
