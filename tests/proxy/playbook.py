"""mitmproxy's HTTP layer without a network: a client on one side, upstreams on the other, all in memory.

`Proxy` stands where mitmproxy's connection handler stands. It hands events to an `HttpLayer` one after the other and
carries out its commands: bytes go to the peer at the other end of a connection, hooks to the addon of the test.
Whatever is to take its time (a hook, the opening of a connection) is held and later let go by the test.

The peers speak HTTP by h11 and h2, so what a test asserts is what a client and a server would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
from mitmproxy import connection, http, options
from mitmproxy.addons import proxyserver
from mitmproxy.proxy import commands, context, events, mode_specs
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers import websocket as websocket_layer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, _http1
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.test import taddons

from codexpool.proxy import connections, relay, resend
from codexpool.proxy.resend import Sender

Protocol = Literal["h1", "h2"]
Fields = Iterable[tuple[str, str]]

HOST = "upstream.test"


def uninstall() -> None:
    """Give mitmproxy its own classes back."""
    vars(http_layers).update(
        HttpStream=resend.HttpStream, Http1Client=_http1.Http1Client, Http1Server=_http1.Http1Server
    )
    vars(websocket_layer).update(WebsocketConnection=connections._Websocket, WebsocketLayer=relay._Layer)


def proxy_options(**settings: Any) -> options.Options:
    """mitmproxy's options, with those that its proxy server registers."""
    with taddons.context(proxyserver.Proxyserver()) as tctx:
        opts: options.Options = tctx.options
        opts.update(**settings)
        return opts


FAILED = b"the stream has failed"
CUT = b"cut"
"""What is in the place of a body that does not come to its end."""


