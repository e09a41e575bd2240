"""Flows as a proxy has them, made by hand, and what a reader of a recording can find in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from mitmproxy import connection, flow, http, websocket
from mitmproxy.net import encoding
from wsproto.frame_protocol import Opcode

from codexpool.recording import files
from codexpool.recording.anonymize import strip
from codexpool.recording.recorder import Recording

Pairs = Sequence[tuple[str, str]]


def a_flow(
    path: str = "/backend-api/codex/responses",
    *,
    method: str = "POST",
    host: str = "chatgpt.com",
    headers: Pairs = (),
    body: bytes | str = b"",
    status: int | None = 200,
    answer: bytes | str = b"",
    answer_headers: Pairs = (),
    client: str = "127.0.0.1",
    error: str = "",
    comment: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> http.HTTPFlow:
    """A request and its answer. Bodies are encoded as their headers say."""
    made = http.HTTPFlow(
        connection.Client(peername=(client, 50123), sockname=("127.0.0.1", 8080), timestamp_start=1764000000.0),
        connection.Server(address=(host, 443), peername=("104.18.32.47", 443), sockname=("192.168.1.23", 40000)),
    )
    made.request = http.Request.make(method, f"https://{host}{path}", b"", _fields(headers))
    made.request.raw_content = _encoded(body, made.request.headers)
    made.request.timestamp_start = made.request.timestamp_end = 1764000000.5
    if status is not None:
        made.response = http.Response.make(status, b"", _fields(answer_headers))
        made.response.raw_content = _encoded(answer, made.response.headers)
        made.response.timestamp_start = made.response.timestamp_end = 1764000001.0
    if error:
        made.error = flow.Error(error, 1764000002.0)
    made.comment = comment
    made.metadata.update(metadata or {})
    return made


def a_socket(sent: Sequence[str], received: Sequence[str], **more: Any) -> http.HTTPFlow:
    """A WebSocket with these messages, closed."""
    made = a_flow(method="GET", status=101, **more)
    made.websocket = websocket.WebSocketData(timestamp_end=1764000009.0, close_code=1000)
    for from_client, texts in ((True, sent), (False, received)):
        for text in texts:
            made.websocket.messages.append(
                websocket.WebSocketMessage(Opcode.TEXT, from_client, text.encode(), 1764000003.0)
            )
    return made


def _fields(headers: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]


def _encoded(body: bytes | str, headers: http.Headers) -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    return encoding.encode(raw, headers.get("content-encoding", "identity"))


def recorded(*flows: http.HTTPFlow, as_har: bool = False) -> bytes:
    """The content of a recording of these flows."""
    recording = Recording(Path("it.har" if as_har else "it.flows"))
    recording.flows += [strip(flow) for flow in flows]
    return recording.content()


def read(content: bytes) -> list[http.HTTPFlow]:
    """The flows of a recording."""
    return files.parse(content, "it").flows


def readable(content: bytes) -> str:
    """Return everything readable in a recording, with every encoding undone."""
    texts = [content]
    if content[:1] != b"{":
        for one in read(content):
            for message in (one.request, one.response):
                if message is not None:
                    texts.append(message.get_content(strict=False) or b"")
    plain = b"\n".join(texts).decode("utf-8", "replace")
    return "\n".join([plain, *_undone(plain)])


def _undone(text: str, depth: int = 0) -> Iterator[str]:
    if depth == 3:
        return
    for made in (unquote(text), text.replace("\\/", "/").replace('\\"', '"').replace("\\\\", "\\")):
        if made != text:
            yield made
            yield from _undone(made, depth + 1)


def written_like(value: str) -> Iterator[str]:
    """A value, and what it is within other encodings."""
    yield value
    yield json.dumps(value)[1:-1]
    yield quote(value, safe="")
    yield value.encode().hex()
    raw = value.encode()
    for start in range(3):
        whole = base64.b64encode(raw[start:]).decode()[: len(raw[start:]) // 3 * 4]
        if len(whole) >= 8:
            yield whole


def is_in(value: str, text: str) -> bool:
    """Whether a value can be found in a text, however it is written."""
    return any(form in text for form in written_like(value))
