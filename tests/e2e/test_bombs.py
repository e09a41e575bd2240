"""Bombs, endless answers and headers of a megabyte, all at one proxy: it stays small, and goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.e2e.conftest import Make
from tests.e2e.world import BACKEND, MODEL, World, served_by
from tests.protocol.codings import COMPRESSED, MB, bomb
from tests.running import key_of, member, pat
from tests.standin import RESPONSES, Answer

MEMORY = 72 * MB  # above a proxy that has served one request
STANDS = 0.25
"""Seconds of processor time that the loop may stand: 0.1, with a margin for a machine that does other things, too."""

MCP = f"{BACKEND}/backend-api/ps/mcp"
CHECK = f"{BACKEND}/backend-api/wham/accounts/check"
EVENTS = {"content-type": "text/event-stream"}


def client_of(world: World) -> httpx.Client:
    """Of a member."""
    client = world.proxy.client()
    del client.headers["authorization"], client.headers["chatgpt-account-id"]
    client.headers["authorization"] = f"Bearer {key_of('ann')}"
    return client


def refusals_that_inflate(world: World, client: httpx.Client) -> None:
    for name in COMPRESSED:
        encoding, body = bomb(name)
        for status in (400, 401, 429, 500):
            world.standin.plan(
                Answer(path=RESPONSES, status=status, headers={"content-encoding": encoding}, body=body)
            )
            answer = world.turn(client, f"bomb-{name}-{status}")
            assert len(answer.content) < MB
            world.standin.unplan()


def refusals_without_end(world: World, client: httpx.Client) -> None:
    for status in (400, 401, 500):
        world.standin.plan(Answer(path=RESPONSES, status=status, body=b"x" * 65_536, endless=0.0))
        assert len(world.turn(client, f"endless-{status}").content) < MB
        world.standin.unplan()
    world.standin.plan(Answer(path=RESPONSES, status=401, body=b"x", endless=0.3))
    served_by(world.turn(client, "drips"))


def discovery_without_end(world: World, client: httpx.Client) -> None:
    for more in ({"body": b"[" * 65_536, "endless": 0.0}, {"body": b"[]," * MB}):
        world.standin.plan(Answer(path="/backend-api/wham/accounts/check", times=2, status=200, **more))
        client.get(CHECK, headers={"chatgpt-account-id": "acc-ann"})
        world.standin.unplan()


def streams_that_inflate_without_end(world: World, client: httpx.Client) -> None:
    for name in COMPRESSED:
        encoding, body = bomb(name)
        headers = {**EVENTS, "content-encoding": encoding}
        world.standin.plan(Answer(path=RESPONSES, status=200, headers=headers, body=body, endless=0.01))
        with client.stream("POST", MODEL, json={"model": "m", "input": "x"}) as answer:
            passed = 0
            for piece in answer.iter_raw():
                passed += len(piece)
                if passed > 2 * len(body):
                    break
        world.standin.unplan()


def events_without_end(world: World, client: httpx.Client) -> None:
    for body in (b"data: " + b"x" * 65_536, b'data: {"type": "error"}\n\n' * 1000, b": x\n\n" * 10_000):
        world.standin.plan(Answer(path=RESPONSES, status=200, headers=EVENTS, body=body, endless=0.0))
        with client.stream("POST", MODEL, json={"model": "m", "input": "x"}) as answer:
            passed = 0
            for piece in answer.iter_raw():
                passed += len(piece)
                if passed > 30 * MB:
                    break
        world.standin.unplan()


def requests_that_inflate(world: World, client: httpx.Client) -> None:
    for name in COMPRESSED:
        encoding, body = bomb(name)
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        assert client.post(MCP, content=body, headers=headers).status_code == 400
        assert client.post(MODEL, content=body, headers=headers).status_code == 415
    # and one that is within its bounds, is full of what could be left out, and is refused for that
    thought = json.dumps({"type": "reasoning", "encrypted_content": "e" * 40, "summary": []}).encode()
    text = b'{"model":"m","input":[' + b",".join([thought] * 60_000) + b"]}"
    assert len(text) < 16 * MB
    refusal = {"error": {"code": "invalid_encrypted_content", "message": "no"}}
    world.standin.plan(Answer(path=RESPONSES, status=400, body=refusal))
    served_by(client.post(MODEL, content=text, headers={"content-type": "application/json"}))


def headers_of_a_megabyte(world: World, client: httpx.Client) -> None:
    for number in range(150):
        world.turn(client, f"headers-{number}", headers={f"x-{number}": f"{number}" + "h" * 900_000})
    for number in range(20):
        headers = {"x-answer": "h" * 60_000, **EVENTS}
        world.standin.plan(Answer(path=RESPONSES, status=200, headers=headers, body=b": x\n\n"))
        world.turn(client, f"answers-{number}", headers={"thread-id": f"{number}" + "t" * 500_000})


async def messages_that_inflate(world: World) -> None:
    with contextlib.suppress(WebSocketException, OSError):
        async with world.socket("large") as socket:
            await socket.send(json.dumps({"type": "response.create", "model": "m", "input": " " * 200 * MB}))
            async with asyncio.timeout(20):
                await socket.recv()


@pytest.fixture
def world(make: Make) -> World:
    tokens = [pat(name) for name in ("a", "b", "c", "d", "e", "f")]
    arguments = ("--set", "flow_detail=0")
    return make(*tokens, head="[pool]\nbreaker = 6\n", tail=member("ann"), arguments=arguments)


async def test_bombs_cost_little_memory_and_never_stop_the_loop(
    world: World,
) -> None:
    everything = (
        refusals_that_inflate,
        refusals_without_end,
        discovery_without_end,
        streams_that_inflate_without_end,
        events_without_end,
        requests_that_inflate,
        headers_of_a_megabyte,
    )
    with client_of(world) as client:
        served_by(world.turn(client, "warm-up"))
        before = world.proxy.door("state")["rss"]
        world.proxy.door("peak")
        world.proxy.door("ticks")
        measured: dict[str, tuple[int, float]] = {}

        def note(name: str) -> None:
            measured[name] = ((world.proxy.door("peak") - before) // MB, round(world.proxy.door("ticks"), 3))

        for attack in everything:
            await asyncio.to_thread(attack, world, client)
            note(attack.__name__)
            await asyncio.to_thread(world.reset)
        await messages_that_inflate(world)
        note(messages_that_inflate.__name__)
        await asyncio.to_thread(world.reset)
        assert served_by(await asyncio.to_thread(world.turn, client, "afterwards"))

    assert max(memory for memory, _ in measured.values()) <= MEMORY // MB, measured
    assert max(stood for _, stood in measured.values()) < STANDS, measured
    assert "Traceback" not in world.proxy.log
