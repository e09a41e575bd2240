"""What mitmproxy's connections lack: bounds, and a clean end. `codexpool.proxy.resend` installs this for all of them.

Over HTTP/1 mitmproxy takes an interim answer (1xx) for the final one, and raises an exception on trailers: either way
the client hangs. Here both are dropped. An endless head or WebSocket message ends its connection.

A server that refuses a request before it has read the body, and closes, answers the rest of the body with a reset.
asyncio then drops the connection, and the refusal with it. `hear` makes mitmproxy read the refusal first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import zlib
from collections.abc import Generator, Iterable
from logging import DEBUG
from typing import Any, Final, Literal

import h11
from h11._readers import ChunkedReader
from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import commands, events, server
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.http import _http1, _upstream_proxy
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestTrailers, ResponseTrailers
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits

from codexpool.proxy import shortcut

MOST_OF_A_HEAD: Final = 256 << 10  # bytes in a head over HTTP/1, or in the framing of a body
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
MOST_INTERIM: Final = 100  # interim answers before the final one
MOST_OF_THE_REST: Final = 2 << 20  # bytes read from a server that has closed
# Bytes in an inflated WebSocket message, counting `FRAME` more for each of its frames.
MOST_OF_A_MESSAGE: Final = 32 << 20
FRAME: Final = 64  # bytes of memory a frame costs, however short it is
DENSE_FROM: Final = 8 << 20  # bytes up to which a message may be denser than `MOST_DENSE`
MOST_DENSE: Final = 100  # how many times its size a message may inflate to. (Deflate reaches 1,000; text reaches 10.)
PIECE: Final = 1 << 20  # bytes inflated in one step
END: Final = b"\x00\x00\xff\xff"  # which a deflated message is sent without (RFC 7692, 7.2.1)
# zlib's level for messages. The default saves a fifth and takes four times as long, while all connections wait.
EFFORT: Final = 1

Commands = Generator[Any, Any, None]

# After a reload of this module mitmproxy's names still refer to the classes installed before.
_Upstream: Any = next(
    cls for cls in _upstream_proxy.HttpUpstreamProxy.__mro__ if cls.__module__ == _upstream_proxy.__name__
)
_Websocket: Any = next(cls for cls in websocket.WebsocketConnection.__mro__ if cls.__module__ == websocket.__name__)

TOUCHED: Final[dict[type, tuple[str, ...]]] = {
    _http1.Http1Client: ("read_headers", "read_body", "send", "done", "ReceiveProtocolError"),
    _http1.Http1Server: ("read_headers", "read_body", "send", "done", "ReceiveProtocolError"),
    _Upstream: ("receive_handshake_data",),
    server.ConnectionIO: ("reader", "writer"),
    server.ConnectionHandler: ("handle_connection",),
    _Websocket: ("send2",),
    PerMessageDeflate: ("frame_inbound_payload_data", "frame_outbound"),
}

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_INTERIM: Final = re.compile(rb"HTTP/\d\.\d 1\d\d(\s|$)")


# -- HTTP/1


class _Chunks:
    """A reader of chunks that drops the trailers, at which mitmproxy would raise."""

    def __init__(self, reader: ChunkedReader) -> None:
        self._reader = reader
        self.read_eof = reader.read_eof

    def __call__(self, buffer: Any) -> Any:
        event = self._reader(buffer)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event

    def take_whole(self, buffer: Any) -> list[bytes]:
        """Take the whole chunks at the beginning of the buffer, and return their data.

        h11 takes several microseconds for a chunk. It gets all that is not a plain whole chunk: a size with an
        extension, the last chunk, a chunk that is not complete or not valid.
        """
        reader: Any = self._reader
        if reader._bytes_in_chunk or reader._reading_trailer:
            return []
        data, begin, found = bytes(buffer), 0, []
        if left := reader._bytes_to_discard:  # of the line end of the chunk before; h11 0.14 counts them
            left = b"\r\n"[-left:] if isinstance(left, int) else left
            if not data.startswith(left):
                return []
            begin, reader._bytes_to_discard = len(left), type(reader._bytes_to_discard)()
        while size := _CHUNK_SIZE.match(data, begin):
            start, end = size.end(), size.end() + int(size[1], 16)
            if end == start or data[end : end + 2] != b"\r\n":
                break
            found.append(data[start:end])
            begin = end + 2
        buffer.maybe_extract_at_most(begin)
        return found


class _WithoutTrailers:
    """One side of HTTP/1, which drops trailers (as RFC 9110, 6.5.1 allows) and bounds what frames a body."""

    body_reader: Any

    def read_body(self: Any, event: events.Event) -> Commands:
        if isinstance(self.body_reader, ChunkedReader):
            self.body_reader = _Chunks(self.body_reader)
        yield from super().read_body(event)  # type: ignore[misc]
        if self.state == self.read_body and len(self.buf) > MOST_OF_A_HEAD:
            yield from _give_up(self, "the framing of its body does not end")

    def send(self: Any, event: Any) -> Commands:
        if not isinstance(event, RequestTrailers | ResponseTrailers):
            yield from super().send(event)  # type: ignore[misc]


def _give_up(connection: Any, why: str) -> Commands:
    connection.state = connection.done
    yield commands.CloseConnection(connection.conn)
    error = connection.ReceiveProtocolError
    yield ReceiveHttp(error(connection.stream_id, f"HTTP/1 protocol error: {why}", code=error.code))


class Http1Client(_WithoutTrailers, _http1.Http1Client):
    _interim = 0

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if (
            isinstance(event, events.DataReceived)
            and self.request is not None
            and (wrong := (yield from self._drop_interim(self.request)))
        ):
            yield from _give_up(self, wrong)
        else:
            yield from super().read_headers(event)

    def _drop_interim(self, request: http.Request) -> Generator[Any, Any, str]:
        """Drop interim answers before the final one, and return what is wrong with them, if anything."""
        while lines := self.buf.maybe_extract_lines():
            status = bytes(lines[0])
            is_upgrade = b" 101" in status[:12] and "upgrade" in request.headers
            if not _INTERIM.match(status) or is_upgrade:
                rest = self.buf.maybe_extract_at_most(len(self.buf)) or b""
                self.buf += b"\r\n".join([*map(bytes, lines), b"", bytes(rest)])
                self._interim = 0
                return ""
            if b" 101" in status[:12]:
                return "it switches protocols without a request to"
            self._interim += 1
            if self._interim > MOST_INTERIM:
                return "it has too many interim answers"
            yield commands.Log(f"Swallowing HTTP/1 informational response: {status!r}", DEBUG)
        return "the head of the answer does not end" if len(self.buf) > MOST_OF_A_HEAD else ""


class Http1Server(_WithoutTrailers, _http1.Http1Server):
    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        yield from super().read_headers(event)
        if self.state == self.read_headers and len(self.buf) > MOST_OF_A_HEAD:
            self.state = self.done
            yield commands.SendData(self.conn, TOO_LARGE)
            yield commands.CloseConnection(self.conn)


class UpstreamProxy(_Upstream):  # type: ignore[misc]
    """A connection through a company's proxy, whose answer to CONNECT is bounded."""

    def receive_handshake_data(self, data: bytes) -> Generator[Any, Any, tuple[bool, str | None]]:
        is_done, error = yield from super().receive_handshake_data(data)
        if self.send_connect and not (is_done or error) and len(self.buf) > MOST_OF_A_HEAD:
            error = "The head of the upstream proxy's answer does not end"
        return is_done, error


