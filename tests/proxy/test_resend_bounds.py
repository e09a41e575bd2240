"""What comes from outside is bounded: answers that are held, what comes before and after them, WebSocket messages."""

from __future__ import annotations

import importlib
import tracemalloc
import zlib
from types import ModuleType
from typing import Any

import pytest
from mitmproxy import connection, http, websocket
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.layers.websocket import WebSocketMessageInjected
from mitmproxy.test.tflow import tclient_conn
from wsproto.connection import Connection as WebSocket
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

import codexpool.proxy
from codexpool.proxy import connections, resend
from tests.proxy.playbook import Fields, H1Client, H1Upstream, Protocol, Proxy, ScriptedSender, Seen, Streaming
from tests.proxy.test_resend_protocol import (
    EVENTS,
    each_client,
    each_pair,
    handshake,
    nothing_is_left,
    refuse,
    sender,
    serve,
    taken_back,
)

__all__ = ["sender"]

PIECE = bytes(60_000)


# -- the body of an answer that is held


@pytest.fixture
def judging(sender: ScriptedSender) -> ScriptedSender:
    """A sender for which the status of a 401 is enough to go by."""
    sender.judges = {401}
    return sender


@each_pair
def test_a_refusal_without_end_is_judged_by_its_status(
    client: Protocol, upstream: Protocol, judging: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]

    first.upstream.answer(first, 401, b"refused ", end=False)
    pieces = without_end(proxy, first)

    assert pieces * len(PIECE) <= resend.MOST_HELD + len(PIECE)
    assert taken_back(first)
    serve(proxy.requests[1])
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    assert proxy.flows[0].error is None
    nothing_is_left(proxy)


@each_pair
def test_a_refusal_that_drips_is_judged_by_its_status(
    client: Protocol, upstream: Protocol, judging: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 401, b"r", end=False)
    first.upstream.answer_more(first, b"e", end=False)
    assert len(proxy.requests) == 1

    proxy.wake(after=resend.LONGEST_READ)

    assert taken_back(first)
    serve(proxy.requests[1])
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("how", ["closed", "without end", "dripping"])
def test_the_last_refusal_is_relayed_as_what_it_was_taken_for(
    client: Protocol, upstream: Protocol, how: str, judging: ScriptedSender
) -> None:
    judging.attempts = 1
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    (first,) = proxy.requests
    first.upstream.answer(first, 401, b"refu", end=False)
    not_whole(proxy, first, how)

    assert (got.status, got.body, got.complete) == (401, b"cut", True)
    assert proxy.hooks == ["requestheaders", "request", "responseheaders", "response"]
    assert judging.told[:-1] == ["head", judging.told[1]]
    assert judging.told[-1] == "whole"
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_a_refusal_that_is_cut_off_is_judged_by_its_status(
    client: Protocol, upstream: Protocol, attempt: int, judging: ScriptedSender
) -> None:
    judging.attempts = 5
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(attempt - 1):
        refuse(proxy.requests[number])
    last = proxy.requests[-1]

    last.upstream.answer(last, 401, b"refu", end=False)
    last.upstream.close()

    assert [seen.body for seen in proxy.requests] == [b"question"] * (attempt + 1)
    serve(proxy.requests[-1])
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    assert "error" not in proxy.hooks
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("how", ["closed", "without end", "dripping"])
@pytest.mark.parametrize("repeats", [True, False])
def test_an_uninformative_answer_is_lost_with_its_body(
    client: Protocol, upstream: Protocol, how: str, repeats: bool, judging: ScriptedSender
) -> None:
    judging.repeats = repeats
    proxy = Proxy(client=client, upstream=upstream, addon=HoldsAll())
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"acc", end=False)
    not_whole(proxy, first, how)

    if repeats:
        serve(proxy.requests[1])
    assert len(proxy.requests) == 1 + repeats
    assert (got.status, got.over) == (200 if repeats else 502, True)
    assert b"acc" not in got.body
    nothing_is_left(proxy)


