"""A shortcut through mitmproxy's layers, for client connections that carry claimed flows.

In a tunnel (CONNECT), each event and each command passes through ten to fifteen layers. Only the innermost ones, TLS
and the HTTP layer inside it, do more than pass it on. A `Shortcut` takes the place of the topmost layer. Once a
stream is claimed, it gives frequent events directly to that inner HTTP layer, and yields its commands directly:

- Data of a streamed answer over HTTP/1: all chunks of one read become one piece and one write (`_pass_on`).
- Data of a WebSocket's server: directly to the WebSocket's layer, and from it to the client (`_to_socket`).
- All other data, and the completion of hooks and timers, go to the inner layer (`_carry`). What it sends to one
  connection during an event is joined into one write, before any command of another kind, so the order is the same.
- Everything rare takes mitmproxy's own path: opening, closing, injected messages, and all events while a layer waits.
  If a rare command occurs in the middle of an event, the rest of that event takes that path (`_take_own_path`).

Both paths leave every layer in the same state, so each event may take either. This file knows nothing of Codex.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain, pairwise
from logging import WARNING
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast
from weakref import WeakValueDictionary

import h11
from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers import modes, tls
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.tunnel import TunnelState
from OpenSSL import SSL

Commands = Generator[Any, Any, None]

READ: Final = 65535  # bytes; mitmproxy reads as much at once
AT_ONCE: Final = 96 << 10  # bytes written at once: what came in one read, framed and encrypted again
FEW: Final = 4 << 10  # bytes that TLS itself has to send, nearly always none; a large buffer would cost more
RECORD: Final = 16 << 10  # bytes in a TLS record; OpenSSL returns one at a time
MOST_OF_FRAMING: Final = 256 << 10  # bytes of an answer whose HTTP/1 layer decides whether its framing ends

TOUCHED: Final[dict[type, tuple[str, ...]]] = {
    layer.Layer: ("handle_event",),
    tunnel.TunnelLayer: ("_handle_command", "event_to_child", "receive_data", "tunnel_state"),
    tls.TLSLayer: ("receive_data", "send_data", "tls_interact"),
    layers.HttpLayer: ("event_to_child",),
    layers.HttpClient: ("_handle_event",),
    _http1.Http1Client: ("read_body",),
    _http1.Http1Server: ("send", "passthrough"),
}

# After a reload of this package, mitmproxy's name refers to the class installed before, which would keep the old
# package in memory.
_Stream: Any = next(cls for cls in layers.HttpStream.__mro__ if cls.__module__ == layers.__name__)

# The layers that may be outside the inner TLS layer: they only pass on events and commands.
_OUTER: Final = (
    modes.HttpProxy,
    modes.HttpUpstreamProxy,
    modes.DestinationKnown,
    layers.HttpLayer,
    _Stream,
)


class Stream(Protocol):
    """What `_pass_on` needs of a stream (see `codexpool.proxy.resend.ResendStream`)."""

    stream_id: int

    def passes_on(self, attempt_id: int) -> bool:
        """Return whether the next data of this attempt go to the client without waiting for anything."""

    def look_at(self, piece: bytes) -> Iterable[bytes]:
        """Return what to send for a piece of the answer's body."""

    def socket(self, attempt_id: int) -> Door | None:
        """Return the layer of an open WebSocket, if it can take data of this attempt; None if there is none."""


class _ReadAlready:
    """A body reader that returns, or raises, a result that was read from the buffer earlier."""

    def __init__(self, reader: Any, result: h11.EndOfMessage | h11.ProtocolError) -> None:
        self._result = result
        self.read_eof = reader.read_eof

    def __call__(self, buffer: Any) -> h11.EndOfMessage:
        if isinstance(self._result, h11.ProtocolError):
            raise self._result
        return self._result


def _decrypt(secure: tls.TLSLayer, event: events.DataReceived) -> Generator[Any, Any, tuple[bytes, bool]]:
    """Return the plaintext of received data, and whether the peer has ended it; send what TLS answers."""
    pieces, ends = [], False
    if event.data:
        secure.tls.bio_write(event.data)
    while True:
        try:
            pieces.append(secure.tls.recv(RECORD))
        except SSL.WantReadError:
            break
        except SSL.ZeroReturnError:
            ends = True
            break
        except SSL.Error as error:
            yield commands.Log(f"TLS Error: {error}", WARNING)
            break
    for waiting in _encrypted(secure):
        yield commands.SendData(event.connection, waiting)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), ends


