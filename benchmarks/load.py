"""The load: raw HTTP/1.1 and WebSocket clients, through a proxy or directly to the upstream.

Busy rows are measured in a window: the clients work without a pause. Only what they complete between the end of the
ramp and the deadline counts, and the processor time that the proxy took in that window.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import zstandard

from benchmarks import frames
from benchmarks.results import Sample, percentile
from tests.proxy.still_keeper import headers_of

RESPONSES: Final = "/backend-api/codex/responses"
SIDE: Final = "/backend-api/codex/memories/"
"""Swapped as well; a refusal there counts for one path only."""

FIRST_SESSION: Final = 1000  # Below are the sessions of the clients that are measured.
BURST: Final = 300  # Messages or events of one answer.
TURN: Final = 30  # Events of a turn's answer.
IN_TIME: Final = 0.1  # An event is in time if it arrives at most so many seconds after it was due.
RAMP: Final = 0.25  # Share of a measurement before the window begins.
LONGEST: Final = 2.0  # Seconds by which a slow side may prolong a measurement, at most.


class Target(NamedTuple):
    """A proxy to go through, or the upstream: its port, and the authority that signs its certificates."""

    port: int
    tls: ssl.SSLContext


class Client(NamedTuple):
    """One client and its connection to chatgpt.com, TLS done."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Tally:
    """What all clients of a measurement have completed so far."""

    count: int = 0
    times: list[float] = field(default_factory=list)
    """Seconds until the first byte of each answer."""


class Meter(NamedTuple):
    """How long to measure, and a function for the seconds of processor time that the side has taken so far."""

    seconds: float
    cpu: Callable[[], float]


Work = Callable[[Client, Tally], Awaitable[None]]


async def busy(target: Target, meter: Meter, clients: int, work: Work) -> Sample:
    """Repeat ``work`` with so many clients until the window ends. Return rate, processor time and first bytes."""
    tally = Tally()

    async def repeat(client: Client) -> None:
        while True:
            await work(client, tally)

    async with opened(target, clients) as connected:
        with running(repeat(client) for client in connected) as tasks:
            await _until(tasks, meter.seconds * RAMP, tally, clients)
            tally.times.clear()
            count, cpu, begun = tally.count, meter.cpu(), time.perf_counter()
            await _until(tasks, meter.seconds * (1 - RAMP), tally, count + clients)
            count, cpu, seconds = tally.count - count, meter.cpu() - cpu, time.perf_counter() - begun
    sample = {"rate": count / seconds}
    if count:
        sample["cpu"] = cpu / count * 1e6
    if tally.times:
        sample["first_p50"], sample["first_p99"] = (percentile(tally.times, share) * 1e3 for share in (0.5, 0.99))
    return sample


async def steady(target: Target, meter: Meter, clients: int, rate: float, prepare: Prepare) -> Sample:
    """Let so many streams send ``rate`` events a second each, and record when each event arrives."""
    arrivals = Arrivals()
    async with opened(target, clients) as connected:
        flows = [await prepare(client) for client in connected]
        begin = time.monotonic() + 0.3 + 0.002 * clients
        begins = [begin + number / clients / rate for number in range(clients)]  # Never all of them at once.
        events = max(1, round(meter.seconds * rate))
        with running(flow(events, rate, at, arrivals) for flow, at in zip(flows, begins, strict=True)) as tasks:
            await _wait(tasks, begin - time.monotonic())
            cpu, begun = meter.cpu(), time.monotonic()
            await _wait(tasks, begin + meter.seconds - begun)
            cpu, seconds = meter.cpu() - cpu, time.monotonic() - begun
            in_window = len(arrivals.late)
            await _wait(tasks, IN_TIME + 0.05)
    if not arrivals.took:
        raise RuntimeError("no event arrived")
    wanted = clients * events
    return {
        "rate": in_window / seconds,
        "cpu": cpu / max(1, in_window) * 1e6,
        "in_time": 100 * sum(late <= IN_TIME for late in arrivals.late) / wanted,
        "core": 100 * cpu / seconds,
        "p50": percentile(arrivals.took, 0.5) * 1e3,
        "p99": percentile(arrivals.took, 0.99) * 1e3,
    }


