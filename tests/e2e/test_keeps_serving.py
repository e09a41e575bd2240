"""Limits, trouble of the backend, moved sessions and open sockets, with plain clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.e2e.conftest import Make
from tests.e2e.world import BACKEND, MODEL, World, a_world, copied_entry, served_by, socket_turn
from tests.running import pat, until
from tests.standin import CLOUDFLARE_PAGE, RESPONSES, Answer, Seen, Token

HOUR = 3600
IMAGES = "/backend-api/codex/images/generations"
THROTTLED = {"error": {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": "slow down"}}
CONNECT_AGAIN = "websocket_connection_limit_reached"


def token_of(world: World, name: str) -> Token:
    return next(token for token in world.tokens if token.name == name)


def other(world: World, name: str) -> str:
    return next(token.name for token in world.tokens if token.name != name)


def limit(world: World, name: str, seconds: float = HOUR, **more: Any) -> None:
    world.standin.limit(token_of(world, name).token, time.time() + seconds, **more)


def calls(world: World, name: str | None = None, method: str = "POST") -> list[Seen]:
    return [s for s in world.seen if s.path == RESPONSES and s.method == method and name in (None, s.name)]


@pytest.fixture(scope="module")
def lonely_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with one identity for the whole module; `alone` resets it for each test."""
    with a_world(tmp_path_factory.mktemp("alone"), pat("work"), encrypted="bound") as world:
        yield world


@pytest.fixture
def alone(lonely_world: World) -> Iterator[World]:
    lonely_world.reset()
    yield lonely_world
    assert "needs_replacement" not in lonely_world.proxy.pool.read_text()


# -- limits


def test_a_limit_moves_the_session_unseen_and_costs_one_call(shared: World) -> None:
    world = shared
    with world.proxy.client() as client:
        first = served_by(world.turn(client))
        limit(world, first)
        served = [served_by(world.turn(client, session)) for session in ("s", "s", "new", "newer")]

    assert set(served) == {other(world, first)}
    assert [seen.status for seen in calls(world, first)].count(429) == 1
    world.check()


def test_a_limit_of_one_family_of_models_leaves_the_others(make: Make) -> None:
    world = make(pat("work"), pat("spare"), families={"gpt-spark": "codex_spark"})
    hint = {"x-codex-routing-hint": "model=gpt-spark;tier=x"}

    def spark(client: httpx.Client) -> httpx.Response:
        return client.post(MODEL, json={"model": "gpt-spark", "input": "x"}, headers={"thread-id": "s", **hint})

    with world.proxy.client() as client:
        first = served_by(world.turn(client))
        assert served_by(spark(client)) == first
        limit(world, first, family="codex_spark")

        assert served_by(spark(client)) == other(world, first)
        assert served_by(world.turn(client)) == first
        tried = len(calls(world, first))
        assert [served_by(spark(client)) for _ in range(2)] == [other(world, first)] * 2
        assert len(calls(world, first)) == tried
    world.check()
    # and it is known after a restart
    world.proxy.stop()
    world.proxy.start()
    with world.proxy.client() as client:
        assert served_by(spark(client)) == other(world, first)


def test_with_all_limited_the_client_gets_the_earliest_end(shared: World) -> None:
    world = shared
    limit(world, "work", 3 * HOUR)
    limit(world, "spare", 2 * HOUR)
    with world.proxy.client() as client:
        answer = world.turn(client)

    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (429, "usage_limit_reached")
    assert abs(error["resets_at"] - (time.time() + 2 * HOUR)) < 5
    assert answer.headers["x-codex-promo-message"] == "codexpool: all 2 identities are at their limit"
    assert not [name for name in answer.headers if name.endswith("used-percent")]


def test_with_all_throttled_the_client_learns_how_long(alone: World) -> None:
    world = alone
    world.standin.plan(Answer(path=RESPONSES, status=429, headers={"retry-after": "25"}, body=THROTTLED))
    with world.proxy.client() as client:
        answer = world.turn(client)

    assert answer.status_code == 429
    assert 20 <= int(answer.headers["retry-after"]) <= 25
    assert len(calls(world)) == 1