@each_pair
def test_an_answer_that_is_not_held_is_as_long_as_it_likes(
    client: Protocol, upstream: Protocol, judging: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    (first,) = proxy.requests
    first.upstream.answer(first, 200, b"", end=False)
    for _ in range(40):
        first.upstream.answer_more(first, PIECE, end=False)
    first.upstream.answer_more(first, b"end")
    assert (len(got.body), got.complete) == (40 * len(PIECE) + 3, True)


@each_pair
def test_unclaimed_answers_are_bounded_by_mitmproxy_only(
    client: Protocol, upstream: Protocol, judging: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/unclaimed", b"question")
    (first,) = proxy.requests
    first.upstream.answer(first, 401, b"no", end=False)
    for _ in range(20):
        first.upstream.answer_more(first, PIECE, end=False)
    first.upstream.answer_more(first, b"end")
    assert (got.status, len(got.body)) == (401, 20 * len(PIECE) + 5)
    assert [one.delay for one in proxy.wakeups if one.delay == resend.LONGEST_READ] == []


class HoldsAll(Streaming):
    def responseheaders(self, flow: http.HTTPFlow) -> None: ...


def without_end(proxy: Proxy, seen: Seen) -> int:
    """Have an answer go on until the proxy has had enough; how many pieces that took."""
    for number in range(100):
        if taken_back(seen):
            return number
        seen.upstream.answer_more(seen, PIECE, end=False)
    raise AssertionError("it is read for ever")


def not_whole(proxy: Proxy, seen: Seen, how: str) -> None:
    match how:
        case "closed":
            seen.upstream.close()
        case "without end":
            without_end(proxy, seen)
        case "dripping":
            proxy.wake(after=resend.LONGEST_READ)


# -- a wakeup that comes late


@each_client
@pytest.mark.parametrize(("status", "fields"), [(401, ()), (200, EVENTS)])
def test_a_hold_that_is_over_at_once_has_no_timer(
    client: Protocol, status: int, fields: Fields, sender: ScriptedSender
) -> None:
    sender.attempts = 1
    proxy = Proxy(client=client)
    got = proxy.client.ask("/claimed", b"question")
    (seen,) = proxy.requests
    seen.upstream.answer(seen, status, b"delta;", fields)

    assert proxy.wakeups == []
    assert (got.status, got.body, got.complete) == (status, b"delta;", True)


@each_pair
def test_an_old_timer_does_not_end_the_next_hold(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.attempts = 3
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"", EVENTS, end=False)
    first.upstream.answer_more(first, b"failed;", end=False)
    second = proxy.requests[1]
    second.upstream.answer(second, 200, b"created;", EVENTS, end=False)

    proxy.wake(after=resend.LONGEST_HOLD)
    assert got.status is None

    second.upstream.answer_more(second, b"failed;", end=False)
    serve(proxy.requests[2])
    assert (got.body, got.complete) == (b"served", True)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("then", ["held", "beginning", "nothing", "streamed"])
def test_the_wakeup_of_an_abandoned_refusal_changes_nothing(
    client: Protocol, upstream: Protocol, then: str, judging: ScriptedSender
) -> None:
    judging.attempts = 3
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 401, b"refu", end=False)
    first.upstream.answer_more(first, b"sed")
    second = proxy.requests[1]
    match then:
        case "held":
            second.upstream.answer(second, 401, b"refu", end=False)
        case "beginning":
            second.upstream.answer(second, 200, b"created;", EVENTS, end=False)
        case "streamed":
            second.upstream.answer(second, 200, b"served ", end=False)
    status, requests = got.status, len(proxy.requests)

    proxy.wake(after=resend.LONGEST_READ)

    assert (got.status, len(proxy.requests)) == (status, requests)
    if then == "held":
        second.upstream.answer_more(second, b"sed")
        serve(proxy.requests[2])
    elif then == "nothing":
        serve(second)
    else:
        second.upstream.answer_more(second, b"to its end")
    assert (got.status, got.complete) == (200, True)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("what", ["held", "beginning"])
def test_a_wakeup_after_the_client_has_left_changes_nothing(
    client: Protocol, upstream: Protocol, what: str, judging: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    (first,) = proxy.requests
    if what == "held":
        first.upstream.answer(first, 401, b"refu", end=False)
    else:
        first.upstream.answer(first, 200, b"created;", EVENTS, end=False)
    proxy.client.leave(got)
    hooks = list(proxy.hooks)

    proxy.wake(after=resend.LONGEST_READ if what == "held" else resend.LONGEST_HOLD)

    assert (proxy.hooks, len(proxy.requests)) == (hooks, 1)
    nothing_is_left(proxy)


def test_a_timer_changes_nothing_once_a_socket_is_open(judging: ScriptedSender) -> None:
    proxy = Proxy()
    assert isinstance(proxy.client, H1Client)
    proxy.client.upgrade("/claimed")
    first = proxy.requests[0]
    first.upstream.answer(first, 401, b"refu", end=False)
    first.upstream.answer_more(first, b"sed")
    last = proxy.requests[1]
    assert isinstance(last.upstream, H1Upstream)
    last.upstream.answer(last, 101)

    proxy.wake(after=resend.LONGEST_READ)

    last.upstream.send(WebSocket(ConnectionType.SERVER).send(TextMessage("hello")))
    assert texts(received(WebSocket(ConnectionType.CLIENT), proxy.client.tunnel)) == ["hello"]


# -- a reload while a socket is open, in regular mode


class Tunnels(Streaming):
    """What mitmproxy's own addon decides for plain HTTP within a tunnel."""

    def next_layer(self, layer: NextLayer) -> None:
        layer.layer = HttpLayer(layer.context, HTTPMode.transparent)


def reloaded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`codexpool.proxy.resend` as the entry file loads it when it is touched: anew, with all it stands on."""
    for name in ("connections", "relay", "resend"):
        monkeypatch.delitem(importlib.sys.modules, f"codexpool.proxy.{name}")  # type: ignore[attr-defined]
        monkeypatch.delattr(codexpool.proxy, name)
    return importlib.import_module("codexpool.proxy.resend")


@pytest.mark.parametrize("refusals", [0, 1])
@pytest.mark.parametrize("reloads", [0, 1, 3])
def test_an_open_socket_takes_injected_messages_after_a_reload(
    refusals: int, reloads: int, sender: ScriptedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(addon=Tunnels())
    assert isinstance(proxy.client, H1Client)
    proxy.client.connect()
    _, client, upstream = handshake(proxy, refusals)
    flow = proxy.flows[0]
    ours, theirs = WebSocket(ConnectionType.CLIENT), WebSocket(ConnectionType.SERVER)

    for _ in range(reloads):
        reloaded(monkeypatch).install(ScriptedSender())
    inject(proxy, flow, "connect again", from_client=False)
    inject(proxy, flow, "to the server", from_client=True)
    client.send(ours.send(TextMessage("to it")))
    upstream.send(theirs.send(TextMessage("from it")))

    assert texts(received(ours, client.tunnel)) == ["connect again", "from it"]
    assert texts(received(theirs, upstream.tunnel)) == ["to the server", "to it"]


def test_a_stream_from_before_a_reload_ends_as_it_began(
    sender: ScriptedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(addon=Tunnels())
    assert isinstance(proxy.client, H1Client)
    proxy.client.connect()
    got = proxy.client.ask("/claimed", b"question")

    another = ScriptedSender()
    reloaded(monkeypatch).install(another)
    refuse(proxy.requests[0])
    serve(proxy.requests[1])
    after = proxy.client.ask("/claimed", b"question")
    serve(proxy.requests[2])

    assert (got.body, after.body) == (b"served", b"served")
    assert (sum(sender.tries.values()), sum(another.tries.values())) == (2, 1)


def inject(proxy: Proxy, flow: http.HTTPFlow, text: str, *, from_client: bool) -> None:
    message = websocket.WebSocketMessage(Opcode.TEXT, from_client, text.encode())
    proxy.give(WebSocketMessageInjected(flow, message))


# -- interim answers and trailers


@each_pair
@pytest.mark.parametrize("status", [100, 102, 103])
@pytest.mark.parametrize("path", ["/claimed", "/unclaimed"])
def test_interim_answers_are_no_answer(
    client: Protocol, upstream: Protocol, status: int, path: str, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask(path, b"question")
    if path == "/claimed":
        proxy.requests[0].upstream.interim(proxy.requests[0], status)
        refuse(proxy.requests[0])
    last = proxy.requests[-1]
    last.upstream.interim(last, status)
    last.upstream.interim(last, status)
    assert (got.status, got.over) == (None, False)

    length = [("content-length", "19")] if upstream == "h2" else []
    last.upstream.answer(last, 200, b"event one ", length, end=False)
    assert got.body == b"event one "
    last.upstream.answer_more(last, b"event two")

    assert (got.status, got.body, got.complete) == (200, b"event one event two", True)
    following = proxy.client.ask(path, b"next")
    serve(proxy.requests[-1])
    assert following.body == b"served"
    nothing_is_left(proxy)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_interim_answers_may_come_in_pieces(size: int, sender: ScriptedSender) -> None:
    proxy = Proxy()
    got = proxy.client.ask("/claimed", b"question")
    (seen,) = proxy.requests
    came = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    came += b"HTTP/1.1 200 OK\r\nx-own: 1\r\ncontent-length: 6\r\n\r\nserved"
    for start in range(0, len(came), size):
        seen.upstream.send(came[start : start + size])
    assert (got.status, got.body, got.headers["x-own"], got.complete) == (200, b"served", "1", True)
    assert "link" not in got.headers
    nothing_is_left(proxy)


ENDLESS = {
    "interim answers": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "a head": b"HTTP/1.1 200 OK\r\n" + b"x-again: and again\r\n" * 20_000,
    "a line": b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 300_000,
    "a chunk's size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 300_000,
    "trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 60_000,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\n\r\n",
    "an invalid trailer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
}


@each_client
@pytest.mark.parametrize("what", ENDLESS)
def test_an_invalid_http1_answer_is_a_clean_error(client: Protocol, what: str, sender: ScriptedSender) -> None:
    proxy = Proxy(client=client, addon=HoldsAll())
    got = proxy.client.ask("/claimed", b"question")
    (seen,) = proxy.requests
    for start in range(0, len(ENDLESS[what]), 60_000):
        seen.upstream.send(ENDLESS[what][start : start + 60_000])
    assert (got.status, got.over) == (502, True)
    assert taken_back(seen)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("path", ["/claimed", "/unclaimed"])
def test_an_answer_with_trailers_is_an_answer(
    client: Protocol, upstream: Protocol, path: str, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask(path, b"question")
    if path == "/claimed":
        refused = proxy.requests[0]
        refused.upstream.answer(refused, 401, b"refused", end=False)
        refused.upstream.end(refused, [("x-sum", "1")])
    last = proxy.requests[-1]
    last.upstream.answer(last, 200, b"served", end=False)
    last.upstream.end(last, [("x-sum", "2")])

    assert (got.status, got.body, got.complete) == (200, b"served", True)
    assert got.trailers == ({"x-sum": "2"} if (client, upstream) == ("h2", "h2") else {})
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("path", ["/claimed", "/unclaimed"])
def test_a_request_with_trailers_is_a_request(
    client: Protocol, upstream: Protocol, path: str, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    fields = [("content-length", "9")] if client == "h2" else []  # HTTP/1 has to know where it ends.
    got = proxy.client.ask(path, b"question", fields, end=False)
    proxy.client.ask_more(got, b"!", [("x-checksum", "42")])
    if path == "/claimed":
        refuse(proxy.requests[0])
    for seen in proxy.requests:
        assert (seen.body, seen.complete) == (b"question!", True)
        assert seen.trailers == ({"x-checksum": "42"} if (client, upstream) == ("h2", "h2") else {})
    serve(proxy.requests[-1])
    assert got.body == b"served"
    nothing_is_left(proxy)


def test_trailers_do_not_reach_the_next_answer(sender: ScriptedSender) -> None:
    proxy = Proxy()
    for trailers in ([("x-sum", "1")], [], [("x-sum", "3")]):
        got = proxy.client.ask("/unclaimed", b"question")
        seen = proxy.requests[-1]
        seen.upstream.answer(seen, 200, b"served", end=False)
        if trailers:
            seen.upstream.end(seen, trailers)
        else:
            seen.upstream.answer_more(seen, b"")
        assert (got.body, got.complete) == (b"served", True)
        assert got.trailers == {}


# -- WebSocket messages

DEFLATE = [("sec-websocket-extensions", "permessage-deflate")]
MIB = 1 << 20
AT_ONCE = 65_535
"""Bytes that mitmproxy reads at once."""


class Line:
    """An open WebSocket through the proxy, and a peer at each of its ends."""

    def __init__(self, *, deflated: bool) -> None:
        self.proxy = Proxy()
        assert isinstance(self.proxy.client, H1Client)
        fields = DEFLATE if deflated else []
        self.proxy.client.upgrade("/claimed", fields)
        (seen,) = self.proxy.requests
        assert isinstance(seen.upstream, H1Upstream)
        seen.upstream.answer(seen, 101, fields=fields)
        self.ends: dict[bool, H1Client | H1Upstream] = {True: self.proxy.client, False: seen.upstream}
        self.peers = {True: peer(ConnectionType.CLIENT, deflated), False: peer(ConnectionType.SERVER, deflated)}

    def sends(self, from_client: bool, data: bytes) -> None:
        """What comes over the wire, in the pieces that mitmproxy reads."""
        for start in range(0, len(data), AT_ONCE):
            self.ends[from_client].send(data[start : start + AT_ONCE])

    def got(self, by_client: bool) -> list[Event]:
        """What one end has got since it was looked at last."""
        tunnel = self.ends[by_client].tunnel
        events = received(self.peers[by_client], tunnel)
        assert tunnel is not None
        tunnel.clear()
        return events

    def is_closed_as_too_big(self) -> bool:
        codes = [[e.code for e in self.got(end) if isinstance(e, CloseConnection)] for end in (True, False)]
        states = {end.conn.state for end in self.ends.values()}
        (flow,) = self.proxy.flows
        assert flow.websocket is not None
        return (
            codes == [[CloseReason.MESSAGE_TOO_BIG]] * 2
            and states == {connection.ConnectionState.CLOSED}
            and flow.websocket.close_code == CloseReason.MESSAGE_TOO_BIG
            and str(flow.websocket.close_reason).startswith(connections.REASON)
            and self.proxy.hooks[-1] == "websocket_end"
        )


def peer(kind: ConnectionType, deflated: bool) -> WebSocket:
    deflate = PerMessageDeflate()
    deflate.finalize("")
    return WebSocket(kind, [deflate] if deflated else [])


def frame(payload: bytes, *, from_client: bool, fin: bool = True, opcode: Opcode = Opcode.TEXT) -> bytes:
    """A frame as it comes over the wire; of a text it is the first."""
    return bytes(FrameProtocol(from_client, [])._serialize_frame(opcode, payload, fin))


def bomb(size: int, *, from_client: bool) -> bytes:
    """A message of one frame that inflates to so many bytes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = b"".join(deflate.compress(bytes(MIB)) for _ in range(size // MIB))
    payload += deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    data = bytearray(frame(payload, from_client=from_client, opcode=Opcode.BINARY))
    data[0] |= 0x40  # RSV1: it is deflated.
    return bytes(data)


each_way = pytest.mark.parametrize("from_client", [True, False], ids=["from the client", "from the server"])


@each_way
@pytest.mark.parametrize("size", [16 * MIB, 400 * MIB])
def test_a_message_that_is_too_dense_closes_the_socket(from_client: bool, size: int, sender: ScriptedSender) -> None:
    line, data = Line(deflated=True), bomb(size, from_client=from_client)
    tracemalloc.start()
    try:
        line.sends(from_client, data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert line.is_closed_as_too_big()
    assert "websocket_message" not in line.proxy.hooks
    assert most < 2 * connections.DENSE_FROM + 4 * MIB


@each_way
@pytest.mark.parametrize("deflated", [True, False])
def test_a_message_of_fragments_without_end_closes_the_socket(
    from_client: bool, deflated: bool, sender: ScriptedSender
) -> None:
    line = Line(deflated=deflated)
    first, more = (
        frame(bytes(MIB), from_client=from_client, fin=False, opcode=code)
        for code in (Opcode.BINARY, Opcode.CONTINUATION)
    )

    line.sends(from_client, first)
    for _ in range(connections.MOST_OF_A_MESSAGE // MIB):
        if line.ends[from_client].conn.state is connection.ConnectionState.CLOSED:
            break
        line.sends(from_client, more)

    assert line.is_closed_as_too_big()
    assert "websocket_message" not in line.proxy.hooks


@each_way
@pytest.mark.parametrize("size", [0, 1])
def test_empty_fragments_count(
    from_client: bool, size: int, sender: ScriptedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_OF_A_MESSAGE", MIB)
    line = Line(deflated=False)
    line.sends(from_client, frame(b"", from_client=from_client, fin=False, opcode=Opcode.BINARY))
    more = frame(bytes(size), from_client=from_client, fin=False, opcode=Opcode.CONTINUATION)

    line.sends(from_client, more * (MIB // connections.FRAME))

    assert line.is_closed_as_too_big()


@each_way
def test_one_long_frame_closes_the_socket(from_client: bool, sender: ScriptedSender) -> None:
    line = Line(deflated=False)
    line.sends(from_client, frame(bytes(33 * MIB), from_client=from_client, opcode=Opcode.BINARY))
    assert line.is_closed_as_too_big()


@each_way
@pytest.mark.parametrize("deflated", [True, False])
def test_messages_within_the_bound_pass_however_many_there_are(
    from_client: bool, deflated: bool, sender: ScriptedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_OF_A_MESSAGE", MIB)
    line = Line(deflated=deflated)
    source = line.peers[from_client]
    messages: list[Any] = [
        BytesMessage(bytes(900_000)),
        TextMessage("text " * 100_000),
        TextMessage(""),
    ]
    for _ in range(3):
        for message in messages:
            line.sends(from_client, source.send(message))
            line.sends(from_client, source.send(Ping(b"x" * 100)))
            line.sends(from_client, source.send(type(message)(message.data, message_finished=False)))
            if not deflated:  # Between the fragments of a deflated message a ping confuses wsproto.
                line.sends(from_client, source.send(Ping()))
            line.sends(from_client, source.send(type(message)(message.data[:0])))

    got = line.got(not from_client)
    whole = [len(data) for data in joined(got)]
    assert whole == [900_000, 900_000, 500_000, 500_000, 0, 0] * 3
    assert sum(isinstance(event, Ping) for event in got) == (9 if deflated else 18)


@each_way
def test_a_dense_message_passes_while_it_is_short(from_client: bool, sender: ScriptedSender) -> None:
    line = Line(deflated=True)
    line.sends(from_client, bomb(connections.DENSE_FROM - MIB, from_client=from_client))
    assert [len(data) for data in joined(line.got(not from_client))] == [connections.DENSE_FROM - MIB]


def received(reader: WebSocket, data: bytearray | None) -> list[Event]:
    assert data is not None
    reader.receive_data(bytes(data))
    return list(reader.events())


def texts(events: list[Event]) -> list[str]:
    return [event.data for event in events if isinstance(event, TextMessage)]


def joined(events: list[Event]) -> list[bytes]:
    """The messages that these events are the pieces of."""
    whole, pieces = [], b""
    for event in events:
        if isinstance(event, TextMessage | BytesMessage):
            pieces += event.data.encode() if isinstance(event.data, str) else event.data
            if event.message_finished:
                whole.append(pieces)
                pieces = b""
    return whole


# -- heads


def context() -> Context:
    return Context(tclient_conn(), Options())


def test_a_client_whose_head_does_not_end_is_told_so_and_left() -> None:
    """A stranger may connect, too."""
    layer = connections.Http1Server(context())
    list(layer.handle_event(events.Start()))
    made: list[Any] = []
    many = connections.MOST_OF_A_HEAD // len(PIECE) + 1
    for _ in range(many):
        assert made == []
        made += layer.handle_event(events.DataReceived(layer.conn, b"x: " + PIECE))

    sent, closed = made
    assert isinstance(sent, commands.SendData)
    assert sent.data.startswith(b"HTTP/1.1 431 ")
    assert isinstance(closed, commands.CloseConnection)


def test_a_head_of_the_usual_size_in_pieces_is_read() -> None:
    layer = connections.Http1Server(context())
    list(layer.handle_event(events.Start()))
    made: list[Any] = []
    for piece in (b"GET http://a/ HTTP/1.1\r\nx: ", bytes(200_000).replace(b"\0", b"a"), b"\r\nhost: a\r\n\r\n"):
        made += layer.handle_event(events.DataReceived(layer.conn, piece))

    assert [type(one).__name__ for one in made] == ["ReceiveHttp", "ReceiveHttp"]


def test_an_answer_to_connect_that_does_not_end_fails() -> None:
    tunnel = connections.UpstreamProxy(context(), connection.Server(address=("corp", 3128)), True)

    def answers(data: bytes) -> tuple[bool, str | None]:
        running = tunnel.receive_handshake_data(data)
        with pytest.raises(StopIteration) as ended:
            next(running)
        result: tuple[bool, str | None] = ended.value.value
        return result

    assert answers(b"HTTP/1.1 200 OK\r\n") == (False, None)
    results = [answers(b"x: " + PIECE) for _ in range(5)]
    assert results[0] == (False, None)
    assert "does not end" in str(results[-1][1])