class Arrivals:
    """When events arrived: seconds after they were due, and after they were sent."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.took: list[float] = []

    def came(self, text: bytes) -> None:
        now = time.monotonic()
        for due, sent in _STAMPS.findall(text):
            self.late.append(now - int(due) / 1e6)
            self.took.append(now - int(sent) / 1e6)


_STAMPS = re.compile(rb'"due":(\d+),"sent":(\d+)')

Flow = Callable[[int, float, float, Arrivals], Coroutine[None, None, None]]


Prepare = Callable[[Client], Awaitable[Flow]]
"""Prepares a connection up to the first event of a steady stream."""


# -- WebSocket


class Socket(NamedTuple):
    """An open WebSocket."""

    client: Client
    sender: frames.Sender
    receiver: frames.Receiver

    @classmethod
    async def open(cls, client: Client) -> Socket:
        lines = (
            f"GET {RESPONSES} HTTP/1.1\r\n{headers_of(client.number)}connection: Upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "openai-beta: responses_websockets=2026-02-06\r\n"
            "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
        )
        client.writer.write(lines.encode())
        head = await client.reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head[:16]:
            raise RuntimeError(f"no WebSocket: {head.decode()}")
        return cls(client, frames.Sender(masks=True), frames.Receiver())

    def ask(self, events: int, rate: float = 0.0, begin: float = 0.0) -> None:
        """Send the message that begins a turn."""
        document = {
            "type": "response.create",
            "model": "gpt-test",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "go on"}]}],
            "stream": True,
            "bench": {"events": events, "rate": rate, "begin": begin},
        }
        self.client.writer.write(self.sender.frame(json.dumps(document).encode()))

    async def texts(self) -> AsyncIterator[bytes]:
        """Yield the texts that each read completes, up to the end of the answer."""
        text = b""
        while b"response.completed" not in text:
            data = await self.client.reader.read(65536)
            if not data:
                raise EOFError("the WebSocket was cut")
            if text := self.receiver.feed(data):
                yield text

    async def take(self, events: int, tally: Tally) -> None:
        """Request and read an answer, and count its messages."""
        self.ask(events)
        begun = before = self.receiver.messages
        async for _ in self.texts():
            tally.count += self.receiver.messages - before
            before = self.receiver.messages
        if before - begun != events + 2:
            raise RuntimeError(f"{before - begun} messages instead of {events + 2}")


async def websocket(target: Target, meter: Meter, clients: int) -> Sample:
    """WebSockets that get one answer after the other, as fast as possible."""
    sockets: dict[int, Socket] = {}

    async def work(client: Client, tally: Tally) -> None:
        if client.number not in sockets:
            sockets[client.number] = await Socket.open(client)
        await sockets[client.number].take(BURST, tally)

    return await busy(target, meter, clients, work)


async def follow_socket(client: Client) -> Flow:
    """Prepare the messages of a WebSocket."""
    socket = await Socket.open(client)

    async def flow(events: int, rate: float, begin: float, arrivals: Arrivals) -> None:
        socket.ask(events, rate, begin)
        async for text in socket.texts():
            arrivals.came(text)

    return flow


@asynccontextmanager
async def open_sockets(target: Target, count: int) -> AsyncIterator[None]:
    """Keep so many WebSockets open within the block, each after one answer."""
    tally = Tally()
    async with opened(target, count, FIRST_SESSION) as connected:
        for client in connected:
            await (await Socket.open(client)).take(TURN, tally)
        yield


@asynccontextmanager
async def long_socket(target: Target, messages: int) -> AsyncIterator[None]:
    """Receive so many messages on one WebSocket, and keep it open within the block."""
    async with opened(target, 1) as (client,):
        socket, left, tally = await Socket.open(client), messages, Tally()
        while left > 0:
            await socket.take(min(left, 1000), tally)
            left -= 1000
        yield


# -- HTTP


def post(path: str, number: int, body: bytes = b"12345678", extra: str = "") -> bytes:
    """Return a POST as Codex sends it."""
    head = f"POST {path} HTTP/1.1\r\n{headers_of(number)}{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


ENCODED: Final = "accept: text/event-stream\r\ncontent-type: application/json\r\ncontent-encoding: zstd\r\n"


@functools.cache
def prompt(size: int) -> bytes:
    """Return the body of a turn as Codex sends it: JSON in zstd, about ``size`` bytes on the wire."""
    noise = random.Random(1).randbytes(size)  # Encrypted reasoning and images do not get smaller than their bytes.
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": base64.b64encode(noise).decode()}
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]}
    document = {"model": "gpt-test", "store": False, "stream": True, "input": [reasoning, message]}
    return zstandard.ZstdCompressor().compress(json.dumps(document).encode())


async def answer(client: Client) -> bytes:
    """Read a short answer. Raises RuntimeError unless it is a 200."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise RuntimeError(head.decode())
    return await client.reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r")[0]))


