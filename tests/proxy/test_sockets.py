"""What the end of a socket says of its identity, without a proxy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy.test import tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from codexpool.pool.identity import Asked, Status
from codexpool.pool.states import DOUBTS
from codexpool.protocol import frames
from codexpool.proxy import sockets as sockets_module
from codexpool.proxy.flows import Closed, Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.proxy.sockets import MESSAGES_KEPT, OpenSocket, Pending, Sockets
from codexpool.traces.history import History
from tests.pool.pools import RESPONSES, metadata, ready_pool


@pytest.mark.parametrize(
    ("code", "rests"),
    [
        *((code, True) for code in (1006, 1008, 1011, None)),
        # too long, or nothing that the backend takes: that is what the client has sent
        *((code, False) for code in (1003, 1007, 1009)),
        *((code, False) for code in (1000, 1001, 1012, 1013)),
    ],
)
def test_a_close_counts_only_if_it_may_be_the_identitys_fault(code: int | None, rests: bool) -> None:
    pool = ready_pool("one", "two")
    one = pool.identities["one"]
    attempt = SimpleNamespace(name="one", bearer=SimpleNamespace(fingerprint=one.fingerprint))
    exchange: Any = SimpleNamespace(asked=Asked("s", RESPONSES), named="s", attempt=attempt)
    flow: Any = SimpleNamespace(websocket=SimpleNamespace(closed_by_client=False, close_code=code))
    flows = SimpleNamespace(keeper=SimpleNamespace(pool=pool), serves=True)
    nothing: Any = None
    sockets = Sockets(flows, nothing, nothing, nothing, nothing)  # type: ignore[arg-type]

    for _ in range(DOUBTS):
        OpenSocket(flow, exchange, sockets, [Pending()]).on_close()

    assert one.status is (Status.RESTING if rests else Status.READY)


# -- sessions that another proxy moved


class Moving:
    """The socket of a session, and what becomes of it when another proxy has moved the session."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pending: Pending) -> None:
        self.hung_up: list[object] = []
        self.injected: list[bytes] = []
        monkeypatch.setattr(sockets_module, "_hang_up", self.hung_up.append)
        monkeypatch.setattr(sockets_module, "_inject", lambda flow, message: self.injected.append(message))
        self.pool = ready_pool("one", "two")
        attempt = SimpleNamespace(name="one", metadata=self.pool.identities["one"].metadata)
        trace = SimpleNamespace(begin_turn=lambda at: None, request_bytes=0, bytes_in=0)
        exchange: Any = SimpleNamespace(
            asked=Asked("s", RESPONSES), session="s", named="s", attempt=attempt, member=None, trace=trace
        )
        flows: Any = SimpleNamespace(keeper=SimpleNamespace(pool=self.pool), serves=True)
        gate: Any = SimpleNamespace(may_go_on=lambda member: True)
        dressing: Any = SimpleNamespace(message=lambda content, asked, session, attempt: content)
        self.sockets = Sockets(flows, dressing, History(), gate, cast(Any, None))
        self.flow = tflow.twebsocketflow()
        self.sockets.opened(self.flow, exchange)
        self.socket = self.sockets._open[self.flow]
        self.socket.pending.extend(pending)

    def moved_from(self, name: str) -> None:
        self.sockets.sessions_moved({"s": metadata(name).key, "another": metadata("one").key})

    def asks(self, path: str) -> None:
        self.socket.exchange.asked = Asked("s", path)

    def next_message_is_dropped(self) -> bool:
        message = WebSocketMessage(Opcode.TEXT, True, b'{"type":"response.create","model":"m"}')
        self.socket._ask(message)
        return message.dropped


async def test_an_idle_socket_of_a_moved_session_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = Moving(monkeypatch)

    moving.moved_from("one")

    assert moving.hung_up == [moving.flow]
    assert moving.socket.has_left


async def test_a_busy_socket_of_a_moved_session_moves_with_its_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = Moving(monkeypatch, Pending())

    moving.moved_from("one")
    assert (moving.hung_up, moving.socket.has_left) == ([], False)
    moving.socket._end_first()

    assert moving.next_message_is_dropped()
    assert moving.injected == [frames.connect_again()]


async def test_a_socket_stays_if_its_identity_did_not_serve_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves an endpoint or a model that the session's own identity cannot serve."""
    moving = Moving(monkeypatch)

    moving.moved_from("two")

    assert moving.hung_up == []
    assert not moving.next_message_is_dropped()


# -- what is counted


async def test_the_messages_of_both_sides_are_counted_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a socket that is not one for the model, and not what is dropped after the client was told to leave."""
    moving = Moving(monkeypatch)
    history, flow = moving.sockets.history, moving.flow
    assert flow.websocket is not None
    messages = flow.websocket.messages

    async def pass_on(from_client: bool, content: bytes) -> None:
        messages.append(WebSocketMessage(Opcode.TEXT, from_client, content))
        await moving.sockets.on_message(flow)

    await pass_on(True, b'{"type":"hello"}')
    await pass_on(False, b'{"type":"response.created"}')
    moving.asks("/backend-api/codex/realtime/calls")
    await pass_on(True, b"12345")
    await pass_on(False, b"1234567")
    moving.socket.has_left = True
    await pass_on(False, b"lost")

    trace = moving.socket.exchange.trace
    assert (trace.request_bytes, trace.bytes_in) == (16 + 5, 27 + 7)
    assert (history.tallies.bytes_out, history.tallies.bytes_in) == (16 + 5, 27 + 7)


# -- messages without a hook


def test_only_an_open_socket_of_a_pool_that_serves_has_a_reader() -> None:
    handler, nothing = SwapHandler(History()), cast(Any, SimpleNamespace())
    known, unknown = tflow.twebsocketflow(), tflow.twebsocketflow()
    assert handler.message_reader(known) is None
    handler.flows.mode = Serving(nothing)
    handler.flows[known] = nothing
    assert handler.message_reader(known) is None
    handler.sockets.opened(known, nothing)
    assert handler.message_reader(known) is not None
    assert handler.message_reader(unknown) is None
    handler.flows.mode = Closed("a reload")
    assert handler.message_reader(known) is None


def test_a_message_that_cannot_be_read_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """The exchange has no attribute: whatever is looked at raises."""
    flow, nothing = tflow.twebsocketflow(), cast(Any, SimpleNamespace())
    socket = OpenSocket(flow, nothing, nothing)
    assert flow.websocket is not None
    for number in range(2 * MESSAGES_KEPT):
        message = WebSocketMessage(Opcode.TEXT, False, b"%d" % number)
        flow.websocket.messages.append(message)
        socket.read(message)
        assert (message.content, message.dropped) == (b"%d" % number, False)
    assert len(flow.websocket.messages) == MESSAGES_KEPT
    assert caplog.messages == ["reading a message failed"] * 2 * MESSAGES_KEPT
