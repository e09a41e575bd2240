"""The server side of HTTP/1.1 and WebSocket: strict about framing, and fast enough for benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, NamedTuple

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.events import Request as Upgrade
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tests.standin.exchange import CutError, Headers, Reply

PIECES_BEFORE_CUT = 3
"""Bytes of a streamed body to send before a cut, so that the text has begun."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.1")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;.*)?\r\n")


class FramingError(ValueError):
    """Malformed HTTP/1.1. The text has the reason."""


class Head(NamedTuple):
    """The head of a request, with headers as received."""

    method: str
    target: str
    headers: Headers


class Http1:
    """One connection's requests, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def next_request(self) -> Head | None:
        """The head of the next request; None when the peer has closed.

        Raises FramingError.
        """
        try:
            return parse_head(await self.reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise FramingError("the connection ended within a head") from None
            return None
        except asyncio.LimitOverrunError:
            raise FramingError("the head is too long") from None

    async def body(self, headers: Headers) -> bytes:
        """The whole body.

        Raises FramingError, and IncompleteReadError if the peer goes away in the middle of it.
        """
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
        if codings:
            if lengths or codings != ["chunked"]:
                raise FramingError(f"transfer-encoding {codings} with content-length {lengths}")
            return await self._chunks()
        if not lengths:
            return b""
        if len(lengths) > 1 or not lengths[0].isdecimal():
            raise FramingError(f"content-length {lengths}")
        return await self.reader.readexactly(int(lengths[0]))

    async def _chunks(self) -> bytes:
        parts = []
        while size := await self._chunk_size():
            parts.append(await self.reader.readexactly(size))
            if await self.reader.readexactly(2) != b"\r\n":
                raise FramingError("a chunk is longer than its size")
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(parts)

    async def _chunk_size(self) -> int:
        line = await self.reader.readuntil(b"\r\n")
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise FramingError(f"chunk size {line[:40]!r}")
        return int(match[1], 16)

    async def send(self, reply: Reply) -> None:
        """Send an answer, a streamed one piece by piece.

        Raises CutError for a planned cut, after sending what precedes it.
        """
        if reply.cut == "head":
            raise CutError
        for status in reply.interim:
            self.writer.write(f"HTTP/1.1 {status} {_reason(status)}\r\n\r\n".encode())
        if isinstance(reply.body, bytes) and not reply.trailers:
            body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
            self.writer.write(_head(reply, ("content-length", str(len(reply.body)))) + body)
        else:
            self.writer.write(_head(reply, ("transfer-encoding", "chunked")))
            pieces = _whole(reply.body) if isinstance(reply.body, bytes) else reply.body
            await self._stream(pieces, reply.trailers, cut=reply.cut == "body")
        await self.writer.drain()
        if reply.cut:
            raise CutError

    async def _stream(self, pieces: AsyncIterator[bytes], trailers: Headers, *, cut: bool) -> None:
        number = 0
        async for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()
            number += 1
            if cut and number == PIECES_BEFORE_CUT:
                return
        self.writer.write(f"0\r\n{_fields(trailers)}\r\n".encode("latin-1"))


class Socket:
    """A WebSocket whose upgrade request has been read. Raises RemoteProtocolError if that is no valid one.

    ``closed`` is the close code that the stand-in has sent, or 0.
    """

    def __init__(self, http: Http1, target: str, headers: Headers) -> None:
        self._reader = http.reader
        self._writer = http.writer
        self._ws = WSConnection(ConnectionType.SERVER)
        self.closed = 0
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        self._ws.receive_data(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if not isinstance(next(self._ws.events(), None), Upgrade):
            raise RemoteProtocolError("no WebSocket upgrade")

    async def accept(self, headers: Headers) -> None:
        """Answer the upgrade with a 101, compressed if the client offers it."""
        extra = [(name.encode(), value.encode()) for name, value in headers]
        await self._write(self._ws.send(AcceptConnection(extra_headers=extra, extensions=[PerMessageDeflate()])))

    async def messages(self) -> AsyncIterator[str]:
        """Yield the client's texts until either side closes. Raises RemoteProtocolError."""
        parts: list[str] = []
        while data := await self._reader.read(65536):
            self._ws.receive_data(data)
            for event in self._ws.events():
                match event:
                    case TextMessage():
                        parts.append(event.data)
                        if event.message_finished:
                            yield "".join(parts)
                            parts = []
                    case Ping():
                        with contextlib.suppress(LocalProtocolError):  # nothing may follow a close frame
                            await self._write(self._ws.send(event.response()))
                    case BytesMessage():
                        await self.close(1003)
                        return
                    case CloseConnection():
                        await self._answer_close(event)
                        return

    async def send(self, document: Any) -> None:
        """Send a document as one text message. Raises ConnectionError if either side has closed."""
        try:
            data = self._ws.send(TextMessage(json.dumps(document)))
        except LocalProtocolError as error:
            raise ConnectionError(str(error)) from error
        await self._write(data)

    async def close(self, code: int = 1000) -> None:
        """Send a close frame; the client's answer ends ``messages``."""
        with contextlib.suppress(LocalProtocolError, OSError):
            data = self._ws.send(CloseConnection(code))
            self.closed = code
            await self._write(data)

    async def _answer_close(self, event: CloseConnection) -> None:
        # Where the stand-in closed first, this is already the answer.
        with contextlib.suppress(Exception):
            await self._write(self._ws.send(event.response()))

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


def parse_head(head: bytes) -> Head:
    """Read a request's head, including its empty line. Raises FramingError."""
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    start = _REQUEST_LINE.fullmatch(line)
    if start is None:
        raise FramingError(f"request line {line[:80]!r}")
    headers = []
    for text in lines:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise FramingError(f"header line {text[:20]!r}")
        headers.append((field[1], field[2]))
    return Head(start[1], start[2], headers)


def _head(reply: Reply, length: tuple[str, str]) -> bytes:
    line = f"HTTP/1.1 {reply.status} {_reason(reply.status)}\r\n"
    return (line + _fields([*reply.headers, length]) + "\r\n").encode("latin-1")


def _fields(headers: Headers) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
