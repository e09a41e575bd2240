"""What of a recording can be played against the stand-in, and what each request becomes for that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mitmproxy import http
from mitmproxy.net import encoding

from codexpool.protocol import frames
from codexpool.protocol.endpoints import HOST
from codexpool.recording.player import Headers, Sent
from codexpool.recording.taking import NOTE
from tests.standin import COMPACT, HOSTS, RESPONSES
from tests.standin.paths import AUTH_HOST, MCP

DROPPED: Final = frozenset(
    {"transfer-encoding", "content-length", "connection", "keep-alive", "proxy-connection", "te", "expect", "trailer"}
)
"""Headers that are for one connection, and made anew for another one."""

OURS: Final = (HOST, AUTH_HOST, "gov.chatgpt.com")
"""Where the stand-in looks at who is asking."""

TURN: Final = {
    "model": "replayed",
    "stream": True,
    "store": False,
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "replayed"}]}],
}
"""The least that is a request for the model."""

HELLO: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "replay", "version": "1"}},
}
"""The least that is a request of MCP."""


@dataclass
class Part:
    """One request of a recording. ``why`` says why it is not played; ``notes`` what is not as it was recorded."""

    number: int
    sent: Sent
    recorded: int | None
    messages: list[str] = field(default_factory=list)
    ends: list[bytes] = field(default_factory=list)
    is_upgrade: bool = False
    why: str = ""
    notes: list[str] = field(default_factory=list)


def parts(flows: Sequence[http.HTTPFlow], token: str, account_id: str) -> list[Part]:
    """The requests of a recording, as they are sent by a client with this token and account.

    A request that was sent again, under another identity, is in a recording once for each attempt, and played once.
    """
    last = {flow.id: number for number, flow in enumerate(flows)}
    return [
        _part(number + 1, flow, token, account_id) for number, flow in enumerate(flows) if last[flow.id] == number
    ]


def _part(number: int, flow: http.HTTPFlow, token: str, account_id: str) -> Part:
    request = flow.request
    host = request.pretty_host.lower()
    is_upgrade = request.headers.get("upgrade", "").lower() == "websocket"
    recorded = flow.response.status_code if flow.response is not None else None
    part = Part(number, Sent(request.method, host, request.path, []), recorded, is_upgrade=is_upgrade)
    if why := _unplayable(request, host):
        part.why = why
        return part
    if host == "gov.chatgpt.com":
        host = HOST
        part.notes.append(f"it is sent to {HOST}: the pool of a replay has nobody elsewhere")
    body = b"" if is_upgrade else _body(flow, part)
    headers = _headers(request, host, token, account_id, is_upgrade, body)
    part.sent = Sent(request.method, host, request.path, headers, body)
    if is_upgrade:
        _talk(flow, part)
    return part


def _unplayable(request: http.Request, host: str) -> str:
    path = request.path.partition("?")[0]
    if host not in HOSTS:
        return f"the stand-in does not play {host}"
    if request.method == "CONNECT" or not path.startswith("/"):
        return "it is no request for a resource"
    if host == AUTH_HOST and not path.endswith("/whoami"):
        return "it logs somebody in, or renews a login"
    return ""


def _headers(request: http.Request, host: str, token: str, account_id: str, is_upgrade: bool, body: bytes) -> Headers:
    own = {"authorization": f"Bearer {token}", "chatgpt-account-id": account_id} if host in OURS else {}
    own["host"] = host
    fields: Headers = []
    names = set()
    for name, value in request.headers.items(multi=True):
        lower = name.lower()
        if lower.startswith(":") or (lower in DROPPED and not (is_upgrade and lower == "connection")):
            continue
        if lower not in own or lower not in names:
            fields.append((name, own.get(lower, value)))
        names.add(lower)
    if "host" not in names:
        fields.insert(0, ("host", host))
    if body:
        fields.append(("content-length", str(len(body))))
    return fields


def _body(flow: http.HTTPFlow, part: Part) -> bytes:
    request = flow.request
    if request.raw_content is not None:
        return request.raw_content
    size = flow.metadata.get(NOTE, {}).get("request_bytes")
    if size == 0 or (size is None and request.method in ("GET", "HEAD", "OPTIONS", "DELETE")):
        return b""
    part.notes.append("its body was not recorded; it is sent with the least that is valid")
    path = request.path.partition("?")[0]
    document = TURN if path in (RESPONSES, COMPACT) else HELLO if path == MCP else {}
    content = json.dumps(document).encode()
    try:
        return encoding.encode(content, request.headers.get("content-encoding", "identity"))
    except ValueError:
        return content


def _talk(flow: http.HTTPFlow, part: Part) -> None:
    """What was said on a WebSocket, by the client and in answer to it."""
    messages = flow.websocket.messages if flow.websocket is not None else []
    part.messages = [message.text for message in messages if message.from_client and message.is_text]
    part.ends = [message.content for message in messages if not message.from_client]
    said = flow.metadata.get(NOTE, {}).get("messages_sent", 0)
    if said and not part.messages:
        part.notes.append(f"its {said} messages were not recorded; only the handshake is played")


def fitted(message: str, response_id: str, made: set[str]) -> str:
    """A message for a socket on which other answers came than when it was recorded.

    Args:
        response_id: of the last answer that came now.
        made: ids of the tool calls that were made now; the output of any other one gets its call before it.
    """
    document = frames.parsed(message.encode())
    if document.get("type") != frames.CREATE:
        return message
    if "previous_response_id" in document and document["previous_response_id"] is not None:
        document["previous_response_id"] = response_id or None
    calls, items = set(made), []
    for item in document.get("input") or ():
        kind, call_id = (item.get("type"), item.get("call_id")) if isinstance(item, dict) else (None, None)
        if kind in _CALLED and call_id not in calls:
            items.append({"type": _CALLED[kind], "call_id": call_id, "name": "replayed", **_SAID[kind]})
        elif kind in _CALLED.values():
            calls.add(str(call_id))
        items.append(item)
    document["input"] = items
    return frames.dumped(document).decode()


_CALLED: Final = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
_SAID: Final = {"function_call_output": {"arguments": "{}"}, "custom_tool_call_output": {"input": ""}}
