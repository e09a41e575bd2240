"""The server side of HTTP/2: one connection, with a task for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.standin.connections import PIECES_BEFORE_CUT
from tests.standin.exchange import CutError, Headers, Reply, Request

MOST_STREAMS = 256
WINDOW = 1 << 20
"""Bytes a client may send before it has to wait: request bodies arrive in one go."""


@dataclass(slots=True)
class Stream:
    """One request and its flow-control window."""

    request: Request
    body: bytearray = field(default_factory=bytearray)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Http2:
    """The concurrent requests of one connection.

    Args:
        received: makes a request of method, target, authority and headers.
        answer: gives the reply to a request with that body.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        received: Callable[[str, str, Headers], Request],
        answer: Callable[[Request, bytes], Coroutine[Any, Any, Reply]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._received = received
        self._answer = answer
        self._streams: dict[int, Stream] = {}
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )

    async def serve(self) -> None:
        """Answer until the peer disconnects.

        Raises:
            h2.exceptions.ProtocolError: the peer broke a rule of HTTP/2, and was told so.
        """
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        try:
            await self._flush()
            while data := await self._reader.read(65536):
                for event in self._h2.receive_data(data):
                    self._take(event)
                await self._flush()
        except h2.exceptions.ProtocolError:
            await self._flush()
            raise
        finally:
            tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
            for stream in self._streams.values():
                stream.request.seen.aborted = not stream.request.seen.complete
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(number), headers=headers):
                self._streams[number] = Stream(self._request(headers or []))
            case h2.events.DataReceived(stream_id=int(number), data=data, flow_controlled_length=length):
                self._h2.acknowledge_received_data(length or 0, number)
                if number in self._streams:
                    self._streams[number].body += data or b""
            case h2.events.StreamEnded(stream_id=int(number)):
                if stream := self._streams.get(number):
                    stream.task = asyncio.create_task(self._serve_stream(number, stream))
            case h2.events.StreamReset(stream_id=int(number)):
                self._abandon(number)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for stream in self._streams.values():
                    stream.room.set()

    def _request(self, headers: Any) -> Request:
        fields = [(_text(name), _text(value)) for name, value in headers]
        pseudo = {name: value for name, value in fields if name.startswith(":")}
        rest = [(name, value) for name, value in fields if not name.startswith(":")]
        authority = pseudo.get(":authority")
        if authority is not None:
            rest.insert(0, ("host", authority))
        return self._received(pseudo.get(":method", ""), pseudo.get(":path", ""), rest)

    def _abandon(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        stream.request.seen.aborted = not stream.request.seen.complete
        if stream.task is not None:
            stream.task.cancel()

    async def _serve_stream(self, number: int, stream: Stream) -> None:
        try:
            reply = await self._answer(stream.request, bytes(stream.body))
            await self._send(number, stream, reply)
            stream.request.seen.complete = True
        except CutError:
            stream.request.seen.cut = True
            self._writer.transport.abort()
        except (OSError, h2.exceptions.ProtocolError):
            # The stream or the connection went away between two writes.
            stream.request.seen.aborted = True
        finally:
            self._streams.pop(number, None)

    async def _send(self, number: int, stream: Stream, reply: Reply) -> None:
        if reply.cut == "head":
            raise CutError
        for status in reply.interim:
            self._h2.send_headers(number, [(":status", str(status))])
        self._h2.send_headers(number, [(":status", str(reply.status)), *reply.headers])
        if isinstance(reply.body, bytes):
            body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
            await self._send_data(number, stream, body)
        else:
            sent = 0
            async for piece in reply.body:
                await self._send_data(number, stream, piece)
                sent += 1
                if reply.cut and sent == PIECES_BEFORE_CUT:
                    break
        if reply.cut:
            raise CutError
        if reply.trailers:
            self._h2.send_headers(number, reply.trailers, end_stream=True)
        else:
            self._h2.end_stream(number)
        await self._flush()

    async def _send_data(self, number: int, stream: Stream, data: bytes) -> None:
        while data:
            stream.room.clear()
            size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size, len(data))
            if size > 0:
                self._h2.send_data(number, data[:size])
                data = data[size:]
                await self._flush()
            else:
                await self._flush()
                await stream.room.wait()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