class ScriptedSender(Sender):
    """Claims what is sent to ``/claimed…``, numbers the attempts on the wire, and sends again what was refused."""

    def __init__(self, attempts: int = 2) -> None:
        self.attempts = attempts
        self.repeats = False
        """Whether what was lost is sent again."""
        self.lost_flows: set[str] = set()
        self.judges: set[int] = set()
        """Statuses that are enough to go by where a body does not come to its end."""
        self.told: list[str] = []
        self.stale: set[int] = set()
        """Attempts that are outdated by the time their connection is there."""
        self.tries: dict[str, int] = {}
        self.dress: Callable[[http.Request, int], http.Request | http.Response | None] = lambda request, _: request

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        if not flow.request.path.startswith("/claimed"):
            return None
        number = self.tries[flow.id] = self.tries.get(flow.id, 0) + 1
        dressed = flow.request.copy()
        dressed.headers["authorization"] = f"Bearer at-test-{number}"
        return self.dress(dressed, number)

    def is_outdated(self, flow: http.HTTPFlow) -> bool:
        return self.tries[flow.id] in self.stale

    def should_resend(self, flow: http.HTTPFlow) -> bool:
        if flow.id in self.lost_flows:
            self.lost_flows.discard(flow.id)
            return self.repeats and self.tries[flow.id] < self.attempts
        response = flow.response
        refused = response is not None and (response.status_code == 401 or response.content == FAILED)
        return refused and self.tries[flow.id] < self.attempts

    def head_seen(self, flow: http.HTTPFlow) -> None:
        self.told.append("head")

    def response_complete(self, flow: http.HTTPFlow) -> None:
        self.told.append("whole")

    def judge_incomplete(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> http.Response | None:
        assert flow.response is not None
        self.told.append(why)
        status = flow.response.status_code
        return http.Response.make(status, CUT) if status in self.judges else None

    def connection_lost(self, flow: http.HTTPFlow) -> None:
        self.lost_flows.add(flow.id)

    def should_hold(self, flow: http.HTTPFlow) -> bool:
        assert flow.response is not None
        return "event-stream" in flow.response.headers.get("content-type", "")

    def judge_beginning(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        if b"failed" in piece:
            return http.Response.make(429, FAILED)
        return b"created" not in piece


class Streaming:
    """An addon that holds refusals and streams everything else."""

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = flow.response.status_code not in (401, 101)


@dataclass(eq=False)
class Seen:
    """A request as an upstream has got it so far."""

    upstream: Upstream
    stream: int
    path: str
    headers: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    reset: int | None = None
    """The error code with which the proxy has taken it back (HTTP/2)."""

    @property
    def body(self) -> bytes:
        return bytes(self.data)

    @property
    def attempt(self) -> int:
        return int(self.headers["authorization"].removeprefix("Bearer at-test-"))


@dataclass(eq=False)
class Got:
    """A response as the client has got it so far."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    cut: bool = False
    """It ended before it was complete: a reset stream, a closed connection."""

    @property
    def body(self) -> bytes:
        return bytes(self.data)

    @property
    def over(self) -> bool:
        return self.complete or self.cut


class Driver:
    """Hands events to a layer, and carries out its commands."""

    layer: Any

    def __init__(self) -> None:
        self._events: deque[events.Event] = deque()
        self._running = False

    def give(self, event: events.Event) -> None:
        """Hand over an event. As in mitmproxy, one that arises on the way waits until the last is dealt with."""
        self._events.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._events:
                for command in self.layer.handle_event(self._events.popleft()):
                    self._carry_out(command)
        finally:
            self._running = False

    def _carry_out(self, command: Any) -> None:
        raise NotImplementedError


class Proxy(Driver):
    """One client connection with all that hangs on it."""

    def __init__(
        self,
        *,
        client: Protocol = "h1",
        upstream: Protocol = "h1",
        mode: HTTPMode = HTTPMode.regular,
        addon: object = None,
        opts: options.Options | None = None,
    ) -> None:
        self.upstream_protocol = upstream
        self.addon = addon if addon is not None else Streaming()
        self.hold: set[str] = set()
        """Names of hooks (and "open") that wait for `release`."""
        self.held: list[commands.Command] = []
        self.wakeups: list[commands.RequestWakeup] = []
        self.hooks: list[str] = []
        self.logs: list[str] = []
        self.upstreams: list[Upstream] = []
        self.requests: list[Seen] = []
        self.opened: list[tuple[str, int]] = []
        self.unreachable: set[str] = set()
        self.reads = True
        self.flows: list[http.HTTPFlow] = []
        super().__init__()

        peer = connection.Client(
            peername=("192.0.2.1", 4711),
            sockname=("192.0.2.2", 8080),
            timestamp_start=1,
            state=connection.ConnectionState.OPEN,
        )
        if mode is HTTPMode.upstream:
            peer.proxy_mode = mode_specs.ProxyMode.parse("upstream:http://parent.test:3128")
        peer.alpn = b"h2" if client == "h2" else b"http/1.1"
        ctx = context.Context(peer, opts if opts is not None else proxy_options())
        if mode is HTTPMode.transparent:
            ctx.server.address = (HOST, 80)
        self.layer = HttpLayer(ctx, mode)
        self.client: Client = H2Client(self, peer) if client == "h2" else H1Client(self, peer)
        self.give(events.Start())

    # -- events in

    def inject(self, event: HttpEvent) -> None:
        """Hand an event to the stream it is for, as the layer of a server connection does."""
        if (stream := self.layer.streams.get(event.stream_id)) is not None:
            for command in self.layer.event_to_child(stream, event):
                self._carry_out(command)

    def release(self, name: str | None = None) -> None:
        """Let the oldest held command go on, of all or of those called ``name``."""
        command = next(held for held in self.held if name in (None, _name(held)))
        self.held.remove(command)
        self._complete(command)

    def wake(self, after: float | None = None) -> None:
        """Let the oldest wakeup come, of all or of those that were asked for with that delay in seconds."""
        oldest = next(one for one in self.wakeups if after in (None, one.delay))
        self.wakeups.remove(oldest)
        self.give(events.Wakeup(oldest))

    # -- commands out

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.SendData():
                if command.connection.state & connection.ConnectionState.CAN_WRITE:
                    self._peer(command.connection).receive(command.data)
            case commands.CloseTcpConnection(half_close=True):
                command.connection.state &= ~connection.ConnectionState.CAN_WRITE
            case commands.CloseConnection():
                command.connection.state = connection.ConnectionState.CLOSED
                self._peer(command.connection).closed()
            case commands.Log():
                self.logs.append(command.message)
            case commands.OpenConnection() | commands.StartHook():
                if _name(command) in self.hold:
                    self.held.append(command)
                else:
                    self._complete(command)
            case commands.RequestWakeup():
                self.wakeups.append(command)
            case _:
                raise AssertionError(command)

    def _complete(self, command: commands.Command) -> None:
        if isinstance(command, commands.OpenConnection):
            self.give(events.OpenConnectionCompleted(command, self._open(command.connection)))
            return
        assert isinstance(command, commands.StartHook)
        self.hooks.append(command.name)
        (flow,) = command.args()
        if command.name == "requestheaders":
            self.flows.append(flow)
        if (hook := getattr(self.addon, command.name, None)) is not None:
            hook(flow)
        if command.blocking:
            self.give(events.HookCompleted(command, None))

    def _open(self, server: connection.Server) -> str | None:
        assert server.address is not None
        self.opened.append((server.address[0], server.address[1]))
        if server.address[0] in self.unreachable:
            return "no route to host"
        server.state = connection.ConnectionState.OPEN
        server.timestamp_start = 1
        server.alpn = b"h2" if self.upstream_protocol == "h2" else b"http/1.1"
        upstream = H2Upstream(self, server) if self.upstream_protocol == "h2" else H1Upstream(self, server)
        self.upstreams.append(upstream)
        return None

    def _peer(self, conn: connection.Connection) -> Peer:
        if conn is self.client.conn:
            return self.client
        return next(upstream for upstream in self.upstreams if upstream.conn is conn)


def _name(command: commands.Command) -> str:
    return command.name if isinstance(command, commands.StartHook) else "open"


class Peer(ABC):
    """The other end of a connection of the proxy."""

    def __init__(self, proxy: Proxy, conn: connection.Connection) -> None:
        self.proxy = proxy
        self.conn = conn
        self.wire = bytearray()
        """All bytes the proxy has sent, as they came."""

    def receive(self, data: bytes) -> None:
        self.wire += data
        self.take(data)

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Bytes from the proxy."""

    @abstractmethod
    def closed(self) -> None:
        """The proxy has closed the connection."""

    def send(self, data: bytes) -> None:
        if data and self.conn.state & connection.ConnectionState.CAN_READ:
            self.proxy.give(events.DataReceived(self.conn, data))

    def close(self) -> None:
        """Close the connection from this end."""
        if self.conn.state & connection.ConnectionState.CAN_READ:
            self.conn.state &= ~connection.ConnectionState.CAN_READ
            self.closed()
            self.proxy.give(events.ConnectionClosed(self.conn))


# -- clients


class Client(Peer):
    """The client: `ask` begins a request, what comes back is in the `Got` it returns."""

    @abstractmethod
    def ask(self, path: str, body: bytes = b"", fields: Fields = (), *, end: bool = True) -> Got: ...

    @abstractmethod
    def ask_more(self, got: Got, body: bytes, trailers: Fields = (), *, end: bool = True) -> None: ...

    @abstractmethod
    def leave(self, got: Got) -> None: ...


class H1Client(Client):
    """HTTP/1.1, as to an explicit proxy: the target is an absolute URL."""

    def __init__(self, proxy: Proxy, conn: connection.Connection) -> None:
        super().__init__(proxy, conn)
        self.http = h11.Connection(h11.CLIENT)
        self.got: Got | None = None
        self.tunnel: bytearray | None = None
        """What has come since the connection was upgraded."""
        self._is_connected = False

    def connect(self) -> None:
        """Have the proxy make a tunnel to `HOST`, and ask through that from now on."""
        self.send(f"CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n".encode())
        assert bytes(self.wire).startswith(b"HTTP/1.1 200 ")
        assert self._is_connected

    def ask(self, path: str, body: bytes = b"", fields: Fields = (), *, end: bool = True) -> Got:
        assert self.got is None or self.got.complete, "HTTP/1 has one request at a time"
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        self.got = got = Got()
        headers = [("host", HOST), *fields]
        if end:
            headers.append(("content-length", str(len(body))))
        else:
            headers.append(("transfer-encoding", "chunked"))
        data = self._h11(h11.Request(method="POST", target=self._target(path), headers=headers))
        if body:
            data += self._h11(h11.Data(data=body))
        if end:
            data += self._h11(h11.EndOfMessage())
        self.send(data)
        return got

    def ask_more(self, got: Got, body: bytes, trailers: Fields = (), *, end: bool = True) -> None:
        data = self._h11(h11.Data(data=body))
        if end:
            data += self._h11(h11.EndOfMessage(headers=list(trailers)))
        self.send(data)

    def _target(self, path: str) -> str:
        is_direct = self._is_connected or self.proxy.layer.mode is HTTPMode.transparent
        return path if is_direct else f"http://{HOST}{path}"

    def upgrade(self, path: str, fields: Fields = ()) -> Got:
        self.got = got = Got()
        headers = [
            *fields,
            ("host", HOST),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ]
        data = self._h11(h11.Request(method="GET", target=self._target(path), headers=headers))
        self.send(data + self._h11(h11.EndOfMessage()))
        return got

    def _h11(self, event: h11.Event) -> bytes:
        return self.http.send(event) or b""

    def take(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel += data
            return
        if self.got is None:
            self._is_connected = True
            return
        assert not self.got.complete, f"after the end of a response: {data!r}"
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.InformationalResponse):
                self.got.status = event.status_code
                self.got.complete = True
                self.tunnel = bytearray(self.http.trailing_data[0])
            elif isinstance(event, h11.Response):
                assert self.got.status is None, "a second response"
                self.got.status = event.status_code
                self.got.headers = {n.decode(): v.decode() for n, v in event.headers}
            elif isinstance(event, h11.Data):
                self.got.data += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.got.complete = True
                self.got.trailers = {n.decode(): v.decode() for n, v in event.headers}
                assert not self.http.trailing_data[0], "after the end of a response"
            else:
                return

    def closed(self) -> None:
        if self.got is None or self.got.over or self.tunnel is not None:
            return
        try:
            self.http.receive_data(b"")
            while not isinstance(event := self.http.next_event(), h11.ConnectionClosed):
                if isinstance(event, h11.EndOfMessage):
                    self.got.complete = True
        except h11.RemoteProtocolError:
            self.got.cut = True
        else:
            self.got.cut = not self.got.complete

    def leave(self, got: Got) -> None:
        self.close()


class H2Client(Client):
    """HTTP/2 with any number of requests side by side."""

    def __init__(self, proxy: Proxy, conn: connection.Connection) -> None:
        super().__init__(proxy, conn)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.got: dict[int, Got] = {}

    def _flush(self) -> None:
        self.send(self.http.data_to_send())

    def ask(self, path: str, body: bytes = b"", fields: Fields = (), *, end: bool = True) -> Got:
        stream = self.http.get_next_available_stream_id()
        got = self.got[stream] = Got()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", path)]
        length = [("content-length", str(len(body)))] if end else []
        self.http.send_headers(stream, [*pseudo, *length, *fields], end_stream=end and not body)
        if body:
            self._send_body(stream, body, end)
        self._flush()
        return got

    def ask_more(self, got: Got, body: bytes, trailers: Fields = (), *, end: bool = True) -> None:
        self._send_body(self._stream(got), body, end and not trailers)
        if trailers:
            self.http.send_headers(self._stream(got), list(trailers), end_stream=True)
        self._flush()

    def _send_body(self, stream: int, body: bytes, end: bool) -> None:
        size = self.http.max_outbound_frame_size
        for start in range(0, len(body), size):
            chunk = body[start : start + size]
            self.http.send_data(stream, chunk, end_stream=end and start + size >= len(body))

    def _stream(self, got: Got) -> int:
        return next(stream for stream, other in self.got.items() if other is got)

    def take(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                got = self.got[event.stream_id]
                assert got.status is None, "a second response"
                got.headers = {str(name): str(value) for name, value in event.headers or ()}
                got.status = int(got.headers[":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.got[event.stream_id].data += event.data or b""
                self.http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.got[event.stream_id].trailers = {str(n): str(v) for n, v in event.headers or ()}
            elif isinstance(event, h2.events.StreamEnded):
                self.got[event.stream_id].complete = True
            elif isinstance(event, h2.events.StreamReset):
                self.got[event.stream_id].cut = True
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise AssertionError(event)
        self._flush()

    def closed(self) -> None:
        for got in self.got.values():
            got.cut = not got.complete

    def leave(self, got: Got) -> None:
        self.http.reset_stream(self._stream(got), h2.errors.ErrorCodes.CANCEL)
        self._flush()


# -- upstreams


class Upstream(Peer):
    """A server: what it has got is in ``proxy.requests``, a test says what it answers."""

    @abstractmethod
    def answer(
        self, seen: Seen, status: int, body: bytes = b"", fields: Fields = (), *, end: bool = True
    ) -> None: ...

    @abstractmethod
    def answer_more(self, seen: Seen, body: bytes, *, end: bool = True) -> None: ...

    @abstractmethod
    def interim(self, seen: Seen, status: int = 103) -> None:
        """Answer for now: the answer itself is still to come."""

    @abstractmethod
    def end(self, seen: Seen, trailers: Fields) -> None:
        """End an answer with trailers."""

    def closed(self) -> None: ...


class H1Upstream(Upstream):
    """HTTP/1.1. A response that is not sent in one go is chunked."""

    def __init__(self, proxy: Proxy, conn: connection.Connection) -> None:
        super().__init__(proxy, conn)
        self.http = h11.Connection(h11.SERVER)
        self.seen: Seen | None = None
        self.tunnel: bytearray | None = None

    def take(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel += data
            return
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self.seen = Seen(self, 0, event.target.decode(), headers)
                self.proxy.requests.append(self.seen)
            elif isinstance(event, h11.Data):
                assert self.seen is not None
                self.seen.data += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self.seen is not None
                self.seen.complete = True
                self.seen.trailers = {name.decode(): value.decode() for name, value in event.headers}
                following = bytes(self.http.trailing_data[0])
                self.http = h11.Connection(h11.SERVER)
                if not following:
                    return
                self.http.receive_data(following)
            else:
                return

    def answer(self, seen: Seen, status: int, body: bytes = b"", fields: Fields = (), *, end: bool = True) -> None:
        framing = f"content-length: {len(body)}" if end else "transfer-encoding: chunked"
        if status == 101:
            framing = "connection: upgrade\r\nupgrade: websocket"
            self.tunnel = bytearray()
        head = [f"HTTP/1.1 {status} x", framing, *(f"{name}: {value}" for name, value in fields)]
        data = "\r\n".join([*head, "", ""]).encode()
        self.send(data + (body if end or not body else _chunk(body)))

    def answer_more(self, seen: Seen, body: bytes, *, end: bool = True) -> None:
        self.send((_chunk(body) if body else b"") + (b"0\r\n\r\n" if end else b""))

    def interim(self, seen: Seen, status: int = 103) -> None:
        self.send(f"HTTP/1.1 {status} For Now\r\nlink: </style.css>\r\n\r\n".encode())

    def end(self, seen: Seen, trailers: Fields) -> None:
        self.send(b"0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in trailers).encode() + b"\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class H2Upstream(Upstream):
    """HTTP/2. With ``proxy.reads`` off it takes requests but leaves bodies unread, and its window closes."""

    def __init__(self, proxy: Proxy, conn: connection.Connection) -> None:
        super().__init__(proxy, conn)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.seen: dict[int, Seen] = {}

    def take(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = {str(name): str(value) for name, value in event.headers or ()}
                seen = self.seen[event.stream_id] = Seen(self, event.stream_id, headers[":path"], headers)
                self.proxy.requests.append(seen)
            elif isinstance(event, h2.events.DataReceived):
                self.seen[event.stream_id].data += event.data or b""
                if self.proxy.reads:
                    self.http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.seen[event.stream_id].trailers = {str(n): str(v) for n, v in event.headers or ()}
            elif isinstance(event, h2.events.StreamEnded):
                self.seen[event.stream_id].complete = True
            elif isinstance(event, h2.events.StreamReset):
                assert event.stream_id in self.seen, "a reset for a stream that was never opened"
                self.seen[event.stream_id].reset = int(event.error_code or 0)
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise AssertionError(event)
        self._flush()

    def _flush(self) -> None:
        self.send(self.http.data_to_send())

    def answer(self, seen: Seen, status: int, body: bytes = b"", fields: Fields = (), *, end: bool = True) -> None:
        length = [("content-length", str(len(body)))] if end else []
        self.http.send_headers(seen.stream, [(":status", str(status)), *length, *fields], end_stream=end and not body)
        if body:
            self.http.send_data(seen.stream, body, end_stream=end)
        self._flush()

    def answer_more(self, seen: Seen, body: bytes, *, end: bool = True) -> None:
        self.http.send_data(seen.stream, body, end_stream=end)
        self._flush()

    def interim(self, seen: Seen, status: int = 103) -> None:
        self.http.send_headers(seen.stream, [(":status", str(status)), ("link", "</style.css>")])
        self._flush()

    def end(self, seen: Seen, trailers: Fields) -> None:
        self.http.send_headers(seen.stream, list(trailers), end_stream=True)
        self._flush()

    def refuse_early(self, seen: Seen, body: bytes = b"") -> None:
        """A whole 401 and, in the same segment, NO_ERROR: the rest of the request need not come (RFC 9113, 8.1)."""
        self.http.send_headers(seen.stream, [(":status", "401"), ("content-length", str(len(body)))])
        self.http.send_data(seen.stream, body, end_stream=True)
        self.http.reset_stream(seen.stream, h2.errors.ErrorCodes.NO_ERROR)
        self._flush()

    def read_on(self) -> None:
        """Give back what unread bodies have taken of the connection's window."""
        self.proxy.reads = True
        self.http.increment_flow_control_window(65_535)
        self._flush()

    def reset(self, seen: Seen, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.INTERNAL_ERROR) -> None:
        self.http.reset_stream(seen.stream, code)
        self._flush()
