"""Open WebSockets in observe mode: every message passes as it is, and each turn is judged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http, websocket
from wsproto.frame_protocol import Opcode

from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.sockets import MESSAGES_KEPT
from tests.proxy.observe.flows import LIMIT, RESPONSES, REVOKED, answered, observing, request, said, sent, trace_of
from tests.running import CLIENT


def opened(observed: ObserveHandler, flow: http.HTTPFlow) -> websocket.WebSocketData:
    flow.websocket = websocket.WebSocketData()
    observed.socket_opened(flow)
    return flow.websocket


async def message(observed: ObserveHandler, flow: http.HTTPFlow, from_client: bool, content: bytes) -> None:
    """A message passes by, without a hook if there is a reader for it, and is passed on."""
    assert flow.websocket is not None
    made = websocket.WebSocketMessage(Opcode.TEXT, from_client, content)
    flow.websocket.messages.append(made)
    reader = None if from_client else observed.message_reader(flow)
    if reader is not None:
        reader(made)
    else:
        await observed.message(flow)
    assert (made.content, made.dropped) == (content, False)


async def socket(observed: ObserveHandler) -> http.HTTPFlow:
    flow = request(RESPONSES, (b"upgrade", b"websocket"), method="GET", body=b"")
    await sent(observed, flow)
    await answered(observed, flow, 101, b"")
    opened(observed, flow)
    return flow


CREATE = b'{"type": "response.create", "model": "m", "input": [{"type": "reasoning", "encrypted_content": "x"}]}'


def error_frame(status: int, error: dict[str, Any]) -> bytes:
    return json.dumps({"type": "error", "status": status, **error}).encode()


FRAMES = {
    "good": (b'{"type": "response.completed"}', "completed", None),
    "refused": (
        *(error_frame(401, REVOKED), "failed: 401 token_revoked, would be told to connect again"),
        "7",
    ),
    "limit": (
        json.dumps({"type": "response.failed", "response": LIMIT}).encode(),
        *("failed: 429 usage_limit_reached, would be told to connect again", "10"),
    ),
    "not portable": (
        *(error_frame(400, {"error": {"code": "invalid_encrypted_content"}}),),
        *("failed: 400 invalid_encrypted_content", "12"),
    ),
    "its own": (b'{"type": "response.failed", "response": {"error": {"code": "x"}}}', "failed", None),
}


@pytest.mark.parametrize(("frame", "outcome", "row"), FRAMES.values(), ids=FRAMES)
async def test_each_turn_on_a_socket_is_judged_and_relayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, frame: bytes, outcome: str, row: str | None
) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, "work", "spare")
    flow = await socket(observed)
    await message(observed, flow, True, CREATE)
    await message(observed, flow, False, b'{"type": "response.created"}')
    await message(observed, flow, False, frame)

    (turn,) = trace_of(flow).turns
    assert turn.outcome == outcome
    assert (turn.verdict.row if turn.verdict else None) == row
    assert (turn.bytes_out, turn.bytes_in) == (len(CREATE), len(b'{"type": "response.created"}') + len(frame))
    assert said(caplog) == [
        f"GET {RESPONSES} (session s): would be sent as work; answered 101",
        f"a turn on the socket of session s: would be sent as work; {outcome}",
    ]


async def test_a_turn_is_traced_without_a_pool(tmp_path: Path) -> None:
    observed = observing(tmp_path)
    flow = await socket(observed)
    await message(observed, flow, True, CREATE)
    await message(observed, flow, False, error_frame(401, REVOKED))

    assert [turn.outcome for turn in trace_of(flow).turns] == ["failed: 401 token_revoked"]


async def test_a_socket_from_before_a_reload_keeps_its_last_messages(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = await socket(observing(tmp_path, "work"))
    for number in range(100):
        await message(observed, flow, False, b"%d" % number)

    assert flow.websocket is not None
    assert [kept.content for kept in flow.websocket.messages] == [b"%d" % n for n in range(84, 100)]


async def test_only_turns_of_the_client_are_traced_on_a_socket(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = await socket(observed)
    for from_client, content in (
        (True, b"no JSON"),
        (False, b'{"type": "error", "error": {}}'),
        (False, error_frame(401, REVOKED)),
        (False, b'{"type": "response.metadata", "headers": {"x-codex-turn-state": "state"}}'),
    ):
        await message(observed, flow, from_client, content)
    assert flow.websocket is not None
    flow.websocket.closed_by_client = True
    observed.socket_closed(flow)

    trace = trace_of(flow)
    assert list(trace.turns) == []
    assert trace.ended_at is not None
    assert observed.history.tallies.sockets_open == 0


async def test_a_socket_shows_its_last_messages_redacted(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = await socket(observed)
    await message(observed, flow, False, error_frame(401, {"error": {"message": f"bad: {CLIENT.token}"}}))
    assert flow.websocket is not None
    first = flow.websocket.messages[0]
    observed.socket_closed(flow)
    assert b"bad: <codexpool:client>" in first.content

    flow = await socket(observed)
    assert flow.websocket is not None
    for number in range(100):
        await message(observed, flow, False, b'{"type": "x", "number": %d}' % number)
    assert len(flow.websocket.messages) == MESSAGES_KEPT
    assert b"99" in flow.websocket.messages[-1].content


async def test_a_socket_whose_messages_cannot_be_read_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = observing(tmp_path, "work")
    flow = await socket(observed)

    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("codexpool.proxy.observe.sockets.frames.kind", broken)
    await message(observed, flow, True, CREATE)
    await message(observed, flow, False, b'{"type": "response.completed"}')
