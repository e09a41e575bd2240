"""A fast upstream for the benchmarks. It must cost very little, so unlike the stand-in it checks nothing.

It is a CONNECT proxy that terminates each tunnel itself: with `--mode upstream:`, mitmdump connects to it for every
host. It runs as a separate process: it prints one line of JSON, then serves until it is stopped.

The query of a POST, or ``bench`` in a WebSocket message, says what to answer: see `Wanted`.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import json
import random
import select
import selectors
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from benchmarks import frames
from tests.standin.certificates import Authority

AT_ONCE: Final = 16
"""Events of a burst that are written together: a TLS record for each, as a backend writes them, in one packet."""

REFUSED_ONCE: Final = "/again-"
"""A path with this in it is refused once, with a 401 that is about the endpoint only; then it is answered."""

NOT_HERE: Final = b'{"error":{"code":"no_matching_rule","message":"not with this credential"}}'

STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"x-codex-primary-used-percent: 12\r\nx-codex-primary-window-minutes: 300\r\n"
    b"x-codex-secondary-used-percent: 3\r\nx-codex-secondary-window-minutes: 10080\r\nx-request-id: req_1\r\n\r\n"
)


class Wanted(NamedTuple):
    """So many events in a burst, or from ``begin`` (seconds of the monotonic clock) on at ``rate`` a second."""

    events: int
    rate: float = 0.0
    begin: float = 0.0

    @classmethod
    def of(cls, values: dict[str, Any]) -> Wanted:
        return cls(int(values["events"]), float(values.get("rate", 0)), float(values.get("begin", 0)))


CREATED: Final = b'{"type":"response.created","response":{"id":"resp_1","model":"gpt-test","status":"in_progress"}}'
COMPLETED: Final = (
    b'{"type":"response.completed","response":{"id":"resp_1","model":"gpt-test","status":"completed","output":[],'
    b'"usage":{"input_tokens":3210,"input_tokens_details":{"cached_tokens":2048},"output_tokens":30,'
    b'"output_tokens_details":{"reasoning_tokens":0},"total_tokens":3240}}}'
)


_random = random.Random(1)
WORDS: Final = [
    (_random.randbytes(3).hex().encode(), base64.b64encode(_random.randbytes(_random.randrange(6, 13))))
    for _ in range(997)
]
"""Words and obfuscation that do not compress well, as in real answers."""


def delta(number: int, due: float, now: float) -> bytes:
    """Return an event as the model sends it for a word, with when it was due and when it was sent (µs)."""
    return (
        b'{"type":"response.output_text.delta","item_id":"msg_0199aaaabbbb7ccc8ddd","output_index":0,"content_index":0,'
        b'"sequence_number":%d,"delta":" %s","obfuscation":"%s","due":%d,"sent":%d}'
    ) % (number, *WORDS[number % len(WORDS)], due * 1e6, now * 1e6)


def as_event(text: bytes) -> bytes:
    """Return a chunk with an event of a stream."""
    event = b"event: %s\ndata: %s\n\n" % (text[9 : text.index(b'"', 9)], text)
    return b"%x\r\n%s\r\n" % (len(event), event)


class Upstream:
    """Answers everything, for every credential."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._refused: set[str] = set()
        self._bursts = BurstsBySize()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.start_tls(self._tls)
            while True:
                target, fields = _head(await reader.readuntil(b"\r\n\r\n"))
                if "upgrade" in fields:
                    await self._talk(reader, writer, fields)
                    return
                await reader.readexactly(int(fields.get("content-length", 0)))
                await self._answer(writer, target, fields.get("authorization", ""))
        except (OSError, EOFError, ValueError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, target: str, authorization: str) -> None:
        path, _, query = target.partition("?")
        name = authorization.removeprefix("Bearer at-test-").partition("-")[0]
        if query.startswith("events="):
            wanted = Wanted.of(dict(parse_qsl(query)))
            writer.write(STREAM_HEAD)
            if wanted.rate:
                writer.write(as_event(CREATED))
                await Steady(writer, wanted, as_event).ended
                writer.write(as_event(COMPLETED) + b"0\r\n\r\n")
            else:
                await _burst(writer, chunks(wanted.events))
            return
        status, document = 200, b'{"ok":true}'
        if REFUSED_ONCE in path and path not in self._refused:
            self._refused.add(path)
            status, document = 401, NOT_HERE
        elif path.endswith("whoami"):
            document = json.dumps(whoami(name)).encode()
        elif path.endswith("accounts/check"):
            document = json.dumps(discovery(name)).encode()
        self._refused -= {path} if status == 200 else set()
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(document)) + document)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: dict[str, str]) -> None:
        accept = frames.accepted(fields["sec-websocket-key"])
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-extensions: permessage-deflate\r\nsec-websocket-accept: %s\r\n\r\n" % accept.encode()
        )
        receiver, sender, answers = frames.Receiver(), frames.Sender(masks=False), 0
        while data := await reader.read(65536):
            if not (text := receiver.feed(data)):
                continue
            wanted = Wanted.of(json.loads(text)["bench"])
            if wanted.rate:
                writer.write(sender.frame(CREATED))
                await Steady(writer, wanted, sender.frame).ended
                writer.write(sender.frame(COMPLETED))
            else:
                await _burst(writer, self._bursts[wanted.events].answer(answers))
                answers += 1