def _encrypted(secure: tls.TLSLayer, data: bytes = b"") -> Iterator[bytes]:
    """Encrypt data, and yield all that TLS has to send now, in pieces."""
    if data:
        with suppress(SSL.ZeroReturnError, SSL.SysCallError):  # As in mitmproxy: the peer no longer reads.
            secure.tls.sendall(data)
    with suppress(SSL.WantReadError):
        size = AT_ONCE if data else FEW
        at_once = size
        while at_once == size:  # A shorter piece is the last.
            piece = secure.tls.bio_read(size)
            at_once = len(piece)
            yield piece


def _only_passes(one: tunnel.TunnelLayer) -> bool:
    """Return whether a tunnel, once it is open, passes on data unchanged."""
    kind, plain = type(one), tunnel.TunnelLayer
    return kind.receive_data is plain.receive_data and kind.send_data is plain.send_data


class _Server:
    """The layers between a server's connection and its HTTP/1 layer."""

    def __init__(self, tunnels: list[Any], secure: tls.TLSLayer, client: Any, http1: _http1.Http1Client) -> None:
        self._tunnels = tunnels  # those inside the HTTP layer, outermost first
        self._layers = [*tunnels, secure, client, http1]
        # If the TLS layer is around the HTTP layer, the route carries out its commands.
        self._give = secure.event_to_child if secure in tunnels else client.handle_event
        self.secure = secure
        self.http1 = http1

    @property
    def is_ready(self) -> bool:
        is_open = self.secure.tunnel_state is TunnelState.OPEN
        return is_open and not any(one._paused for one in self._layers)

    def receive(self, data: bytes, ends: bool) -> Commands:
        """Pass on decrypted data as the TLS layer does, and handle commands as the layers around it do."""
        handling: Commands = self._receive(data, ends)
        for outer in self._tunnels[-2::-1]:
            handling = _handled(outer, handling)
        return handling

    def _receive(self, data: bytes, ends: bool) -> Commands:
        connection = self.secure.conn
        yield from self._give(events.DataReceived(connection, data))
        if ends:
            connection.state &= ~ConnectionState.CAN_READ
            yield from self._give(events.ConnectionClosed(connection))


def _handled(outer: tunnel.TunnelLayer, inner: Commands) -> Commands:
    for command in inner:
        yield from outer._handle_command(command)


class _Rest(commands.RequestWakeup):
    """The rest of an event's commands. mitmproxy's own path carries it as if a timer had fired."""

    def __init__(self, rest: Iterable[commands.Command]) -> None:
        super().__init__(0)
        self.rest = rest


class Door:
    """Around a layer that gets events directly: answers the timer of a `_Rest` with its commands."""

    def __init__(self, inside: layer.Layer) -> None:
        self._inside = inside

    def handle_event(self, event: events.Event) -> Iterable[commands.Command]:
        # By its name: after a reload a connection's route is of the module before, and a new socket's door is not.
        rest = getattr(event.command, "rest", None) if isinstance(event, events.Wakeup) else None
        return self._inside.handle_event(event) if rest is None else cast(Iterable[commands.Command], rest)