def test_the_proxy_waits_a_short_time_itself(alone: World) -> None:
    world = alone
    world.standin.plan(Answer(path=RESPONSES, status=429, headers={"retry-after": "2"}, body=THROTTLED))
    begun = time.monotonic()
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"

    assert 1.9 < time.monotonic() - begun < 8


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "usage_limit_reached", "insufficient_quota"])
def test_a_stream_that_fails_before_it_answers_moves_on(shared: World, code: str) -> None:
    world = shared
    world.standin.plan(Answer(path=RESPONSES, fail=code, fail_message="no more"))
    with world.proxy.client() as client:
        answer = world.turn(client, f"fails-{code}")

    assert "response.failed" not in answer.text
    assert answer.text.count("event: response.created") == 1
    assert len({seen.name for seen in calls(world)}) == 2
    assert served_by(answer) == calls(world)[-1].name
    world.check()


def test_other_and_later_stream_failures_are_relayed(shared: World) -> None:
    world = shared
    for number, more in enumerate(
        ({"fail": "context_length_exceeded"}, {"fail": "rate_limit_exceeded", "fail_after": 1})
    ):
        world.standin.plan(Answer(path=RESPONSES, fail_message="no", **more))  # type: ignore[arg-type]
        with world.proxy.client() as client:
            answer = world.turn(client, f"late-{number}")

        assert "response.failed" in answer.text
    assert len(calls(world)) == 2


async def test_a_stream_is_relayed_from_its_first_real_event(make: Make) -> None:
    world = make(pat("work"), pace=0.2, deltas=5)
    begun, came = time.monotonic(), []
    async with world.proxy.async_client() as client:
        body = {"model": "m", "input": "x"}
        async with client.stream("POST", MODEL, json=body, headers={"thread-id": "s"}) as answer:
            async for line in answer.aiter_lines():
                if "delta" in line:
                    came.append(time.monotonic() - begun)

    assert len(came) >= 5
    assert came[-1] - came[0] > 0.6


def test_a_closed_workspace_pauses_until_a_person_resumes(make: Make) -> None:
    world = make(pat("work"), pat("spare"))
    closed = {"detail": {"code": "deactivated_workspace"}}
    with world.proxy.client() as client:
        first = served_by(world.turn(client))
        world.standin.plan(Answer(path=RESPONSES, status=402, body=closed))

        assert served_by(world.turn(client)) == other(world, first)
        world.proxy.says(f"{first} is paused: 402 deactivated_workspace")
        assert {served_by(world.turn(client, f"s{n}")) for n in range(4)} == {other(world, first)}
    # it stays so over a restart
    world.proxy.stop()
    world.proxy.start()
    with world.proxy.client() as client:
        assert {served_by(world.turn(client, f"t{n}")) for n in range(4)} == {other(world, first)}
    world.check()


# -- sessions


def test_a_sub_agent_follows_its_parent(make: Make) -> None:
    world = make(*(pat(name) for name in "abcdef"))
    with world.proxy.client() as client:
        for number in range(4):
            parent = served_by(world.turn(client, f"parent-{number}"))
            named = {"x-codex-parent-thread-id": f"parent-{number}"}
            children = {served_by(world.turn(client, f"child-{number}-{n}", headers=named)) for n in range(3)}
            assert children == {parent}


async def test_a_turn_state_goes_with_the_identity_that_issued_it(shared: World) -> None:
    world = shared
    with world.proxy.client() as client:
        first = served_by(world.turn(client, "states"))
    async with world.socket("states") as socket:
        events = await socket_turn(socket)
        assert served_by(events) == first
        state = next(e["headers"]["x-codex-turn-state"] for e in events if e["type"] == "response.metadata")
        kept = await turn_with(socket, {"client_metadata": {"x-codex-turn-state": state}})
        assert kept[-1]["type"] == "response.completed"
    limit(world, first)
    async with world.socket("states") as socket:
        moved = await turn_with(socket, {"client_metadata": {"x-codex-turn-state": state, "session_id": "x"}})
        assert served_by(moved) == other(world, first)
    messages = [json.loads(seen.body or b"") for seen in world.seen if seen.transport == "message"]
    assert messages[-1]["client_metadata"] == {"session_id": "x"}
    world.check()