async def events_of(client: Client) -> AsyncIterator[bytes]:
    """Yield what each read completes of a stream's events, after its head: b"" for the head itself."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise RuntimeError(head.decode())
    yield b""
    rest = b""
    while not rest.endswith(b"0\r\n\r\n"):
        data = await client.reader.read(65536)
        if not data:
            raise EOFError("the stream was cut")
        rest += data
        end = rest.rfind(b"\n\n") + 2
        if end > 1:
            yield rest[:end]
            rest = rest[end:]


async def small_requests(target: Target, meter: Meter, clients: int) -> Sample:
    """Small POSTs, one after the other on each connection."""

    async def work(client: Client, tally: Tally) -> None:
        client.writer.write(post(RESPONSES, client.number))
        await answer(client)
        tally.count += 1

    return await busy(target, meter, clients, work)


@asynccontextmanager
async def requests(target: Target, count: int, sessions: int) -> AsyncIterator[None]:
    """Send so many small POSTs of so many sessions, before the block."""
    numbers = iter(range(count))

    async def some(client: Client) -> None:
        for number in numbers:
            client.writer.write(post(RESPONSES, FIRST_SESSION + number % sessions))
            await answer(client)

    async with opened(target, 10) as connected:
        await asyncio.gather(*map(some, connected))
        yield


async def sse(target: Target, meter: Meter, clients: int) -> Sample:
    """Streams that send their events as fast as possible."""

    async def work(client: Client, tally: Tally) -> None:
        client.writer.write(post(f"{RESPONSES}?events={BURST}", client.number))
        count = 0
        async for text in events_of(client):
            came = text.count(b"data: {")
            count += came
            tally.count += came
        if count != BURST + 2:
            raise RuntimeError(f"{count} events instead of {BURST + 2}")

    return await busy(target, meter, clients, work)


async def follow_events(client: Client) -> Flow:
    """Prepare the events of a stream."""

    async def flow(events: int, rate: float, begin: float, arrivals: Arrivals) -> None:
        client.writer.write(post(f"{RESPONSES}?events={events}&rate={rate}&begin={begin}", client.number))
        async for text in events_of(client):
            arrivals.came(text)

    return flow


async def turns(target: Target, meter: Meter, clients: int, size: int) -> Sample:
    """Turns with a body of ``size`` bytes, each with the answer's events at once."""
    body = prompt(size)

    async def work(client: Client, tally: Tally) -> None:
        request = post(f"{RESPONSES}?events={TURN}", client.number, body, ENCODED)
        begun = time.perf_counter()
        client.writer.write(request)
        count = 0
        async for text in events_of(client):
            if not text:
                tally.times.append(time.perf_counter() - begun)
            count += text.count(b"data: {")
        if count != TURN + 2:
            raise RuntimeError(f"{count} events instead of {TURN + 2}")
        tally.count += 1

    return await busy(target, meter, clients, work)


async def connections(target: Target, meter: Meter, clients: int) -> Sample:
    """New connections, each with one small request."""

    async def work(client: Client, tally: Tally) -> None:
        async with opened(target, 1, client.number) as (new,):
            new.writer.write(post(RESPONSES, new.number))
            await answer(new)
        tally.count += 1

    return await busy(target, meter, clients, work)


_PATHS = iter(range(10**9))


async def second_attempts(target: Target, meter: Meter, refused: bool) -> Sample:
    """Requests that are served at once, and (``refused``) ones that another identity serves after a 401, in turn."""
    once: list[float] = []
    twice: list[float] = []
    async with opened(target, 1) as (client,):
        deadline = time.perf_counter() + meter.seconds
        while time.perf_counter() < deadline:
            for again, times in ((False, once), (True, twice)) if refused else ((False, once),):
                begun = time.perf_counter()
                client.writer.write(post(f"{SIDE}{'again' if again else 'once'}-{next(_PATHS)}", client.number))
                await answer(client)
                times.append(time.perf_counter() - begun)
    sample = {"round_trip": percentile(once, 0.5) * 1e3}
    return {**sample, "again": percentile(twice, 0.5) * 1e3} if refused else sample


# -- connections and tasks


async def connect(target: Target, number: int) -> Client:
    """Open a tunnel to chatgpt.com."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
    writer.write(b"CONNECT chatgpt.com:443 HTTP/1.1\r\nhost: chatgpt.com:443\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(target.tls, server_hostname="chatgpt.com")
    return Client(number, reader, writer)


@asynccontextmanager
async def opened(target: Target, clients: int, first: int = 0) -> AsyncIterator[list[Client]]:
    """Open a connection for each of so many clients, and cut it at the end of the block."""
    connected: list[Client] = []
    try:
        async with asyncio.timeout(60):
            for begin in range(0, clients, 20):
                some = range(begin, min(clients, begin + 20))
                connected += await asyncio.gather(*(connect(target, first + number) for number in some))
        yield connected
    finally:
        for client in connected:
            client.writer.transport.abort()


@contextmanager
def running(work: Iterator[Coroutine[None, None, None]]) -> Iterator[list[asyncio.Task[None]]]:
    """Run tasks, and cancel them at the end of the block."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


async def _until(tasks: Sequence[asyncio.Task[None]], seconds: float, tally: Tally, count: int) -> None:
    """Sleep until ``count`` is reached, too: many slow clients start together, and finish in waves."""
    await _wait(tasks, seconds)
    deadline = time.monotonic() + LONGEST
    while tally.count < count and time.monotonic() < deadline:
        await _wait(tasks, 0.005)


async def _wait(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Sleep, but raise what a task raises meanwhile."""
    deadline = time.monotonic() + seconds
    done, _ = await asyncio.wait(tasks, timeout=max(0.0, seconds), return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))  # All of them may have ended.