class _Route:
    """The shortcut of one client connection: past the outer layers, to the inner HTTP layer."""

    def __init__(self, top: layer.Layer, outer: list[layer.Layer], secure: tls.ClientTLSLayer, inner: Any) -> None:
        self.top = top
        self._client = secure.conn
        self._inner = inner
        self._layers = [*outer, secure, inner]
        self._sources = [
            (one.command_sources, below) for one, below in pairwise(outer) if hasattr(one, "command_sources")
        ]
        # TLS layers around the inner layer: by the connection that the inner layer knows, and by that of the socket.
        self._secure: dict[Connection, tls.TLSLayer] = {self._client: secure}
        self._received: dict[Connection, tls.TLSLayer] = {self._client: secure}
        self._sockets: dict[Connection, Connection] = {}
        tunnels = [one for one in outer if isinstance(one, tunnel.TunnelLayer)]
        if tunnels and isinstance(tunnels[-1], tls.ServerTLSLayer) and all(map(_only_passes, tunnels[:-1])):
            server, socket = tunnels[-1].conn, tunnels[0].tunnel_connection
            self._secure[server] = self._received[socket] = tunnels[-1]
            self._sockets[server] = socket
        # Connections that outer layers handle.
        self._others = {one for each in tunnels for one in (each.conn, each.tunnel_connection)} - self._secure.keys()
        self._servers: dict[Connection, _Server] = {}
        self._unsent: dict[Connection, list[bytes]] = {}

    @property
    def _is_open(self) -> bool:
        for one in self._layers:  # noqa: SIM110  (all() takes twice as long, and this runs for each event)
            if one._paused:
                return False
        return True

    def handle_event(self, event: events.Event) -> Iterable[commands.Command]:
        if self._is_open:
            if isinstance(event, events.DataReceived):
                if (taken := self._take(event)) is not None:
                    return taken
            elif isinstance(event, events.CommandCompleted) and event.command in self._inner.command_sources:
                for sources, _ in self._sources:
                    sources.pop(event.command, None)
                return self._carry(self._inner.handle_event(event))
        if isinstance(event, events.ConnectionClosed):
            self._servers.pop(event.connection, None)
        return self.top.handle_event(event)

    # -- data

    def _take(self, event: events.DataReceived) -> Iterable[commands.Command] | None:
        """Return the commands for received data, or None if the data must take mitmproxy's own path."""
        connection = event.connection
        server = self._server(connection) if connection is not self._client else None
        if server is not None and server.is_ready and (stream := self._served_by(server)) is not None:
            attempt_id = cast(int, server.http1.stream_id)
            if stream.passes_on(attempt_id):
                return self._pass_on(event, server, stream)
            if (socket := stream.socket(attempt_id)) is not None:
                return self._to_socket(event, server, stream, socket)
        secure = self._received.get(connection)
        if secure is not None:
            return self._decrypted(secure, event) if secure.tunnel_state is TunnelState.OPEN else None
        if connection in self._others or connection not in self._inner.connections:
            return None
        return self._carry(self._inner.handle_event(event))

    def _decrypted(self, secure: tls.TLSLayer, event: events.DataReceived) -> Commands:
        plaintext, ends = yield from _decrypt(secure, event)
        if plaintext:
            yield from self._carry(self._inner.handle_event(events.DataReceived(secure.conn, plaintext)))
        if ends:
            secure.conn.state &= ~ConnectionState.CAN_READ
            yield from self._carry(self._inner.handle_event(events.ConnectionClosed(secure.conn)))

    # -- streamed answers

    def _server(self, connection: Connection) -> _Server | None:
        if connection not in self._servers and (found := self._find_server(connection)) is not None:
            self._servers[connection] = found
        return self._servers.get(connection)

    def _find_server(self, connection: Connection) -> _Server | None:
        around = self._received.get(connection)
        below: Any = self._inner.connections.get(connection if around is None else around.conn)
        tunnels: list[Any] = []
        while isinstance(below, tunnel.TunnelLayer):
            tunnels.append(below)
            below = below.child_layer
        secure = tunnels[-1] if tunnels else around
        http1 = getattr(below, "child_layer", None) if isinstance(below, layers.HttpClient) else None
        if (
            all(map(_only_passes, tunnels[:-1]))
            and isinstance(secure, tls.ServerTLSLayer)
            and isinstance(http1, _http1.Http1Client)
        ):
            return _Server(tunnels, secure, below, http1)
        return None

    def _served_by(self, server: _Server) -> Stream | None:
        """Return the claimed stream whose answer a server is sending, if the client gets it now."""
        http1, to_client = server.http1, self._inner.connections.get(self._client)
        if http1.stream_id is None or not isinstance(to_client, _http1.Http1Server) or to_client._paused:
            return None
        stream = self._inner.streams.get(http1.stream_id)
        if not hasattr(stream, "passes_on") or to_client.response is None or to_client.stream_id != stream.stream_id:
            return None
        return cast(Stream, stream) if http1.state in (http1.read_body, http1.passthrough) else None

    def _pass_on(self, event: events.DataReceived, server: _Server, stream: Stream) -> Commands:
        http1 = server.http1
        plaintext, ends = yield from _decrypt(server.secure, event)
        http1.buf += plaintext
        piece, is_over = _body(http1)
        if piece and (framed := self._framed(stream.look_at(piece))):
            yield from self._send(self._client, framed)
        if is_over or ends:
            source = SimpleNamespace(handle_event=lambda _: server.receive(b"", ends))
            yield from self._carry(self._inner.event_to_child(source, event))

    def _to_socket(self, event: events.DataReceived, server: _Server, stream: Stream, socket: Door) -> Commands:
        """Give data to the layer of a WebSocket. What is not for the client takes the way through all layers."""
        plaintext, ends = yield from _decrypt(server.secure, event)
        handling = socket.handle_event(events.DataReceived(server.http1.conn, plaintext)) if plaintext else iter(())
        for command in handling:
            if type(command) is not commands.SendData or command.connection is not self._client:
                rest = events.Wakeup(_Rest(chain((command,), handling)))
                yield from self._carry(self._inner.event_to_child(cast(layer.Layer, stream), rest))
                break
            yield from self._send(self._client, command.data)
        if ends:
            source = SimpleNamespace(handle_event=lambda _: server.receive(b"", ends))
            yield from self._carry(self._inner.event_to_child(source, event))

    def _framed(self, chunks: Iterable[bytes]) -> bytes:
        to_client = self._inner.connections[self._client]
        if "chunked" in to_client.response.headers.get("transfer-encoding", "").lower():
            return b"".join([b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks])
        return b"".join(chunks)

    # -- commands

    def _carry(self, handling: Iterator[commands.Command]) -> Commands:
        """Yield the commands of the inner layer as the outermost layer would yield them."""
        try:
            for command in handling:
                if isinstance(command, commands.ConnectionCommand):
                    if not isinstance(command, commands.SendData) or command.connection in self._others:
                        yield from self._flush()
                        yield from self._take_own_path(chain((command,), handling))
                        return
                    self._unsent.setdefault(command.connection, []).append(command.data)
                    if len(command.data) > READ // 2:  # Joining long ones takes longer than it saves.
                        yield from self._flush()
                    continue
                if self._unsent:
                    yield from self._flush()
                if command.blocking or isinstance(command, commands.RequestWakeup):
                    for sources, source in self._sources:
                        sources[command] = source
                yield command
        except Exception:
            yield from self._flush()
            raise
        yield from self._flush()

    def _flush(self) -> Commands:
        while self._unsent:
            connection, pieces = self._unsent.popitem()
            yield from self._send(connection, b"".join(pieces))

    def _send(self, connection: Connection, data: bytes) -> Commands:
        secure = self._secure.get(connection)
        for piece in (data,) if secure is None else _encrypted(secure, data):
            yield commands.SendData(self._sockets.get(connection, connection), piece)

    def _take_own_path(self, rest: Iterable[commands.Command]) -> Commands:
        command = _Rest(rest)
        for sources, source in self._sources:
            sources[command] = source
        yield from self.top.handle_event(events.Wakeup(command))