async def turn_with(socket: ClientConnection, more: dict[str, Any]) -> list[dict[str, Any]]:
    await socket.send(json.dumps({"type": "response.create", "model": "m", "input": "x", **more}))
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(15):
        while not events or events[-1]["type"] not in ("response.completed", "response.failed", "error"):
            events.append(json.loads(await socket.recv()))
    return events


# -- encrypted reasoning


def reasoning(account: str, number: int = 1) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "encrypted_content": f"enc:{account}:resp_{number}"}


def test_a_squeezed_request_drops_foreign_reasoning(make: Make) -> None:
    world = make(pat("work"), pat("spare"), encrypted="bound")
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}]}
    with world.proxy.client() as client:
        first = served_by(world.turn(client))
        limit(world, first)
        history = [question, reasoning(f"acc-{first}"), question]
        body = zstandard.ZstdCompressor().compress(json.dumps({"model": "m", "input": history}).encode())
        headers = {"thread-id": "s", "content-encoding": "zstd", "content-type": "application/json"}
        answers = [client.post(MODEL, content=body, headers=headers) for _ in range(2)]

    assert [served_by(answer) for answer in answers] == [other(world, first)] * 2
    seen = calls(world, other(world, first))
    # refused once, then sent without; and the next one is sent without at once
    assert [one.status for one in seen] == [400, 200, 200]
    assert all(one.header("content-encoding") == "zstd" for one in seen)
    for one in seen[1:]:
        assert json.loads(one.body or b"")["input"] == [question, question]
    assert world.standin.leaks == []


def test_unknown_encrypted_reasoning_is_dropped(alone: World) -> None:
    # given a conversation that was begun under the client's own login, past the pool
    world = alone
    history = [reasoning("acc-client"), {"type": "message", "role": "user", "content": "x"}]
    with world.proxy.client() as client:
        answer = client.post(MODEL, json={"model": "m", "input": history}, headers={"thread-id": "s"})

    assert served_by(answer) == "work"
    assert [one.status for one in calls(world)] == [400, 200]


def test_a_400_without_reasoning_to_drop_is_relayed(alone: World) -> None:
    world = alone
    refusal = {"error": {"code": "invalid_encrypted_content", "message": "no"}}
    world.standin.plan(Answer(path=RESPONSES, times=None, status=400, body=refusal))
    with world.proxy.client() as client:
        answer = world.turn(client)

    assert answer.status_code == 400
    assert len(calls(world)) == 1


# -- trouble of the backend's own


@pytest.mark.parametrize("status", [502, 503, 504])
def test_server_errors_are_retried_once_then_relayed(shared: World, status: int) -> None:
    world = shared
    body = {"error": {"message": f"trouble {status}"}}
    with world.proxy.client() as client:
        world.standin.plan(Answer(path=RESPONSES, times=1, status=status, body=body))
        served_by(world.turn(client, f"once-{status}"))
        world.standin.plan(Answer(path=RESPONSES, times=2, status=status, body=body))
        relayed = world.turn(client, f"twice-{status}")

    assert (relayed.status_code, relayed.json()) == (status, body)
    assert len(calls(world)) == 4
    assert [len({seen.name for seen in calls(world)[n : n + 2]}) for n in (0, 2)] == [1, 1]  # the same identity


@pytest.mark.parametrize("cut", ["head", "body"])
def test_a_connection_lost_early_is_tried_once_more(shared: World, cut: str) -> None:
    world = shared
    world.standin.plan(Answer(path=RESPONSES, cut=cut))  # type: ignore[arg-type]
    with world.proxy.client() as client:
        if cut == "head":
            served_by(world.turn(client, "cut-head"))
        else:
            with pytest.raises(httpx.HTTPError):
                world.turn(client, "cut-body")

    assert len(calls(world)) == (2 if cut == "head" else 1)