class Bursts:
    """The frames of a WebSocket's answers, one after the other: the same for every socket, so made only once."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._sender = frames.Sender(masks=False)
        self._answers: list[list[bytes]] = []

    def answer(self, number: int) -> list[bytes]:
        while len(self._answers) <= number:
            self._answers.append([self._sender.frame(text) for text in texts(self._events)])
        return self._answers[number]


class BurstsBySize(dict[int, Bursts]):
    """Bursts, by the number of events in an answer."""

    def __missing__(self, events: int) -> Bursts:
        self[events] = Bursts(events)
        return self[events]


def texts(events: int) -> list[bytes]:
    """Return the texts of an answer, without times."""
    return [CREATED, *(delta(number, 0, 0) for number in range(events)), COMPLETED]


@functools.cache
def chunks(events: int) -> list[bytes]:
    """Return the chunks of an answer that is an event stream."""
    return [*map(as_event, texts(events)), b"0\r\n\r\n"]


async def _burst(writer: asyncio.StreamWriter, pieces: Sequence[bytes]) -> None:
    """Write pieces as fast as the client reads them."""
    for begin in range(0, len(pieces), AT_ONCE):
        writer.writelines(pieces[begin : begin + AT_ONCE])
        await writer.drain()
        await asyncio.sleep(0)  # Let other streams send.


class Steady:
    """Sends each event when it is due, even if earlier ones have not been read: a model does not wait, either."""

    def __init__(self, writer: asyncio.StreamWriter, wanted: Wanted, packed: Callable[[bytes], bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer, self._wanted, self._packed = writer, wanted, packed
        self._number = 0
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_at(wanted.begin, self._send)

    def _send(self) -> None:
        begin, rate, number = self._wanted.begin, self._wanted.rate, self._number
        if number == self._wanted.events or self._writer.transport.is_closing():
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self._writer.write(self._packed(delta(number, begin + number / rate, self._loop.time())))
        self._number += 1
        self._loop.call_at(begin + self._number / rate, self._send)


class FineSelector(selectors.DefaultSelector):
    """Wakes when a timer is due, not up to a millisecond later as epoll does."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and hasattr(self, "fileno"):
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def _head(head: bytes) -> tuple[str, dict[str, str]]:
    line, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (text.partition(":") for text in lines)
    return line.split(" ")[1], {name.lower(): value.strip() for name, _, value in pairs}


def whoami(name: str) -> dict[str, Any]:
    return {
        "chatgpt_user_id": f"user-{name}",
        "chatgpt_account_id": f"acc-{name}",
        "chatgpt_plan_type": "business",
        "chatgpt_account_is_fedramp": False,
    }


def discovery(name: str) -> dict[str, Any]:
    routing = {"workspace_backend_origin": "NO_CONSTRAINT", "account_routing_override": "NO_CONSTRAINT"}
    return {"accounts": [{"id": f"acc-{name}", **routing}]}


async def main(folder: Path) -> None:
    authority = Authority(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.issue(["chatgpt.com", "auth.openai.com"]))
    server = await asyncio.start_server(Upstream(tls).serve, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "ca": str(authority.ca_file)}), flush=True)
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FineSelector())) as runner:
        runner.run(main(Path(sys.argv[1])))
