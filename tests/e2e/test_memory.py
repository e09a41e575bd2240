"""What passes by is not kept."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.conftest import Make
from tests.e2e.world import MODEL, OWN
from tests.running import pat, until
from tests.standin import RESPONSES, Answer

pytestmark = pytest.mark.usefixtures("commands_themselves")

MB = 1 << 20


async def test_streams_sockets_and_finished_requests_are_not_kept(make: Make) -> None:
    world = make(pat("work"), pat("spare"), deltas=3000, arguments=("--set", "flow_detail=0"))
    with world.proxy.client() as client:
        world.turn(client, "warm-up")
        before = world.proxy.door("state")

        # A long answer
        events = b'event: x\ndata: {"type": "response.output_text.delta", "delta": "' + b"x" * 1000 + b'"}\n\n'
        headers = {"content-type": "text/event-stream"}
        world.standin.plan(Answer(path=RESPONSES, status=200, headers=headers, body=events * 20_000))
        passed = 0
        with client.stream("POST", MODEL, json={"model": "m", "input": "x"}) as answer:
            for piece in answer.iter_raw():
                passed += len(piece)
        assert passed == 20_000 * len(events)
        streamed = world.proxy.door("state")
        assert streamed["rss"] - before["rss"] < 10 * MB

        # A long conversation on one socket
        async with world.socket("long") as socket:
            messages = 0
            for number in range(40):
                # Every tenth turn has an answer of many messages, and every turn a request that is large.
                word = "x" * (9_000 if number % 10 == 0 else 1)
                text = f"{'y' * 600_000} echo:{word}"
                await socket.send(json.dumps({"type": "response.create", "model": "m", "input": text}))
                while "response.completed" not in str(await socket.recv()):
                    messages += 1
            talked = world.proxy.door("state")
        assert messages > 10_000
        assert len(talked["messages"]) == 1
        assert max(talked["messages"]) <= 64
        assert talked["rss"] - streamed["rss"] < 15 * MB

        # Many requests, refused ones among them, and clients that leave
        for number in range(150):
            if number % 10 == 0:
                body = {"error": {"code": "no_matching_rule"}}
                world.standin.plan(Answer(path="/backend-api/codex/memories/x", status=401, body=body))
                client.get("https://chatgpt.com/backend-api/codex/memories/x")
            world.turn(client, f"many-{number}")
            client.get(OWN)

    world.standin.plan(Answer(path=RESPONSES, times=5, delay=5))
    async with world.proxy.async_client() as leaving:
        going = [asyncio.create_task(leaving.post(MODEL, json={"model": "m", "input": "x"})) for _ in range(5)]
        await asyncio.sleep(0.5)
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def forgotten() -> bool:
        now = world.proxy.door("state")
        return bool(now["exchanges"] == 0 and now["flows"] <= 2)

    await asyncio.to_thread(until, forgotten, 8, "the last exchange to be forgotten")
