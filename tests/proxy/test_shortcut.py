"""`codexpool.proxy.shortcut`: the same bytes, hooks and endings as by mitmproxy's own way, in fewer writes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import reload

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers import http as layers

from codexpool.proxy import resend, shortcut
from tests.proxy.playbook import ScriptedSender, Streaming, proxy_options, uninstall
from tests.proxy.tunnel import HOST, Tunnel

WAYS: list[dict[str, bool]] = [{}, {"eager": True}, {"upstream": True}, {"upstream": True, "eager": True}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["lazy", "eager", "upstream", "upstream eager"])

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@pytest.fixture(autouse=True)
def sender() -> Iterator[ScriptedSender]:
    sender = ScriptedSender()
    resend.install(sender, lambda: False)
    yield sender
    uninstall()


def post(path: str = "/claimed", body: bytes = b"question") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answers(text: bytes | bytearray) -> list[tuple[int, bytes, bool]]:
    """Return the answers in what a client got: status, body, and whether it is complete."""
    conn, found = h11.Connection(h11.CLIENT), []
    conn.receive_data(bytes(text))
    while conn.trailing_data[0]:
        conn.send(h11.Request(method="POST", target="/", headers=[("host", HOST), ("content-length", "0")]))
        conn.send(h11.EndOfMessage())
        status, body, event = 0, b"", conn.next_event()
        while not isinstance(event, h11.EndOfMessage) and event is not h11.NEED_DATA:
            status = event.status_code if isinstance(event, h11.Response) else status
            body += event.data if isinstance(event, h11.Data) else b""
            event = conn.next_event()
        found.append((status, body, isinstance(event, h11.EndOfMessage)))
        if conn.states[h11.SERVER] is not h11.DONE:
            break
        conn.start_next_cycle()
    return found


# -- fewer writes


@each_way
def test_what_came_in_one_read_leaves_in_one_write(way: dict[str, bool]) -> None:
    tunnel = Tunnel(Streaming(), short=True, **way)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    tunnel.writes.clear()
    tunnel.answer(b"".join(chunk(b"event %d" % number) for number in range(20)))

    assert [to for to, _ in tunnel.writes] == ["client"]
    tunnel.answer(END)
    assert answers(tunnel.client.text) == [(200, b"".join(b"event %d" % number for number in range(20)), True)]


@each_way
def test_no_byte_waits_for_the_next(way: dict[str, bool]) -> None:
    tunnel = Tunnel(Streaming(), short=True, **way)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    for number in range(1, 4):
        tunnel.answer(b"%x\r\n" % 4)
        tunnel.answer(b"ab")
        assert answers(tunnel.client.text)[0][1] == b"abcd" * (number - 1) + b"ab"
        tunnel.answer(b"cd\r\n")
        assert answers(tunnel.client.text)[0][1] == b"abcd" * number


@each_way
def test_head_and_body_leave_in_one_write(way: dict[str, bool]) -> None:
    tunnel = Tunnel(Streaming(), short=True, **way)
    for status in (200, 401, 200):  # The first request of a connection takes mitmproxy's own way.
        tunnel.ask(post())
        tunnel.answer(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\nok" % status)
        if status == 401:
            tunnel.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    tunnel.writes.clear()
    tunnel.ask(post())

    assert [to for to, _ in tunnel.writes] == ["server"]
    assert [status for status, _, _ in answers(tunnel.client.text)] == [200] * 3


@each_way
def test_long_bodies_are_written_in_pieces(way: dict[str, bool]) -> None:
    tunnel = Tunnel(Streaming(), short=True, **way)
    tunnel.ask(post())
    tunnel.answer(CHUNKED + END)
    tunnel.writes.clear()
    body = b"x" * (1 << 20)
    tunnel.ask(post(body=body))

    assert max(size for _, size in tunnel.writes) <= shortcut.AT_ONCE
    assert tunnel.servers[-1].text.endswith(b"\r\n\r\n" + body)


def test_a_claimed_stream_passes_no_outer_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = Tunnel(Streaming(), short=True)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    passed: list[events.Event] = []
    handle = layer.Layer.handle_event

    def handle_event(self: layer.Layer, event: events.Event) -> layer.CommandGenerator[None]:
        passed.append(event)
        return handle(self, event)

    monkeypatch.setattr(layer.Layer, "handle_event", handle_event)
    tunnel.answer(chunk(b"event"))

    assert passed == []
    assert answers(tunnel.client.text) == [(200, b"event", False)]


def test_unclaimed_requests_have_no_shortcut() -> None:
    tunnel = Tunnel(Streaming(), short=True)
    tunnel.ask(post("/unclaimed"))
    tunnel.answer(CHUNKED)
    tunnel.writes.clear()
    tunnel.answer(chunk(b"a") * 3)

    assert [to for to, _ in tunnel.writes] == ["client"] * 3


# -- addons that want pieces


@dataclass
class Pieces:
    """An addon with a stream function of its own."""

    change: Callable[[bytes], bytes | Iterable[bytes]]
    pieces: list[bytes] = field(default_factory=list)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = self._piece

    def _piece(self, piece: bytes) -> bytes | Iterable[bytes]:
        self.pieces.append(piece)
        return self.change(piece)


@pytest.mark.parametrize(
    "change",
    [lambda piece: piece.upper(), lambda piece: [piece.upper(), b"!"], lambda piece: iter((piece.upper(),))],
    ids=["bytes", "list", "iterator"],
)
def test_a_stream_function_gets_all_pieces_and_the_end(change: Callable[[bytes], bytes]) -> None:
    addon = Pieces(lambda piece: change(piece) if piece else b"")
    tunnel = Tunnel(addon, short=True)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    tunnel.answer(chunk(b"one") + chunk(b"two"))
    tunnel.answer(END)

    assert addon.pieces == [b"onetwo", b""]
    assert answers(tunnel.client.text)[0] in ((200, b"ONETWO", True), (200, b"ONETWO!", True))


@pytest.mark.parametrize("short", [False, True])
def test_a_stream_function_that_raises_costs_its_piece_only(short: bool) -> None:
    def change(piece: bytes) -> bytes:
        if piece == b"bad":
            raise ValueError(piece)
        return piece

    tunnel = Tunnel(Pieces(change), short=short)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    tunnel.answer(chunk(b"one"))
    with pytest.raises(ValueError, match="bad"):  # mitmproxy logs it.
        tunnel.answer(chunk(b"bad"))
    tunnel.answer(chunk(b"two"))
    tunnel.answer(END)

    assert answers(tunnel.client.text) == [(200, b"onetwo", True)]


@pytest.mark.skipif("store_streamed_bodies" not in proxy_options(), reason="an option since mitmproxy 12")
def test_streamed_bodies_are_stored_if_asked_for() -> None:
    flows: list[http.HTTPFlow] = []

    class Keeping(Streaming):
        def response(self, flow: http.HTTPFlow) -> None:
            flows.append(flow)

    tunnel = Tunnel(Keeping(), short=True, store_streamed_bodies=True)
    tunnel.ask(post())
    tunnel.answer(CHUNKED)
    tunnel.answer(chunk(b"one") + chunk(b"two") + END)

    assert [flow.response and flow.response.content for flow in flows] == [b"onetwo"]


# -- the same as by mitmproxy's own way


@dataclass(frozen=True)
class Exchange:
    path: str
    raw: bytes
    cuts: tuple[int, ...]
    ends: str
    """What ends it: nothing, a server that closes, or a client that does, in the midst of the answer."""
    at: int


def bodies() -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Framing headers and a body, which may be malformed or not complete."""
    data = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
    tails = st.sampled_from([END, END, END, b"0\r\nx-trailer: 1\r\n\r\n", b"", b"nonsense\r\n", b"0\r\n\r\nmore"])
    chunked = st.tuples(data, tails).map(
        lambda both: (b"transfer-encoding: chunked\r\n", b"".join(map(chunk, both[0])) + both[1])
    )
    sized = st.tuples(data, st.integers(-2, 2)).map(
        lambda both: (
            b"content-length: %d\r\n" % max(0, sum(map(len, both[0])) + both[1]),
            b"".join(both[0]),
        )
    )
    return st.one_of(chunked, chunked, sized, data.map(lambda parts: (b"", b"".join(parts))))


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    framing, body = draw(bodies())
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]))
    status = draw(st.sampled_from([200, 200, 200, 401, 204]))
    kind = draw(st.sampled_from([b"", b"content-type: text/event-stream\r\n"]))
    raw = interim + b"HTTP/1.1 %d X\r\n%s%s\r\n" % (status, kind, framing) + body
    cuts = draw(st.lists(st.integers(0, len(raw)), max_size=5))
    ends = draw(st.sampled_from(["", "", "", "server", "server alert", "client", "client alert"]))
    path = draw(st.sampled_from(["/claimed", "/claimed", "/unclaimed"]))
    return Exchange(path, raw, tuple(sorted(cuts)), ends, draw(st.integers(0, len(cuts))))


