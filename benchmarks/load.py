"""The load: raw HTTP/1.1 and WebSocket clients through a proxy. Bounded in count; returns seconds."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass

import wsproto
from wsproto.events import AcceptConnection, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.proxy.still_keeper import headers_of

SWAPPED = "/backend-api/codex/responses"
OWN = "/backend-api/wham/usage"


@dataclass(frozen=True)
class Target:
    """A proxy to go through: its port, and the authority that signs its certificates."""

    port: int
    tls: ssl.SSLContext


async def connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel to chatgpt.com, TLS done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
    writer.write(b"CONNECT chatgpt.com:443 HTTP/1.1\r\nhost: chatgpt.com:443\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(target.tls, server_hostname="chatgpt.com")
    return reader, writer


async def small_requests(target: Target, path: str, clients: int, requests: int) -> float:
    """Seconds for so many small POSTs, shared by so many clients, each on one connection."""

    async def client(number: int) -> None:
        reader, writer = connections[number]
        request = post(path, number)
        for _ in range(requests // clients):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:16]:
                raise RuntimeError(head.decode())
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r")[0]))

    connections = [await connect(target) for _ in range(clients)]
    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    seconds = time.perf_counter() - begun
    for _, writer in connections:
        writer.close()
    return seconds


async def streams(target: Target, clients: int, events: int, pace: float = 0.0) -> tuple[float, float]:
    """Seconds until the first byte of a stream (the slowest client's), and until the last of all of them."""

    async def client(number: int) -> float:
        reader, writer = connections[number]
        writer.write(post(f"{SWAPPED}?events={events}&pace={pace}", number))
        await reader.readuntil(b"\r\n\r\n")
        first = time.perf_counter() - begun
        while await reader.readuntil(b"\r\n") != b"0\r\n":
            pass
        return first

    connections = [await connect(target) for _ in range(clients)]
    begun = time.perf_counter()
    firsts = await asyncio.gather(*(client(number) for number in range(clients)))
    seconds = time.perf_counter() - begun
    for _, writer in connections:
        writer.close()
    return max(firsts), seconds


async def websocket(target: Target, clients: int, messages: int) -> float:
    """Seconds for so many messages from the server, on each of so many WebSockets."""

    async def client(number: int) -> None:
        reader, writer, ws = sockets[number]
        writer.write(ws.send(TextMessage(str(messages))))
        left = messages
        while left:
            ws.receive_data(await reader.read(65536))
            left -= sum(isinstance(event, TextMessage) and event.message_finished for event in ws.events())

    sockets = [await _upgraded(target, number) for number in range(clients)]
    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    seconds = time.perf_counter() - begun
    for _, writer, _ in sockets:
        writer.close()
    return seconds


async def _upgraded(
    target: Target, number: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, wsproto.WSConnection]:
    reader, writer = await connect(target)
    ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    headers = [tuple(part.encode() for part in line.split(": ", 1)) for line in headers_of(number).splitlines()]
    extra = [(name, value) for name, value in headers if name != b"host"]
    writer.write(
        ws.send(Request(host="chatgpt.com", target=SWAPPED, extra_headers=extra, extensions=[PerMessageDeflate()]))
    )
    while True:
        ws.receive_data(await reader.read(65536))
        if any(isinstance(event, AcceptConnection) for event in ws.events()):
            return reader, writer, ws


def post(path: str, number: int) -> bytes:
    """A small POST as Codex sends it."""
    return f"POST {path} HTTP/1.1\r\n{headers_of(number)}content-length: 8\r\n\r\n12345678".encode()