class Shortcut:
    """Takes the place of the topmost layer of a client's connection."""

    def __init__(self, top: layer.Layer) -> None:
        self._top = top
        self.handle_event: Callable[[events.Event], Iterable[commands.Command]] = top.handle_event

    def open(self, stream: Any) -> None:
        """Take the shortcut to the HTTP layer of ``stream`` from now on, if the layers around it are known."""
        found = stream.context.layers[: stream.context.layers.index(stream)]
        if len(found) < 2 or stream.debug is not None:
            return
        *outer, secure, inner = found
        is_known = all(isinstance(one, (*_OUTER, tunnel.TunnelLayer)) for one in outer)
        if not (is_known and isinstance(secure, tls.ClientTLSLayer) and isinstance(inner, layers.HttpLayer)):
            return
        if any(isinstance(one, tls.ClientTLSLayer) for one in outer):
            return
        inside = secure.child_layer
        if getattr(inside, "layer", inside) is not inner:
            return
        secure.child_layer = cast(layer.Layer, Door(inside))
        self.handle_event = _Route(self._top, outer, secure, inner).handle_event


# By the client's identifier, until taken. A client's handler keeps it alive, which ends with the connection.
_shortcuts: WeakValueDictionary[str, Shortcut] = WeakValueDictionary()


def add(handler: Any) -> None:
    """Give a new client connection a shortcut. For the ``client_connected`` hook."""
    handler.layer = _shortcuts[handler.client.id] = Shortcut(handler.layer)


def take(stream: Any) -> None:
    """Take the shortcut to the HTTP layer of a claimed stream."""
    if (shortcut := _shortcuts.pop(stream.context.client.id, None)) is not None:
        shortcut.open(stream)


def _body(http1: Any) -> tuple[bytes, bool]:
    """Return the part of a body that is in the buffer, and whether its HTTP/1 layer must handle the rest."""
    pieces: list[bytes] = []
    reader, buffer = http1.body_reader, http1.buf
    # Twice, because a read may begin within a chunk. (Each time the buffer is copied: not for every odd chunk.)
    looks = 2 if hasattr(reader, "take_whole") else 0
    while True:
        if looks:
            pieces += reader.take_whole(buffer)
            looks -= 1
            if not buffer:
                return b"".join(pieces), False
        try:
            found = reader(buffer)
        except h11.ProtocolError as error:
            found = error
        if not isinstance(found, h11.Data):
            break
        pieces.append(found.data)
    if found is not None:
        http1.body_reader = _ReadAlready(reader, found)
    return b"".join(pieces), found is not None or len(buffer) > MOST_OF_FRAMING