@pytest.mark.parametrize("answer", [Answer(path=IMAGES, cut="head"), Answer(path=IMAGES, status=503, body={})])
def test_a_request_that_may_have_acted_is_never_repeated(shared: World, answer: Answer) -> None:
    world = shared
    world.standin.plan(answer)
    with world.proxy.client() as client:
        relayed = client.post(BACKEND + IMAGES, json={}, headers={"thread-id": "images"})

    assert relayed.status_code in (502, 503)
    assert len([seen for seen in world.seen if seen.path == IMAGES]) == 1


def test_a_500_and_an_overloaded_model_are_relayed(shared: World) -> None:
    world = shared
    overloaded = {"error": {"code": "server_is_overloaded", "message": "at capacity"}}
    for status, body in ((500, {"error": {"message": "oops"}}), (503, overloaded)):
        world.standin.plan(Answer(path=RESPONSES, status=status, body=body))
        with world.proxy.client() as client:
            answer = world.turn(client, f"own-{status}")

        assert (answer.status_code, answer.json()) == (status, body)
    assert len(calls(world)) == 2


def test_pages_of_the_content_network_only_slow_down(shared: World) -> None:
    world = shared
    world.standin.plan(Answer(path=RESPONSES, times=2, status=403, body=CLOUDFLARE_PAGE))
    with world.proxy.client() as client:
        assert [world.turn(client, "edge").status_code for _ in range(2)] == [403, 403]
        begun = time.monotonic()
        served_by(world.turn(client, "edge"))

    at = [seen.at for seen in calls(world)]
    assert 0.9 < at[1] - at[0] < 3
    assert 1.8 < time.monotonic() - begun < 6
    assert "needs_replacement" not in world.proxy.log
    assert len({seen.name for seen in calls(world)}) == 1  # the session stays where it is


# -- open sockets


async def closed_within(socket: ClientConnection, seconds: float) -> int | None:
    try:
        async with asyncio.timeout(seconds):
            await socket.recv()
    except ConnectionClosed as closed:
        return closed.code
    except TimeoutError:
        return None
    raise AssertionError("it got a message")


@pytest.mark.parametrize("how", ["limited", "dead", "paused", "removed"])
async def test_idle_sockets_close_when_their_identity_cannot_serve(make: Make, how: str) -> None:
    world = make(pat("work"), pat("spare"))
    with world.proxy.client() as client:
        first = served_by(world.turn(client, "idle"))
        sessions = (f"bystander-{number}" for number in range(20))
        by = next(session for session in sessions if served_by(world.turn(client, session)) != first)
    async with world.socket("idle") as socket, world.socket(by) as bystander:
        assert served_by(await socket_turn(socket)) == first
        text = world.proxy.pool.read_text()
        match how:
            case "limited" | "dead":
                limit(world, first) if how == "limited" else world.standin.kill(token_of(world, first).token)
                async with world.proxy.async_client() as client:
                    answer = await client.post(
                        MODEL, json={"model": "m", "input": "x"}, headers={"thread-id": "idle"}
                    )
                    assert served_by(answer) == other(world, first)
            case "paused":
                world.proxy.pool.write_text(text.replace(f'name = "{first}"', f'name = "{first}"\npaused = true'))
            case "removed":
                tables = text.split("\n[[identity]]")
                world.proxy.pool.write_text("\n[[identity]]".join(t for t in tables if f'"{first}"' not in t))

        assert await closed_within(socket, 10) is not None
        assert served_by(await socket_turn(bystander)) == other(world, first)
    async with world.socket("idle") as socket:
        assert served_by(await socket_turn(socket)) == other(world, first)
    world.check()


async def test_a_flag_does_not_disturb_a_turn_under_way(make: Make) -> None:
    world = make(pat("work"), pat("spare"), pace=0.2, deltas=8)
    async with world.socket("busy") as socket:
        turn = asyncio.create_task(socket_turn(socket))
        begun = partial(until, lambda: any(s.transport == "message" for s in world.seen), 5, "the turn to begin")
        await asyncio.to_thread(begun)
        first = next(seen.name for seen in world.seen if seen.transport == "message")
        text = world.proxy.pool.read_text()
        world.proxy.pool.write_text(text.replace(f'name = "{first}"', f'name = "{first}"\npaused = true'))

        events = await turn
        assert (events[-1]["type"], served_by(events)) == ("response.completed", first)
        # and the next one is not asked under it
        again = await turn_with(socket, {})
        assert again[-1]["error"]["code"] == CONNECT_AGAIN
    assert Counter(seen.name for seen in world.seen if seen.transport == "message") == {first: 1}


