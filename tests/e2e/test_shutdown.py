"""SIGTERM: running requests end normally, and a successor continues the sessions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from codexpool.local import running_proxies
from codexpool.web.site import SHUTTING_DOWN
from tests.e2e.conftest import Make
from tests.e2e.world import FAILED_CLOSED, MODEL, E2EProxy, World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import RESPONSES, WHOAMI, Answer

pytestmark = pytest.mark.usefixtures("commands_themselves")

DONE = "response.output_item.done"
TURN = {"model": "m", "input": "hello"}


def terminate(world: World) -> None:
    os.kill(world.proxy.pid, signal.SIGTERM)


def is_refused(world: World) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", world.proxy.port)) != 0


def successor_of(world: World) -> E2EProxy:
    """A proxy with the same pool, state and port, which starts while the other one ends."""
    successor = E2EProxy(world.standin, world.proxy.folder, "-p", str(world.proxy.port), ready=2)
    successor.log_file = world.proxy.folder / "successor.log"
    return successor


async def post(client: httpx.AsyncClient, session: str) -> httpx.Response:
    return await client.post(MODEL, json=TURN, headers={"thread-id": session})


async def to_its_end(socket: ClientConnection) -> list[dict[str, Any]]:
    """What comes on a socket until it is closed."""
    async with asyncio.timeout(10):
        return [json.loads(message) async for message in socket]


async def test_turns_under_way_lose_no_byte(make: Make) -> None:
    """A successor serves their sessions."""
    # given a stream, a busy socket, an idle one, and kept connections, one of them a load balancer's
    world = make(pat("work"), pat("spare"))
    world.standin.plan(Answer(path=RESPONSES, times=1, method="POST", deltas=20, pace=0.2))
    world.standin.plan(Answer(path=RESPONSES, times=1, transport="message", after=1, deltas=10, pace=0.1))
    successor = successor_of(world)
    async with (
        world.proxy.async_client() as client,
        httpx.AsyncClient(base_url=world.proxy.url, headers={"host": "codex.pool"}, trust_env=False) as probe,
        world.socket("idle") as idle,
        world.socket("busy") as busy,
    ):
        of_idle = served_by(await socket_turn(idle))
        await busy.send(json.dumps({"type": "response.create", **TURN}))
        async with client.stream("POST", MODEL, json=TURN, headers={"thread-id": "stream"}) as answer:
            pieces = answer.aiter_text()
            text = await anext(pieces)
            of_kept = served_by(await post(client, "kept"))
            assert (await probe.get("/healthz/ready")).json() == {"status": "ok", "ready": True, "probe": 2}

            # when the proxy is told to end
            terminate(world)

            # then a turn that comes over an old connection is to come again
            await asyncio.to_thread(until, lambda: is_refused(world), 5, "the port to be free")
            refused = await post(client, "kept")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "0")
            assert refused.json()["error"]["code"] == FAILED_CLOSED
            assert (await probe.get("/healthz/ready")).json()["reason"] == SHUTTING_DOWN
            # and another proxy can listen in its place
            assert running_proxies.announced(world.proxy.state.parent) == []
            await asyncio.to_thread(successor.start)
            try:
                # and sockets are closed: the idle one at once, the busy one when it has its answer
                assert await to_its_end(idle) == []
                assert (await to_its_end(busy))[-1]["type"] == "response.completed"
                # and the turn comes again, over a connection to the successor
                assert served_by(await post(client, "kept")) == of_kept
                # and the stream comes to its end, and the process after it
                text += "".join([piece async for piece in pieces])
                events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
                said = "".join(event.get("delta", "") for event in events)
                assert [said] == [event["item"]["content"][0]["text"] for event in events if event["type"] == DONE]
                assert events[-1]["type"] == "response.completed"
                assert await asyncio.to_thread(world.proxy.ends, 10) == 0
                # and the sessions stay with their identities
                assert served_by(await post(client, "stream")) == served_by(events)
                assert served_by(await post(client, "idle")) == of_idle
            finally:
                successor.stop()
    world.check()


WAITS = {
    "for whoami": (Answer(path=WHOAMI, delay=30, times=None), False),
    "for an answer": (Answer(path=RESPONSES, delay=30, times=None), False),
    "within an answer": (Answer(path=RESPONSES, deltas=100, pace=0.3, times=None), False),
    "on a socket": (Answer(path=RESPONSES, transport="message", deltas=100, pace=0.3, times=None), True),
}
"""What a request may wait for while the proxy is told to end; and whether it came on a socket."""


@pytest.mark.parametrize("what", WAITS)
async def test_ctrl_c_ends_the_proxy_without_a_traceback(make: Make, what: str) -> None:
    answer, on_a_socket = WAITS[what]
    plan = (answer,) if answer.path == WHOAMI else ()
    world = make(pat("work"), pat("spare"), plan=plan, ready=0 if plan else 2)
    world.standin.plan(answer)

    async def waits() -> None:
        with contextlib.suppress(httpx.TransportError, WebSocketException):
            if on_a_socket:
                async with world.socket() as socket:
                    await socket_turn(socket)
            else:
                async with world.proxy.async_client() as client:
                    await post(client, "s")

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(1.5)
    code = await asyncio.to_thread(world.proxy.stop, signal.SIGINT)
    await waiting

    assert code == 0
    assert "Traceback" not in world.proxy.log


async def test_a_second_sigterm_ends_it_at_once_whatever_hangs(make: Make) -> None:
    # given a request without an answer, and a log in JSON
    world = make(pat("work"), arguments=("--set", "codexpool_logs=json"))
    world.standin.plan(Answer(path=RESPONSES, times=1, delay=60))
    async with world.proxy.async_client() as client:
        hanging = asyncio.create_task(post(client, "s"))
        await asyncio.to_thread(until, lambda: world.standin.requests(RESPONSES), 10, "the request to have left")

        terminate(world)
        await asyncio.to_thread(world.proxy.says, "requests under way: 1; waiting up to 30 s", 5)
        log = world.proxy.log.splitlines()
        terminate(world)

        assert await asyncio.to_thread(world.proxy.ends, 5) == 0
        await asyncio.gather(hanging, return_exceptions=True)
    # from when the addon was loaded, all that was printed is JSON
    at = next(at for at, line in enumerate(log) if line.startswith("{"))
    messages = [json.loads(line)["message"] for line in log[at:]]
    assert any("listening at" in message for message in messages)
    assert "SIGTERM" in messages[-1]