# -- the last answer of a server that has closed


class _Reader:
    """Reads a connection to its end and, after an error, what was received before it.

    asyncio closes its socket as soon as it cannot write; ``duplicate`` stays open.
    """

    def __init__(self, reader: Any, duplicate: socket.socket, server: Server) -> None:
        self._reader = reader
        self._duplicate = duplicate
        self._server = server
        self._has_failed = False

    async def read(self, size: int) -> bytes:
        data: bytes = b""
        try:
            data = await self._reader.read(size)
        except OSError:
            # The reader raises from now on. Return the rest only once, or mitmproxy would never stop reading.
            if self._has_failed or not (data := self._rest()):
                raise
            self._has_failed = True
            self._server.state &= ~ConnectionState.CAN_WRITE  # No other request may use it.
        finally:
            if not data:
                self._duplicate.close()
        return data

    def _rest(self) -> bytes:
        rest = bytes(getattr(self._reader, "_buffer", b""))  # asyncio no longer hands it out.
        with contextlib.suppress(OSError):
            while (more := self._duplicate.recv(MOST_OF_A_HEAD)) and len(rest) < MOST_OF_THE_REST:
                rest += more
        self._duplicate.close()
        return rest


def hear(proxyserver: Any, data: ServerConnectionHookData) -> None:
    """Make a new connection read the last answer of its server. For the ``server_connected`` hook."""
    handler = proxyserver.connections.get(data.client.id)
    io = handler.transports.get(data.server) if handler is not None else None
    if io is None or data.server.transport_protocol != "tcp" or sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # No file descriptor is left: the connection works without.
        io.reader = _Reader(io.reader, io.writer.get_extra_info("socket").dup(), data.server)


# -- how a connection ends


class _PatientLock(asyncio.Lock):
    """A lock that a cancelled task acquires first; the cancellation is delivered at its next wait.

    mitmproxy handles each event under a lock, and ends a connection by cancelling its task. A task waiting for the
    lock just then would never close its connection, and the peer would hang.
    """

    async def acquire(self) -> Literal[True]:
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await super().acquire()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None and (task := asyncio.current_task()) is not None:
            task.cancel(*cancelled.args)
        return True


