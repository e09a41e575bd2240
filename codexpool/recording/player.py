"""Sends requests through a proxy just as they are given: every header, in order, and nothing of its own."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from codexpool.protocol import frames

PATIENCE: Final = 30.0
"""Seconds until an answer is there, at most."""

Headers = list[tuple[str, str]]


class PlayError(Exception):
    """A request got no answer; the text says why."""


class Sent(NamedTuple):
    """A request as it is sent. ``body`` is as it goes over the wire; ``path`` comes with its query."""

    method: str
    host: str
    path: str
    headers: Headers
    body: bytes = b""


class Answered(NamedTuple):
    """What came back."""

    status: int
    body: bytes = b""


class Player:
    """A client of the proxy on this port, which trusts this certificate authority."""

    def __init__(self, port: int, ca_file: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca_file))

    def request(self, sent: Sent) -> Answered:
        """Send a request, and have its whole answer. Raises PlayError."""
        connection = http.client.HTTPConnection(sent.host, timeout=PATIENCE)
        try:
            connection.sock = self._tunnel(sent.host)
            connection.putrequest(sent.method, sent.path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.headers:
                connection.putheader(name, value.encode("utf-8", "surrogateescape"))
            connection.endheaders(sent.body or None)
            response = connection.getresponse()
            return Answered(response.status, response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PlayError(_why(error)) from None
        finally:
            connection.close()

    def socket(self, sent: Sent) -> Socket:
        """Send a WebSocket handshake. Raises PlayError."""
        try:
            tunnel = self._tunnel(sent.host)
            try:
                return Socket(tunnel, sent)
            except BaseException:
                tunnel.close()
                raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PlayError(_why(error)) from None

    def _tunnel(self, host: str) -> ssl.SSLSocket:
        """A connection to a host, through the proxy. (`http.client` makes one in HTTP/1.0 on older Pythons.)"""
        plain = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
        try:
            plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n".encode())
            head, _ = read_head(plain)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise http.client.HTTPException(f"the proxy makes no connection to {host}")
            return self._context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer, and what has come after it already. Raises OSError."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise http.client.RemoteDisconnected("the connection was closed without an answer")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


class Socket:
    """A WebSocket, if ``answered`` has status 101; to be closed in any case."""

    def __init__(self, sock: socket.socket, sent: Sent) -> None:
        self._sock = sock
        lines = [f"{sent.method} {sent.path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.headers)]
        sock.sendall("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        head, rest = read_head(sock)
        first, *fields = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        extension = PerMessageDeflate()
        extension.offer()
        accepted = headers.get("sec-websocket-extensions", "")
        if accepted:
            extension.finalize(accepted)
        self.answered = Answered(status, rest if status != 101 else b"")
        self._ws = Connection(ConnectionType.CLIENT, [extension] if accepted else [], rest)

    def turn(self, message: str) -> list[bytes]:
        """Send a message, and have what comes back until the turn ends. Raises PlayError."""
        deadline = time.monotonic() + PATIENCE
        try:
            self._sock.sendall(self._ws.send(TextMessage(message)))
            if frames.kind(message.encode()) != frames.CREATE:
                return []
            answers: list[bytes] = []
            while not answers or frames.kind(answers[-1]) not in frames.ENDS:
                if time.monotonic() > deadline:
                    raise PlayError(f"the turn did not end within {PATIENCE:.0f} s")
                answers += self._messages()
        except (OSError, ValueError) as error:
            raise PlayError(_why(error)) from None
        return answers

    def _messages(self) -> list[bytes]:
        """What has come: whole messages."""
        messages: list[bytes] = []
        parts: list[str] = []
        while True:
            for event in self._ws.events():
                match event:
                    case TextMessage():
                        parts.append(event.data)
                        if event.message_finished:
                            messages.append("".join(parts).encode())
                            parts.clear()
                    case Message():
                        raise PlayError("a binary message came, which Codex takes for an error")
                    case Ping():
                        self._sock.sendall(self._ws.send(Pong(event.payload)))
                    case CloseConnection():
                        raise PlayError(f"the socket was closed in the middle of a turn (code {event.code})")
            if messages and not parts:
                return messages
            data = self._sock.recv(65536)
            if not data:
                raise PlayError("the connection was lost in the middle of a turn")
            self._ws.receive_data(data)

    def close(self) -> None:
        """Say good-bye, and close."""
        try:
            if self.answered.status == 101:
                self._sock.sendall(self._ws.send(CloseConnection(1000)))
        except (OSError, ValueError):
            pass
        finally:
            self._sock.close()


def kinds_of(messages: Sequence[bytes]) -> list[str]:
    """How turns ended: the kind of each last event, with the status of an error."""
    ends = []
    for message in messages:
        kind = frames.kind(message)
        if kind in frames.ENDS:
            status = frames.status_of(frames.parsed(message)) if kind == frames.ERROR else 0
            ends.append(f"{kind} {status}" if status else kind)
    return ends


def _why(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "no answer in time" if isinstance(error, TimeoutError) else text
