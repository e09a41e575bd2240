"""A WebSocket layer that passes on the messages of a server without calling a hook for each.

mitmproxy calls a hook for each message, in a task of its own, and writes each frame separately. Here a reader, which
the sender provides, looks at each message of the server synchronously, and everything from one read is forwarded in
one write. mitmproxy still calls its hooks for the client's messages (one may wait for its turn), for injected
messages, for flows without a reader, and for all messages while another addon listens to them.

A frame that contains a whole message is forwarded unchanged, even if it is compressed. The client can inflate it,
because both sides have the same window: the last 32 KiB of the messages that went that way. After a message was
changed, dropped or injected, the windows differ. Messages are then compressed again, until 32 KiB have been passed on
unchanged. All other frames take mitmproxy's own path, without the hook.

This file knows nothing of Codex.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from operator import attrgetter
from typing import Any, Final, Protocol

from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import websocket
from mitmproxy.websocket import WebSocketMessage
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed

from codexpool.proxy import connections

# What this file uses of a wsproto connection.
USED: Final = (
    "_events",
    "_proto._frame_decoder.header",
    "_proto._frame_decoder.payload_consumed",
    "_proto._frame_decoder.buffer.buffer",
    "_proto._message_decoder.opcode",
)

MOST_COLLECTED: Final = 256 << 10  # bytes for the client that are collected before they are written
WINDOW: Final = 32 << 10  # bytes of earlier messages that a compressed one may refer to (RFC 7692, 7.1.2)

# The first byte of a frame that is a whole message: what it is, and whether it is deflated.
WHOLE: Final = {
    0x81: (Opcode.TEXT, False),
    0x82: (Opcode.BINARY, False),
    0xC1: (Opcode.TEXT, True),
    0xC2: (Opcode.BINARY, True),
}
EXTENDED: Final = 126  # A length of two bytes follows. Above: one of eight, or the frame is masked.

Commands = Generator[Any, Any, None]
Reader = Callable[[WebSocketMessage], None]

# After a reload of this module mitmproxy's name still refers to the class installed before.
_Layer: Any = next(cls for cls in websocket.WebsocketLayer.__mro__ if cls.__module__ == websocket.__name__)

TOUCHED: Final[dict[type, tuple[str, ...]]] = {_Layer: ("relay_messages",)}


class Readers(Protocol):
    """Provides readers for the messages of some flows."""

    def message_reader(self, flow: http.HTTPFlow) -> Reader | None:
        """Return a function that gets each message of the flow's server in place of a hook. None: call the hooks.

        The function may change or drop a message, and must not raise.
        """
        return None


class WebsocketLayer(_Layer):  # type: ignore[misc]
    """mitmproxy's layer, with a reader in place of the hooks for messages of the server.

    A layer keeps the sender that was installed when it was created, across reloads of the addon.
    """

    installed: Readers
    is_heard: Callable[[], bool]

    def __init__(self, context: Any, flow: http.HTTPFlow) -> None:
        super().__init__(context, flow)
        self._sender = self.installed
        self._equal_bytes = WINDOW  # bytes at the end of both windows that are equal (`WINDOW` or more: all of them)

    def relay_messages(self, event: events.Event) -> Commands:
        if (
            type(event) is events.DataReceived
            and event.connection == self.server_ws.conn
            and not self.flow.intercepted
            and not self.is_heard()
            and (reader := self._sender.message_reader(self.flow)) is not None
        ):
            # What comes in one read with the answer to the handshake is a bytearray, which no dump can have.
            return self._collected(self._relay(bytes(event.data), reader))
        if not isinstance(event, events.ConnectionEvent) or event.connection == self.server_ws.conn:
            self._equal_bytes = 0  # A hook may change the message, and nothing here checks whether it did.
        relaying: Commands = super().relay_messages(event)
        return relaying

    def _collected(self, relaying: Commands) -> Commands:
        """Join the data for the client. They are sent before any other command. No command has a reply."""
        client = self.client_ws.conn
        collected: list[bytes] = []
        size = 0
        for command in relaying:
            is_for_client = type(command) is commands.SendData and command.connection is client
            if is_for_client:
                collected.append(command.data)
                size += len(command.data)
            if collected and (not is_for_client or size > MOST_COLLECTED):
                yield commands.SendData(client, b"".join(collected))
                collected, size = [], 0
            if not is_for_client:
                yield command
        if collected:
            yield commands.SendData(client, b"".join(collected))

    def _relay(self, data: bytes, reader: Reader) -> Commands:
        decoder = self.server_ws._proto._frame_decoder
        if (header := decoder.header) is not None:  # wsproto is in the middle of a frame.
            missing = header.payload_len - decoder.payload_consumed - len(decoder.buffer)
            yield from self._relay_frames(data[:missing], reader)
            data = data[missing:] if self._handle_event == self.relay_messages else b""  # It may have been a close.
        elif buffered := decoder.buffer.buffer:  # the beginning of a header
            data = bytes(buffered) + data
            buffered.clear()
        if data and self.server_ws._proto._message_decoder.opcode is None:  # It begins with a message.
            data = yield from self._relay_whole(data, reader)
        if data:
            yield from self._relay_frames(data, reader)

    # -- frames that are whole messages

    def _relay_whole(self, data: bytes, reader: Reader) -> Generator[Any, Any, bytes]:
        """Relay the messages at the beginning of ``data`` that are one frame each, and return the rest."""
        client, deflate = self.client_ws.conn, self.server_ws.deflate
        sent = at = 0  # What is between these positions is forwarded unchanged.
        failure: CloseConnection | None = None
        for start, after, opcode, is_deflated in whole_frames(data, deflate is not None):
            content = data[start:after]
            try:
                if is_deflated:
                    content = deflate.inflate(content)
                if opcode is Opcode.TEXT and not content.isascii():
                    content.decode()
            except (ParseFailed, UnicodeDecodeError) as error:
                if is_deflated:  # It cannot be inflated once more.
                    code = getattr(error, "code", CloseReason.INVALID_FRAME_PAYLOAD_DATA)
                    failure = CloseConnection(code, str(error))
                break
            message = WebSocketMessage(opcode, False, content)
            self.flow.websocket.messages.append(message)
            reader(message)
            if message.dropped or message.content is not content or (is_deflated and not self._passes_deflated()):
                if sent < at:
                    yield commands.SendData(client, data[sent:at])
                yield from self._send(message, content)
                sent = after
            at = after
        if sent < at:
            yield commands.SendData(client, data[sent:at])
        if failure is None:
            return data[at:]
        self.server_ws._events.append(failure)
        yield from self._relay_frames(b"", reader)
        return b""

    def _passes_deflated(self) -> bool:
        """Return whether the client can inflate the server's last message unchanged."""
        if self._equal_bytes < WINDOW or self.server_ws.deflate.has_ended:
            return False
        self.client_ws.deflate.forget()
        return True

    def _send(self, message: WebSocketMessage, content: bytes) -> Commands:
        """Send a message in new frames. ``content`` is what the server sent."""
        self._note(message, content)
        if not message.dropped:
            for frame in websocket.Fragmentizer([content], message.is_text)(message.content):
                yield self.client_ws.send2(frame)

    # -- other frames

    def _relay_frames(self, data: bytes, reader: Reader) -> Commands:
        """Relay as mitmproxy does, with the reader in place of the hook."""
        for command in super().relay_messages(events.DataReceived(self.server_ws.conn, data)):
            if isinstance(command, websocket.WebsocketMessageHook):
                message = self.flow.websocket.messages[-1]
                content = message.content
                reader(message)
                if self.server_ws.bound.was_deflated:
                    self._note(message, content)
                else:
                    self._equal_bytes = 0  # Sent compressed, but not received so.
            else:
                yield command

    def _note(self, message: WebSocketMessage, content: bytes) -> None:
        """Update `_equal_bytes` after a message that came compressed and is sent compressed."""
        is_same = message.content is content and not message.dropped
        self._equal_bytes = self._equal_bytes + len(content) if is_same else 0