async def test_a_limit_in_a_frame_makes_the_client_connect_again(shared: World) -> None:
    """It gets nothing twice."""
    world = shared
    async with world.socket("framed") as socket:
        first = served_by(await socket_turn(socket))
        limit(world, first)
        events = await turn_with(socket, {})
        assert [event["type"] for event in events] == ["error"]
        assert events[0]["error"]["code"] == CONNECT_AGAIN
        assert events[0]["headers"] == {"retry-after": "0"}
        # what the client still sends on this socket is dropped, and then it is closed
        await socket.send(json.dumps({"type": "response.create", "model": "m", "input": "lost"}))
        assert await closed_within(socket, 5) is not None
    async with world.socket("framed") as socket:
        assert served_by(await socket_turn(socket)) == other(world, first)
    assert not [seen for seen in world.seen if seen.body and b"lost" in seen.body]
    world.check()


async def test_a_client_that_keeps_its_socket_is_hung_up_on(shared: World) -> None:
    world = shared
    async with world.socket("kept") as socket:
        limit(world, served_by(await socket_turn(socket)))
        assert (await turn_with(socket, {}))[-1]["error"]["code"] == CONNECT_AGAIN
        assert await closed_within(socket, 10) is not None


async def test_a_frame_tells_a_short_time_to_wait(alone: World) -> None:
    world = alone
    frame = Answer(path=RESPONSES, transport="message", status=429, headers={"retry-after": "25"}, body=THROTTLED)
    world.standin.plan(frame)
    async with world.socket("slow") as socket:
        events = await turn_with(socket, {})

    assert (events[-1]["status"], events[-1]["error"]["type"]) == (429, "rate_limit_exceeded")
    assert 20 <= int(events[-1]["headers"]["retry-after"]) <= 25


async def test_a_rest_that_is_over_closes_no_idle_socket(shared: World) -> None:
    world = shared
    async with world.socket("idle") as socket:
        first = served_by(await socket_turn(socket))
        slow = Answer(path=RESPONSES, token=token_of(world, first).token, status=429, body=THROTTLED)
        world.standin.plan(replace(slow, headers={"retry-after": "1"}, method="POST"))
        async with world.proxy.async_client() as client:
            body, headers = {"model": "m", "input": "x"}, {"thread-id": "idle"}
            assert served_by(await client.post(MODEL, json=body, headers=headers)) == other(world, first)
        await asyncio.sleep(1.5)

        assert served_by(await socket_turn(socket)) == first


async def test_a_changed_message_keeps_its_text_in_any_script(alone: World) -> None:
    world = alone
    text = "日本語のとても長い文章。" * 1500
    history = [reasoning("acc-other"), {"type": "message", "role": "user", "content": text}]
    async with world.socket("script") as socket:
        events = await turn_with(socket, {"input": history, "client_metadata": {"x-codex-turn-state": "foreign"}})

    assert served_by(events) == "work"
    messages = [json.loads(seen.body or b"") for seen in world.seen if seen.transport == "message"]
    assert [len(message["input"]) for message in messages] == [2, 1]
    assert all(message["input"][-1]["content"] == text for message in messages)
    assert all(message["client_metadata"] == {} for message in messages)


async def test_a_token_repeated_in_a_frame_is_hidden(shared: World) -> None:
    world = shared
    for token in world.tokens:
        body = {"error": {"code": "forbidden", "message": f"bad token {token.token}"}}
        frame = Answer(path=RESPONSES, token=token.token, transport="message", status=400, body=body)
        world.standin.plan(frame)
    async with world.socket("echoes") as socket:
        events = await turn_with(socket, {})

    assert events[-1]["error"]["message"].startswith("bad token <codexpool:")