def close_well(proxyserver: Any, client: Client) -> None:
    """Make all connections of a client end properly. For the ``client_connected`` hook."""
    handler = proxyserver.connections.get(client.id)
    if hasattr(handler, "_server_event_lock"):
        handler._server_event_lock = _PatientLock()
        shortcut.add(handler)


# -- WebSocket


class _Bound(Extension):
    """Counts the bytes of messages. The last extension: it sees what the others make of a frame."""

    name = "codexpool-bound"

    def __init__(self) -> None:
        self.size = 0  # bytes of the message so far, inflated
        self.deflated = 0  # bytes of it as received, if it is deflated
        self.was_deflated = False  # Bytes of the last complete message were deflated.
        self._is_control = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def grow(self, by: int) -> None:
        """Count bytes of the message. Raises ParseFailed if it is too long or too dense."""
        self.size += by
        too_dense = self.deflated and self.size > max(DENSE_FROM, MOST_DENSE * self.deflated)
        if self.size > MOST_OF_A_MESSAGE or too_dense:
            what = f"inflates to over {MOST_DENSE} times its size" if too_dense else "has over 32 MiB"
            raise ParseFailed(f"{REASON} {what}", CloseReason.MESSAGE_TOO_BIG)

    def frame_inbound_header(self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int) -> RsvBits:
        self._is_control = opcode.iscontrol()
        if not self._is_control:
            self.grow(FRAME)
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
        if not self._is_control and not self.deflated:  # `_Deflate` has counted those.
            self.grow(len(data))
        return data

    def frame_inbound_complete(self, proto: Any, fin: bool) -> None:
        if fin and not self._is_control:
            self.was_deflated = bool(self.deflated)
            self.size = self.deflated = 0


REASON: Final = "codexpool: a message"  # the beginning of the reason in the close frame


class _Deflate(PerMessageDeflate):
    """Inflates in bounded pieces; deflates quickly."""

    def __init__(self, negotiated: PerMessageDeflate, bound: _Bound) -> None:
        self.__dict__.update(negotiated.__dict__)
        self._bound = bound
        self.has_ended = False  # The stream has ended with the last message: not every client can inflate that.

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        if not self._inbound_compressed or not self._inbound_is_compressible or self._decompressor is None:
            return super().frame_inbound_payload_data(proto, data)
        self._bound.deflated += len(data)
        return self._in_pieces(bytes(data))

    def inflate(self, message: bytes) -> bytes:
        """Inflate a message of a server that came in one frame, as wsproto would. Raises ParseFailed."""
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(-self.server_max_window_bits)
        bound = self._bound
        bound.size, bound.deflated = FRAME, len(message)
        inflated = self._in_pieces(message + END)
        bound.size = bound.deflated = 0
        self.has_ended = self._decompressor.eof
        if self.has_ended:
            self._decompressor.flush()  # As after wsproto's, the next message is an error.
        if self.server_no_context_takeover:
            self._decompressor = None
        return inflated

    def forget(self) -> None:
        """Deflate the next message without reference to earlier ones."""
        self._compressor = None

    def _in_pieces(self, left: bytes) -> bytes:
        pieces: list[bytes] = []
        decompressor: Any = self._decompressor
        while True:
            try:
                piece = decompressor.decompress(left, PIECE)
            except zlib.error as error:
                raise ParseFailed("error in extension", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from error
            self._bound.grow(len(piece))
            left = decompressor.unconsumed_tail
            if not left and len(piece) < PIECE:
                return piece if not pieces else b"".join((*pieces, piece))
            pieces.append(piece)

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        if self._compressor is None and not opcode.iscontrol():
            bits = self.client_max_window_bits if proto.client else self.server_max_window_bits
            self._compressor = zlib.compressobj(EFFORT, zlib.DEFLATED, -bits)
        return super().frame_outbound(proto, opcode, rsv, data, fin)


class WebsocketConnection(_Websocket):  # type: ignore[misc]
    """One side of a WebSocket. A message that is too long closes it with 1009."""

    def __init__(self, connection_type: Any, extensions: Iterable[Extension] = (), **more: Any) -> None:
        self.bound = bound = _Bound()
        bounded = [_Deflate(one, bound) if isinstance(one, PerMessageDeflate) else one for one in extensions]
        self.deflate = next((one for one in bounded if isinstance(one, _Deflate)), None)
        super().__init__(connection_type, [*bounded, bound], **more)


def missing_names() -> list[str]:
    """Return the names this file needs of h11 and the installed one lacks."""
    names = ("_bytes_in_chunk", "_bytes_to_discard", "_reading_trailer")
    return [f"h11.ChunkedReader.{name}" for name in names if not hasattr(ChunkedReader(), name)]


def install() -> None:
    """Make every new connection one of these."""
    vars(layers).update(Http1Client=Http1Client, Http1Server=Http1Server)
    vars(_upstream_proxy).update(HttpUpstreamProxy=UpstreamProxy)
    vars(websocket).update(WebsocketConnection=WebsocketConnection)