def played(
    way: dict[str, bool], short: bool, script: list[Exchange], hold: set[str], repeats: bool
) -> tuple[object, ...]:
    sender = ScriptedSender(attempts=3)
    sender.repeats, sender.stale = repeats, {2} if repeats else set()
    resend.install(sender, lambda: False)
    tunnel = Tunnel(Streaming(), short=short, **way)
    tunnel.hold = hold
    for exchange in script:
        if not tunnel.client.conn.connected:
            break
        tunnel.ask(post(exchange.path))
        parts = [
            exchange.raw[begin:end] for begin, end in zip((0, *exchange.cuts), (*exchange.cuts, None), strict=True)
        ]
        for number, part in enumerate(parts):
            if tunnel.servers:
                tunnel.answer(part)
            if exchange.ends and number == exchange.at:
                side, _, alert = exchange.ends.partition(" ")
                peers = [tunnel.client] if side == "client" else tunnel.servers[-1:]
                for peer in peers:
                    tunnel.end(peer, with_alert=bool(alert))
            if tunnel.held and number % 2:
                tunnel.release()
        while tunnel.held:
            tunnel.release()
    for timer in tunnel.wakeups:
        tunnel.give(events.Wakeup(timer))
    while tunnel.held:
        tunnel.release()
    got = bytes(tunnel.client.text)
    try:
        parsed: object = answers(got)
    except h11.ProtocolError:
        parsed = got
    return (
        parsed,
        tunnel.trace,
        [bytes(server.text) for server in tunnel.servers],
        [one.delay for one in tunnel.wakeups],
    )


