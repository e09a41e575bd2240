"""`codexpool.proxy.relay` beside mitmproxy's own layer: the same reads give both peers the same."""

from __future__ import annotations

import importlib.util
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pytest
import wsproto.frame_protocol
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import connection, http
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.websocket import WebsocketMessageHook, WebSocketMessageInjected
from mitmproxy.test import tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from codexpool.proxy import connections, relay, resend, shortcut
from codexpool.proxy.relay import Reader
from tests.proxy.playbook import Driver, ScriptedSender, Streaming, proxy_options, uninstall
from tests.proxy.tunnel import HOST, Tunnel

OPTIONS = proxy_options()
DEFLATE = "permessage-deflate"

Side = Literal["client", "server"]


@pytest.fixture(autouse=True)
def masks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the masks of frames to the server the same for both layers."""
    monkeypatch.setattr(wsproto.frame_protocol, "os", SimpleNamespace(urandom=bytes))
    connections.install()
    yield
    uninstall()


def read(message: WebSocketMessage, inject: Callable[[WebSocketMessage], None]) -> None:
    """Do with a message what it says, as an addon or a reader would."""
    if b"drop" in message.content:
        message.drop()
    if b"change" in message.content:
        message.content = message.content.replace(b"change", b"egnahc")
    if b"grow" in message.content:
        message.content = message.content.replace(b"grow", b"grown" * 2000)
    if b"answer" in message.content:
        inject(WebSocketMessage(Opcode.TEXT, not message.from_client, b"an injected reply"))
    if b"tell" in message.content:
        inject(WebSocketMessage(Opcode.BINARY, message.from_client, b"injected, too"))


class Peers(Driver):
    """Both ends of a layer, an addon for its hooks, and what came of it."""

    def __init__(self, layer: type[websocket.WebsocketLayer], extensions: str = "") -> None:
        client = connection.Client(peername=("192.0.2.1", 1), sockname=("192.0.2.2", 2))
        server = connection.Server(address=("upstream.test", 443))
        client.state = server.state = connection.ConnectionState.OPEN
        ctx = context.Context(client, OPTIONS)
        ctx.server = server
        self.flow = tflow.twebsocketflow(messages=False)
        assert self.flow.response is not None
        self.flow.response.headers["sec-websocket-extensions"] = extensions
        self.connections: dict[Side, connection.Connection] = {"client": client, "server": server}
        self.is_deflated = bool(extensions)
        self.got: dict[Side, bytearray] = {"client": bytearray(), "server": bytearray()}
        self.writes: list[Side] = []
        self.sizes: list[int] = []
        self.seen: list[object] = []
        self.heard: list[bytes] = []
        self.held: commands.StartHook | None = None
        super().__init__()
        self.layer = layer(ctx, self.flow)
        self.give(events.Start())

    def give(self, event: events.Event) -> None:
        try:
            super().give(event)
        except Exception as error:  # mitmproxy logs it. It has to be the same one.
            self.seen.append((type(error), str(error)))

    def inject(self, message: WebSocketMessage) -> None:
        self.give(WebSocketMessageInjected(self.flow, message))

    def close(self, side: Side) -> None:
        if self.connections[side].state & connection.ConnectionState.CAN_READ:
            self.connections[side].state &= ~connection.ConnectionState.CAN_READ
            self.give(events.ConnectionClosed(self.connections[side]))

    def release(self) -> None:
        if self.held is not None:
            hook, self.held = self.held, None
            self._complete(hook)

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.SendData():
                side: Side = "client" if command.connection is self.connections["client"] else "server"
                self.got[side] += command.data
                self.writes.append(side)
                self.sizes.append(len(command.data))
            case commands.CloseConnection():
                command.connection.state = connection.ConnectionState.CLOSED
                self._note("close", command.connection is self.connections["client"])
            case commands.Log():
                self._note(command.message)
            case WebsocketMessageHook():
                assert self.flow.websocket is not None
                message = self.flow.websocket.messages[-1]
                if message.from_client or message.injected:
                    self._note(message.content)
                self.heard.append(message.content)
                if message.from_client and b"wait" in message.content:
                    self.held = command
                else:
                    self._complete(command)
            case _:
                assert isinstance(command, commands.StartHook)
                self._note(command.name)
                self._events.appendleft(events.HookCompleted(command))

    def _complete(self, hook: commands.StartHook) -> None:
        assert self.flow.websocket is not None
        message = self.flow.websocket.messages[-1]
        self._events.appendleft(events.HookCompleted(hook))
        if not message.injected:
            read(message, self.inject)
        if not self._running:
            self.give(self._events.popleft())

    def _note(self, *what: object) -> None:
        """Note what happened, and how much has gone to either side by then."""
        self.seen.append((*what, self.sent("client"), self.sent("server")))

    def sent(self, side: Side) -> list[tuple[int, bytes]]:
        """Return what has gone to a side: frames, or whole messages if they are deflated."""
        return list(parsed(bytes(self.got[side]), self.is_deflated))


class Ours(Peers):
    """With a reader for the messages of the server."""

    def __init__(self, extensions: str = "") -> None:
        relay.install(self, lambda: self.is_heard)
        self.is_heard = False
        self.has_reader = True
        self.read: list[bytes] = []
        super().__init__(relay.WebsocketLayer, extensions)

    def message_reader(self, flow: http.HTTPFlow) -> Reader | None:
        return self._read if self.has_reader else None

    def _read(self, message: WebSocketMessage) -> None:
        assert self.flow.websocket is not None
        assert message is self.flow.websocket.messages[-1]
        self.read.append(message.content)
        read(message, self.inject)


def parsed(data: bytes, is_deflated: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the frames in ``data``: the first two bytes and the payload; deflated ones joined, and inflated."""
    inflater, message, first = zlib.decompressobj(-15), b"", 0
    while data:
        head, length, at = data[0], data[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[2 : 2 + size]), 2 + size
        at += 4 * (data[1] >> 7)  # The mask is empty.
        payload, data = data[at : at + length], data[at + length :]
        if not is_deflated or head & 8:
            yield head, payload
            continue
        first, message = first or head, message + payload
        if head & 0x80:
            content = inflater.decompress(message + b"\0\0\xff\xff") if first & 0x40 else message
            yield first & 15, content
            message, first = b"", 0