def whole_frames(data: bytes, may_be_deflated: bool) -> Iterator[tuple[int, int, Opcode, bool]]:
    """Yield the start and end of the payload, and the kind, of each frame at the beginning that is a whole message.

    Only frames that wsproto would take from a server: valid, not masked, and shorter than 64 KiB.
    """
    at, end = 0, len(data)
    while end - at > 1:
        kind = WHOLE.get(data[at])
        if kind is None or (kind[1] and not may_be_deflated):
            return
        length, start = data[at + 1], at + 2
        if length == EXTENDED and end - at > 3:
            length, start = data[at + 2] << 8 | data[at + 3], at + 4
            if length < EXTENDED:
                return
        elif length >= EXTENDED:
            return
        at = start + length
        if at > end:
            return
        yield start, at, *kind


def missing_names() -> list[str]:
    """Return the names of instances that this file needs and the running wsproto lacks."""
    connection = connections.WebsocketConnection(ConnectionType.CLIENT, conn=None)

    def has(name: str) -> bool:
        try:
            attrgetter(name)(connection)
        except AttributeError:
            return False
        return True

    return [f"wsproto.Connection.{name}" for name in USED if not has(name)]


def install(sender: Readers, is_heard: Callable[[], bool]) -> None:
    """Make every new WebSocket ask ``sender``, while not ``is_heard``: another addon has hooks for messages."""
    WebsocketLayer.installed = sender
    WebsocketLayer.is_heard = staticmethod(is_heard)
    vars(websocket).update(WebsocketLayer=WebsocketLayer)