@given(
    way=st.sampled_from(WAYS),
    script=st.lists(exchanges(), min_size=1, max_size=3),
    hold=st.sets(st.sampled_from(["requestheaders", "request", "responseheaders", "response", "error"]), max_size=2),
    repeats=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_all_is_as_by_mitmproxys_own_way(
    way: dict[str, bool], script: list[Exchange], hold: set[str], repeats: bool
) -> None:
    try:
        assert played(way, True, script, hold, repeats) == played(way, False, script, hold, repeats)
    finally:
        uninstall()


@pytest.mark.parametrize("path", ["/claimed", "/unclaimed"])
def test_nothing_is_kept_of_a_connection_that_has_ended(path: str) -> None:
    tunnel = Tunnel(Streaming(), short=True)
    tunnel.ask(post(path))
    tunnel.answer(CHUNKED + chunk(b"event") + END)
    tunnel.end(tunnel.client, with_alert=True)
    kept = weakref.ref(tunnel.handler.layer), weakref.ref(tunnel.client.conn)
    del tunnel
    gc.collect()

    assert [one() for one in kept] == [None, None]


@each_way
def test_nothing_grows_with_the_requests_of_a_connection(way: dict[str, bool]) -> None:
    tunnel = Tunnel(Streaming(), short=True, **way)
    objects: list[int] = []
    for _ in range(3):
        for _ in range(20):
            tunnel.ask(post())
            for part in (CHUNKED, chunk(b"event"), END):
                tunnel.answer(part)
        tunnel.trace.clear()
        tunnel.writes.clear()
        gc.collect()
        objects.append(len(gc.get_objects()))

    assert objects[2] <= objects[1]


def test_a_reload_keeps_nothing_of_the_class_before() -> None:
    assert layers.HttpStream is resend.ResendStream  # As this module finds it when it is loaded again.
    assert resend.ResendStream not in reload(shortcut)._OUTER


def test_a_reload_does_not_break_connections_that_are_open() -> None:
    tunnel = Tunnel(Streaming(), short=True)
    for _ in range(3):
        tunnel.ask(post())
        tunnel.answer(CHUNKED + chunk(b"event") + END)
        resend.install(ScriptedSender(), lambda: False)

    assert answers(tunnel.client.text) == [(200, b"event", True)] * 3
    assert isinstance(tunnel.handler.layer, shortcut.Shortcut)
