"""The two listeners: TLS for the hosts, and a CONNECT proxy in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from tests.standin.connections import FramingError, Head, parse_head

LONGEST_HEAD = 1 << 20
HANDSHAKE_SECONDS = 20.0


class Link(asyncio.StreamReaderProtocol):
    """A connection as streams, which also notices at once that the peer is gone.

    While ``answering`` is set, no code reads from the peer; the task is cancelled if the peer leaves.
    """

    def __init__(self, connected: Callable[[Link, asyncio.StreamReader, asyncio.StreamWriter], object]) -> None:
        reader = asyncio.StreamReader(limit=LONGEST_HEAD)
        super().__init__(reader, self._open)
        self._connected = connected
        self.answering: asyncio.Task[Any] | None = None

    def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connected(self, reader, writer)

    def eof_received(self) -> bool:
        # There is no half-closed TLS; on a tunnel, asyncio learns only later that this is a TLS connection.
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.answering is not None:
            self.answering.cancel()


class Tls:
    """The server's TLS context, and the server name of each client."""

    def __init__(self, certificate: Path, alpn: tuple[str, ...]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(list(alpn))
        # A session ticket makes a socket readable though there is nothing to read yet. A client that reads in one
        # thread and writes in another (websockets) then does both at once, which Python's TLS does not survive.
        self.context.num_tickets = 0
        self.context.sni_callback = self._note
        self._names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()
        self.load(certificate)

    def load(self, certificate: Path) -> None:
        """Use this key and certificate for new connections."""
        self.context.load_cert_chain(certificate)

    def server_name(self, writer: asyncio.StreamWriter) -> str:
        """Return the name in the ClientHello, or an empty string."""
        return self._names.get(writer.get_extra_info("ssl_object"), "")

    def _note(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if isinstance(connection, ssl.SSLObject):
            self._names[connection] = name or ""


class Gate(Protocol):
    """The parts of the stand-in that the CONNECT proxy needs."""

    tls: Tls

    def admits(self, head: Head) -> bool:
        """Tell whether this is a CONNECT to a host of the stand-in. Record it if not."""

    def link(self) -> Link: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> object: ...

    def trouble(self, text: str) -> None: ...


class ConnectProxy(asyncio.Protocol):
    """One client of the CONNECT proxy.

    The tunnel is not carried on to the TLS listener: TLS begins on the very connection, which spares a hop.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end >= 4:
            # TLS has to see the first byte that follows, so nothing more is read before it is in place.
            self._transport.pause_reading()
            self._decide(self._transport, self._received[:end], early=len(self._received) > end)
        elif len(self._received) > LONGEST_HEAD:
            self._transport.abort()

    def _decide(self, transport: asyncio.Transport, start: bytes, *, early: bool) -> None:
        try:
            head = parse_head(start)
        except FramingError as error:
            self._gate.trouble(f"CONNECT proxy: {error}")
            return _refuse(transport, b"400 Bad Request")
        if not self._gate.admits(head):
            return _refuse(transport, b"403 Forbidden")
        if early:
            self._gate.trouble("CONNECT proxy: the client began before the tunnel was open")
            return _refuse(transport, b"400 Bad Request")
        self._gate.spawn(self._open(transport))
        return None

    async def _open(self, transport: asyncio.Transport) -> None:
        link = self._gate.link()
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        secured = None
        with contextlib.suppress(OSError):
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                link,
                self._gate.tls.context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        if secured is None or secured.is_closing():
            transport.abort()
        else:
            link.connection_made(secured)


def _refuse(transport: asyncio.Transport, status: bytes) -> None:
    transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
    transport.close()