class Writer:
    """Makes the frames that one side sends."""

    def __init__(self, side: Side) -> None:
        self._mask = 0x80 if side == "client" else 0
        self._deflater = zlib.compressobj(9, zlib.DEFLATED, -15)

    def frame(self, first: int, payload: bytes) -> bytes:
        length = len(payload)
        if length < 126:
            head = bytes([first, self._mask | length])
        elif length < 1 << 16:
            head = struct.pack("!BBH", first, self._mask | 126, length)
        else:
            head = struct.pack("!BBQ", first, self._mask | 127, length)
        return head + (bytes(4) if self._mask else b"") + payload

    def message(self, content: bytes, opcode: int, is_deflated: bool, fragments: int, between: bytes = b"") -> bytes:
        """A message in so many frames, with others ``between``."""
        if is_deflated:
            content = self._deflater.compress(content) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
            content = content.removesuffix(b"\0\0\xff\xff")
        size = max(1, -(-len(content) // fragments))
        cut = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
        cut += [b""] * (fragments - len(cut))
        firsts = [opcode | 0x40 * is_deflated, *[0] * (len(cut) - 1)]
        firsts[-1] |= 0x80
        return between.join(self.frame(first, piece) for first, piece in zip(firsts, cut, strict=True))


# -- the same reads through both layers

WORDS = [b"a word", b"drop", b"change", b"grow", b"answer", b"tell", b"tell, drop", b"wait", "\u00e4\u20ac".encode()]
LONG = [b"x" * 125, b"y" * 126, b"z" * 5000, "\u20ac".encode() * 9000, b"w" * 70_000]
CONTENTS = st.sampled_from([b"", *WORDS, *LONG])
PING, PONG, CLOSE = 0x89, 0x8A, 0x88
CLOSES = [b"", b"\x03", struct.pack("!H", 1000), struct.pack("!H", 1011) + b"why", struct.pack("!H", 1005)]
BROKEN = [
    (0x81, b"\xff is no text"),
    (0x80, b"no message before"),
    (0x83, b"no such opcode"),
    (0x09, b"half a ping"),
    (0xA1, b"a reserved bit"),
    (0xC1, b"not deflated"),
    (0xC1, b"\x07\x07\x07"),
    (0x89, b"a long ping" * 12),
    (0x01, b"the beginning of a message"),
    (0x02, b"the beginning of another"),
]


class Step(NamedTuple):
    side: Side
    kind: Literal["message", "ping", "close", "broken", "read", "cut", "inject", "release", "end"]
    content: bytes = b""
    opcode: int = 1
    fragments: int = 1
    is_deflated: bool = False
    number: int = 0


SIDES = st.sampled_from(["server", "server", "server", "client"])
MESSAGES = st.builds(
    Step,
    SIDES,
    st.just("message"),
    CONTENTS,
    st.sampled_from([1, 1, 2]),
    st.sampled_from([1, 1, 1, 1, 2, 3]),
    st.sampled_from([True, True, False]),
)
OTHERS = st.builds(
    Step,
    SIDES,
    st.sampled_from(["ping", "ping", "inject", "release", "cut", "cut", "close", "broken", "end"]),
    st.sampled_from([b"", b"hello", b"injected"]),
    number=st.integers(0, 9),
)
PAUSES = st.builds(Step, SIDES, st.just("read"))
SCRIPTS = st.lists(st.one_of(MESSAGES, MESSAGES, PAUSES, OTHERS), max_size=30)


def play(peers: Peers, script: Sequence[Step], is_deflated: bool, cuts: Sequence[int]) -> list[object]:
    """Play a script, and return what had gone to both sides after each read.

    Frames of one side that follow each other come in one read.
    """
    writers: dict[Side, Writer] = {"client": Writer("client"), "server": Writer("server")}
    buffered: dict[Side, bytes] = {"client": b"", "server": b""}
    so_far: list[object] = []

    def flush(side: Side, keep: int = 0) -> None:
        data = buffered[side]
        if now := data[: len(data) - keep]:
            buffered[side] = data[len(now) :]
            peers.give(events.DataReceived(peers.connections[side], now))
            so_far.append((peers.sent("client"), peers.sent("server")))

    for number, step in enumerate(script):
        writer = writers[step.side]
        flush("client" if step.side == "server" else "server")
        match step.kind:
            case "message":
                ping = writer.frame(PING, b"between") if step.content == b"z" * 5000 else b""
                deflated = step.is_deflated and is_deflated
                data = writer.message(step.content, step.opcode, deflated, step.fragments, ping)
            case "ping":
                data = writer.frame(PONG if step.number % 2 else PING, step.content)
            case "close":
                data = writer.frame(CLOSE, CLOSES[step.number % len(CLOSES)])
            case "broken":
                data = writer.frame(*BROKEN[step.number])
            case _:
                data = b""
                flush(step.side, keep=cuts[number % len(cuts)] if step.kind == "cut" else 0)
                if step.kind == "inject":
                    peers.inject(WebSocketMessage(Opcode.TEXT, step.side == "client", step.content))
                elif step.kind == "release":
                    peers.release()
                elif step.kind == "end":
                    peers.close(step.side)
        buffered[step.side] += data
    flush("server")
    flush("client")
    peers.release()
    peers.close("server")
    peers.close("client")
    return so_far


def outcome(peers: Peers) -> object:
    socket = peers.flow.websocket
    assert socket is not None
    assert all(message.timestamp > 0 for message in socket.messages)
    return {
        "client": peers.sent("client"),
        "server": peers.sent("server"),
        "seen": peers.seen,
        "messages": [(m.type, m.from_client, m.content, m.dropped, m.injected) for m in socket.messages],
        "end": (socket.closed_by_client, socket.close_code, socket.close_reason, socket.timestamp_end is None),
        "is live": peers.flow.live,
        "bytes": None if peers.is_deflated else peers.got,
    }


EXTENSIONS = ["", DEFLATE, f"{DEFLATE}; server_no_context_takeover", f"{DEFLATE}; server_max_window_bits=10"]


def both(script: list[Step], extensions: str = "", cuts: Sequence[int] = (0,)) -> Ours:
    """Play a script through both layers, and compare what came of it."""
    theirs, ours = Peers(relay._Layer, extensions), Ours(extensions)
    assert play(ours, script, bool(extensions), cuts) == play(theirs, script, bool(extensions), cuts)
    assert outcome(ours) == outcome(theirs)
    assert sorted([*ours.read, *ours.heard]) == sorted(theirs.heard)
    return ours


@settings(max_examples=300, deadline=None)
@given(SCRIPTS, st.sampled_from(EXTENSIONS), st.lists(st.integers(0, 400), min_size=1, max_size=5))
def test_both_sides_get_what_mitmproxys_layer_gives_them(
    script: list[Step], extensions: str, cuts: list[int]
) -> None:
    both(script, extensions, cuts)


def frames(*kinds: tuple[int, bytes]) -> bytes:
    return b"".join(Writer("server").frame(first, payload) for first, payload in kinds)


READS = {
    "messages": frames((0x81, b"one"), (0x82, b"y" * 130), (0x81, b""), (0x81, "\u20ac".encode()), (0x81, b"drop")),
    "fragments": frames((0x01, b"a"), (0x00, b""), (0x89, b"ping"), (0x80, b"b"), (0x81, b"change"), (0x81, b"c")),
    "two at once": frames((0x81, b"one"), (0x01, b"half"), (0x81, b"whole"), (0x80, b"half")),
    "a close": frames((0x81, b"one"), (0x88, struct.pack("!H", 1001) + b"why"), (0x81, b"late")),
    "a close without a code": frames((0x88, b""), (0x81, b"late")),
    "no text": frames((0x81, b"one"), (0x81, b"x\xff"), (0x81, b"late")),
    "half a character": frames((0x81, "\u20ac".encode()[:2]), (0x81, b"late")),
    "no such opcode": frames((0x81, b"one"), (0x83, b"odd"), (0x81, b"late")),
    "a mask": frames((0x81, b"one")) + b"\x81\x83\0\0\0\0odd" + frames((0x81, b"late")),
    "a long length": frames((0x81, b"one")) + b"\x81\x7e\x00\x03odd" + frames((0x81, b"late")),
    "a longer length": frames((0x81, b"one")) + b"\x81\x7f" + bytes(7) + b"\x03odd" + frames((0x81, b"late")),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("extensions", ["", DEFLATE])
def test_a_read_may_end_anywhere(name: str, extensions: str) -> None:
    data = READS[name]
    for cut in range(len(data) + 1):
        theirs, ours = Peers(relay._Layer, extensions), Ours(extensions)
        for peers in (theirs, ours):
            for part in filter(None, (data[:cut], data[cut:], frames((0x81, b"after")))):
                peers.give(events.DataReceived(peers.connections["server"], part))
            peers.close("server")
        assert outcome(ours) == outcome(theirs), cut


def said(content: bytes, **more: Any) -> Step:
    return Step("server", "message", content, **more)


@pytest.mark.parametrize(("extensions", "fragments", "opcode"), [("", 400, 2), (DEFLATE, 1, 1)])
def test_twenty_megabytes(extensions: str, fragments: int, opcode: int) -> None:
    content = random.Random(20).randbytes(10_000_000).hex().encode()
    big = said(content, opcode=opcode, fragments=fragments, is_deflated=True)
    script = [said(b"before"), big, said(b"change", is_deflated=True), said(b"after", is_deflated=True)]
    ours = both(script, extensions)
    assert ours.read == [b"before", content, b"change", b"after"]
    assert max(ours.sizes) < 2 * relay.MOST_COLLECTED or fragments < 400


@pytest.mark.parametrize("size", [20 << 20, 40 << 20])
def test_a_bomb_in_one_frame_closes_both_sides(size: int) -> None:
    ours = both([said(b"before", is_deflated=True), said(bytes(size), opcode=2, is_deflated=True)], DEFLATE)
    assert ours.flow.websocket is not None
    assert (ours.read, ours.flow.websocket.close_code) == ([b"before"], 1009)


@pytest.mark.parametrize("extensions", EXTENSIONS)
def test_windows_that_differ_become_alike_again(extensions: str) -> None:
    """Each message refers to all those before it that are in its window."""
    line = random.Random(1).randbytes(10_000).hex().encode()
    script = []
    for change in (b"drop", b"change", b"grow", b"tell"):
        for content in (line, line + change, *[line] * 5):
            script += [said(content, is_deflated=True), Step("server", "read")]
    both(script, extensions)


def test_a_message_that_came_plain_is_in_one_window_only() -> None:
    words = random.Random(2).randbytes(2000).hex().encode()
    plain, deflated = said(words[::-1], fragments=2), said(words, is_deflated=True)
    script = [deflated, plain, deflated, deflated, plain, deflated]
    both([step for one in script for step in (one, Step("server", "read"))], DEFLATE)


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_deflated_stream_that_ends(extensions: str, at_once: bool) -> None:
    ended = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = ended.compress(b"the last words") + ended.flush(zlib.Z_FINISH)
    writer = Writer("server")
    first, *more = [writer.frame(0xC1, payload), writer.frame(0x41, payload[:4]), writer.frame(0x80, payload[4:])]
    theirs, ours = Peers(relay._Layer, extensions), Ours(extensions)
    for peers in (theirs, ours):
        for data in [first + b"".join(more)] if at_once else [first, first]:
            peers.give(events.DataReceived(peers.connections["server"], data))
        peers.close("server")
    assert outcome(ours) == outcome(theirs)


BURST = b"".join(Writer("server").message(b"%d. message" % number, 1, False, 1) for number in range(20))


@pytest.mark.parametrize("extensions", ["", DEFLATE])
def test_what_comes_in_one_read_leaves_in_one_write_without_hooks(extensions: str) -> None:
    ours = Ours(extensions)
    ours.give(events.DataReceived(ours.connections["server"], BURST))
    assert (ours.writes, ours.heard, len(ours.read)) == (["client"], [], 20)


def test_deflated_messages_leave_as_they_came() -> None:
    ours, writer = Ours(DEFLATE), Writer("server")
    came = b"".join(writer.message(b"%d. message" % number, 1, True, 1) for number in range(20))
    ours.give(events.DataReceived(ours.connections["server"], came))
    assert (bytes(ours.got["client"]), ours.writes, len(ours.read)) == (came, ["client"], 20)


def test_one_changed_message_among_others_leaves_in_the_same_write() -> None:
    ours, writer = Ours(), Writer("server")
    came = [writer.message(content, 1, False, 1) for content in (b"one", b"change", b"drop", b"two")]
    ours.give(events.DataReceived(ours.connections["server"], b"".join(came)))
    assert [content for _, content in ours.sent("client")] == [b"one", b"egnahc", b"two"]
    assert ours.writes == ["client"]


def test_hooks_are_called_while_another_addon_listens() -> None:
    ours = Ours()
    server = ours.connections["server"]
    for ours.is_heard, calls in ((True, 20), (False, 20), (True, 40)):
        ours.give(events.DataReceived(server, BURST))
        assert len(ours.heard) == calls
    assert (len(ours.read), bytes(ours.got["client"])) == (20, BURST * 3)


def test_hooks_are_called_for_a_flow_without_a_reader() -> None:
    ours = Ours()
    ours.has_reader = False
    ours.give(events.DataReceived(ours.connections["server"], BURST))
    assert (len(ours.heard), ours.read, len(ours.writes)) == (20, [], 20)


def test_an_intercepted_flow_waits_in_its_hook() -> None:
    ours = Ours()
    ours.flow.intercepted = True
    ours.give(events.DataReceived(ours.connections["server"], BURST))
    assert (len(ours.heard), ours.read) == (20, [])


def test_an_answer_to_a_message_comes_after_the_read_it_was_in() -> None:
    ours = both([said(b"answer"), said(b"two"), Step("server", "read"), said(b"three")])
    assert [content for _, content in ours.sent("client")][:2] == [b"answer", b"two"]
    ours = both([said(b"tell"), said(b"two"), Step("server", "read"), said(b"three")])
    assert [content for _, content in ours.sent("client")][:4] == [b"tell", b"two", b"injected, too", b"three"]


def test_messages_wait_while_a_message_of_the_client_waits() -> None:
    ours = Ours()
    ours.give(events.DataReceived(ours.connections["client"], Writer("client").message(b"wait", 1, False, 1)))
    ours.give(events.DataReceived(ours.connections["server"], BURST))
    assert (ours.read, ours.writes) == ([], [])
    ours.release()
    assert (len(ours.read), ours.writes) == (20, ["server", "client"])


def test_a_later_install_changes_nothing_for_an_open_socket() -> None:
    ours = Ours()
    later = Ours()
    ours.give(events.DataReceived(ours.connections["server"], BURST))
    assert (len(ours.read), later.read) == (20, [])


def test_all_private_names_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert relay.missing_names() == []
    monkeypatch.setattr(relay, "USED", ("_proto.nothing",))
    assert relay.missing_names() == ["wsproto.Connection._proto.nothing"]


# -- in a tunnel, over TLS, by the shortcut and by mitmproxy's own way


class Reading(ScriptedSender):
    """Has a reader for the messages of claimed flows."""

    def __init__(self) -> None:
        super().__init__()
        self.injected: list[WebSocketMessageInjected] = []

    def message_reader(self, flow: http.HTTPFlow) -> Reader | None:
        def inject(message: WebSocketMessage) -> None:
            self.injected.append(WebSocketMessageInjected(flow, message))

        return (lambda message: read(message, inject)) if flow.request.path == "/claimed" else None


def opened(path: str, early: bytes = b"", /, **way: bool) -> Tunnel:
    """Open a socket in a tunnel. With the answer to its handshake come ``early`` frames."""
    tunnel = Tunnel(Streaming(), **way)
    handshake(tunnel, path, early)
    return tunnel


def handshake(tunnel: Tunnel, path: str, early: bytes = b"") -> None:
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\n"
    key = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    tunnel.ask(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{upgrade}{key}\r\n".encode())
    tunnel.answer(f"HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n".encode() + early)


def tunneled(path: str, reads: Sequence[tuple[Side, bytes]], **way: bool) -> tuple[Tunnel, list[object]]:
    """Open a socket in a tunnel. Return what both sides had got after each read, and what had happened."""
    sender = Reading()
    resend.install(sender, lambda: False)
    tunnel = opened(path, **way)
    tunnel.writes.clear()
    tunnel.hold = {"websocket_message"}
    got: list[object] = []

    def note() -> None:
        got.append((bytes(tunnel.client.text), bytes(tunnel.servers[-1].text), [*tunnel.trace]))

    for number, (side, data) in enumerate(reads):
        tunnel.ask(data) if side == "client" else tunnel.answer(data)
        note()
        while sender.injected:
            tunnel.give(sender.injected.pop(0))
        while tunnel.held and number % 3:
            tunnel.release()
        note()
    while tunnel.held:
        tunnel.release()
    note()
    return tunnel, got


@pytest.mark.parametrize("way", [{}, {"eager": True}, {"upstream": True}], ids=["lazy", "eager", "upstream"])
@pytest.mark.parametrize("path", ["/claimed", "/claimed-without-a-reader", "/unclaimed"])
@pytest.mark.parametrize("ending", [n for n in READS if "close" in n or "text" in n] + ["a client's close"])
def test_the_shortcut_changes_nothing(way: dict[str, bool], path: str, ending: str) -> None:
    client = Writer("client")
    reads: list[tuple[Side, bytes]] = []
    for content in (b"a word", b"drop", b"answer", b"y" * 126, b"tell"):
        reads += [("server", Writer("server").message(content, 1, False, 2)), ("server", READS["messages"])]
        reads += [
            ("client", client.message(content, 1, False, 1)),
            ("server", BURST),
            ("server", frames((PING, b""))),
        ]
    data = READS.get(ending, b"")
    reads += [("server", data[:3]), ("server", data[3:])] if data else [("client", client.frame(CLOSE, b"\x03\xe8"))]
    _, long = tunneled(path, reads, short=False, **way)
    _, short = tunneled(path, reads, short=True, **way)
    assert short == long


@pytest.mark.parametrize("short", [False, True])
def test_a_burst_leaves_a_tunnel_in_one_write_without_hooks(short: bool) -> None:
    tunnel, _ = tunneled("/claimed", [("server", BURST)], short=short)
    assert [to for to, _ in tunnel.writes] == ["client"]
    assert "websocket_message" not in tunnel.trace
    assert bytes(tunnel.client.text).endswith(BURST)


@pytest.mark.parametrize("short", [False, True])
def test_a_flow_whose_first_messages_came_with_the_handshake_can_be_dumped(short: bool) -> None:
    flows: list[http.HTTPFlow] = []
    sender = Reading()
    vars(sender)["message_reader"] = lambda flow: lambda _: flows.append(flow)
    resend.install(sender, lambda: False)
    opened("/claimed", BURST, short=short)
    dump = BytesIO()
    FlowWriter(dump).add(flows[0])
    dump.seek(0)
    (read_again,) = FlowReader(dump).stream()

    assert isinstance(read_again, http.HTTPFlow)
    assert read_again.websocket is not None
    assert [message.content for message in read_again.websocket.messages] == [b"%d. message" % n for n in range(20)]


def test_a_connection_from_before_a_reload_may_open_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    resend.install(Reading(), lambda: False)
    tunnel = Tunnel(Streaming(), short=True)
    tunnel.ask(f"GET /claimed HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
    tunnel.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    again = importlib.util.find_spec(shortcut.__name__)
    assert again is not None
    assert again.loader is not None
    loaded = importlib.util.module_from_spec(again)
    again.loader.exec_module(loaded)
    monkeypatch.setattr(resend, "shortcut", loaded)  # As streams of the class after the reload see it.
    handshake(tunnel, "/claimed-without-a-reader")
    for _ in range(2):
        tunnel.answer(BURST)

    assert bytes(tunnel.client.text).endswith(BURST * 2)