async def test_a_socket_ends_with_its_removed_account(make: Make) -> None:
    world = make(pat("work"))
    other_account = replace(pat("work"), token="at-test-other-0123456789abcdef", account_id="acc-x", user_id="u-x")
    world.standin.add(other_account)
    async with world.socket("taken") as socket:
        served_by(await socket_turn(socket))
        text = world.proxy.pool.read_text()
        world.proxy.pool.write_text(text.replace(world.tokens[0].token, other_account.token))
        await asyncio.to_thread(world.proxy.says, "account acc-x")
        with pytest.raises(ConnectionClosed):
            await turn_with(socket, {})


async def test_a_socket_from_before_a_reload_connects_again(make: Make, tmp_path: Path) -> None:
    world = make(pat("work"), script=copied_entry(tmp_path))
    async with world.socket("reloaded") as socket:
        served_by(await socket_turn(socket))
        (tmp_path / "addon").touch()
        ready = world.proxy.log.count("is ready")
        await asyncio.to_thread(until, lambda: world.proxy.log.count("is ready") > ready, 20, "the reload")

        assert (await turn_with(socket, {}))[-1]["error"]["code"] == CONNECT_AGAIN


async def test_with_no_identity_left_a_frame_says_why(alone: World) -> None:
    world = alone
    async with world.socket("alone") as socket:
        await socket_turn(socket)
        limit(world, "work")
        events = await turn_with(socket, {})

    assert (events[-1]["status"], events[-1]["error"]["type"]) == (429, "usage_limit_reached")
    assert abs(events[-1]["error"]["resets_at"] - (time.time() + HOUR)) < 5
    assert events[-1]["headers"]["x-codex-promo-message"].startswith("codexpool: the only identity")


async def test_frames_about_the_request_itself_are_relayed(shared: World) -> None:
    world = shared
    overloaded = {"error": {"code": "server_is_overloaded", "message": "at capacity"}}
    world.standin.plan(Answer(path=RESPONSES, transport="message", status=503, body=overloaded))
    world.standin.plan(Answer(path=RESPONSES, transport="message", status=400, body={"error": {"code": "bad"}}))
    async with world.socket("passes") as socket:
        first, second = await turn_with(socket, {}), await turn_with(socket, {})
        assert first[-1]["error"]["code"] == "server_is_overloaded"
        assert second[-1]["error"]["code"] == "bad"
        served_by(await socket_turn(socket))


async def test_a_socket_closed_by_the_backend_is_closed(shared: World) -> None:
    world = shared
    world.standin.plan(Answer(path=RESPONSES, transport="message", close=1011))
    async with world.socket("closing") as socket:
        with pytest.raises(ConnectionClosed):
            await turn_with(socket, {})
    world.proxy.says("its socket was closed with 1011 before an answer")


# -- the breaker


def test_a_cascade_costs_each_identity_one_call_at_most(make: Make) -> None:
    """It is over when a person says so."""
    world = make(*(pat(f"i{number}") for number in range(10)))
    for token in world.tokens[:-1]:
        world.standin.kill(token.token)
    alive = world.tokens[-1]
    with world.proxy.client() as client:
        answers = [world.turn(client, f"s{number}") for number in range(3)]
    served = [served_by(answer) for answer in answers if answer.status_code == 200]
    assert set(served) <= {alive.name}

    refused = Counter(seen.name for seen in calls(world) if seen.status == 401)
    world.proxy.says("the breaker is open until")
    probes = world.proxy.log.count("the breaker is open until") - 1  # On a busy machine it opens again meanwhile.
    assert sum(refused.values()) <= len(refused) + probes
    assert served or "the breaker is closed" not in world.proxy.log  # On a busy machine it tries again meanwhile.
    codexpool = str(Path(sys.executable).with_name("codexpool"))
    command = [codexpool, "breaker", "--close", "--config", str(world.proxy.pool)]
    environ = {**os.environ, "CODEXPOOL_STATE": str(world.proxy.state)}
    assert subprocess.run(command, env=environ, check=False, timeout=30).returncode == 0
    world.proxy.says("the breaker is closed: sessions are moved again", 10)
    world.check()
