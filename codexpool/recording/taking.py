"""What is taken of a flow for a recording, and what is left behind at once.

Nothing goes into a recording because it happens to be in a flow: what is wanted is named here. Certificates, upstream
proxies, the metadata of other addons and what a flow was before somebody edited it are not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from mitmproxy import connection, http, websocket

from codexpool.protocol.hosts import is_codex
from codexpool.traces.trace import METADATA

NOTE: Final = "codexpool_recording"
"""Under which key a recorded flow says how large its bodies were, and what was left out."""

OVERHEAD: Final = 14_000
"""Bytes that a taken flow and its trace have in memory besides their texts (measured: 18 kB in all are usual)."""

_SHARED: Final = ("id", "tls", "tls_version", "alpn", "cipher", "sni", "transport_protocol", "timestamp_start")
_TIMES: Final = ("timestamp_end", "timestamp_tls_setup")


def is_wanted(flow: http.HTTPFlow) -> bool:
    """Whether a request is one of a Codex client to its backend."""
    return is_codex(flow.request.host)


def taken(
    flow: http.HTTPFlow, with_bodies: bool, messages: Sequence[websocket.WebSocketMessage] | None = None
) -> http.HTTPFlow:
    """A flow of its own, with what is wanted of this one; cheap, since bodies are shared and not copied.

    Args:
        messages: those of a WebSocket, where the flow itself has forgotten some.
    """
    made = http.HTTPFlow(_client(flow.client_conn), _server(flow.server_conn))
    made.id, made.timestamp_created = flow.id, flow.timestamp_created
    made.request = _request(flow.request, with_bodies)
    if flow.response is not None:
        made.response = _response(flow.response, with_bodies)
    made.error = copy.copy(flow.error)
    made.comment, made.marked, made.is_replay = flow.comment, flow.marked, flow.is_replay
    note = _sizes(flow)
    if flow.websocket is not None:
        seen = list(flow.websocket.messages if messages is None else messages)
        before = flow.metadata.get(NOTE)
        note |= before if isinstance(before, dict) and "messages_sent" in before else sizes_of(seen)
        made.websocket = websocket.WebSocketData(
            [_message(message) for message in seen] if with_bodies else [],
            flow.websocket.closed_by_client,
            flow.websocket.close_code,
            flow.websocket.close_reason,
            flow.websocket.timestamp_end,
        )
    made.metadata = {NOTE: note}
    if METADATA in flow.metadata:
        made.metadata[METADATA] = flow.metadata[METADATA]
    return made


def sizes_of(messages: Sequence[websocket.WebSocketMessage]) -> dict[str, int]:
    """How many messages went either way, and how many bytes that was."""
    sent = [len(message.content) for message in messages if message.from_client]
    received = [len(message.content) for message in messages if not message.from_client]
    return {
        "messages_sent": len(sent),
        "bytes_sent": sum(sent),
        "messages_received": len(received),
        "bytes_received": sum(received),
    }


def weight(flow: http.HTTPFlow) -> int:
    """Bytes that a taken flow keeps in memory, about."""
    texts = sum(len(name) + len(value) for name, value in flow.request.headers.fields) + len(flow.request.path)
    bodies = len(flow.request.raw_content or b"")
    if flow.response is not None:
        texts += sum(len(name) + len(value) for name, value in flow.response.headers.fields)
        bodies += len(flow.response.raw_content or b"")
    if flow.websocket is not None:
        bodies += sum(len(message.content) + 200 for message in flow.websocket.messages)
    return OVERHEAD + texts + bodies


def _sizes(flow: http.HTTPFlow) -> dict[str, Any]:
    before = flow.metadata.get(NOTE)
    kept = before if isinstance(before, dict) else {}
    sizes = {"request_bytes": _size(flow.request, kept), "response_bytes": _size(flow.response, kept)}
    return {**sizes, **({"left_out": kept["left_out"]} if "left_out" in kept else {})}


def _size(message: http.Message | None, kept: dict[str, Any]) -> int | None:
    """Bytes of a body as it was: an earlier recording knows it best, and the headers where it is not there."""
    if message is None:
        return None
    before = kept.get("request_bytes" if isinstance(message, http.Request) else "response_bytes")
    if isinstance(before, int):
        return before
    if message.raw_content is not None:
        return len(message.raw_content)
    length = message.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _request(request: http.Request, with_bodies: bool) -> http.Request:
    data = _data(request, with_bodies)
    made = http.Request.__new__(http.Request)
    made.data = data
    return made


def _response(response: http.Response, with_bodies: bool) -> http.Response:
    made = http.Response.__new__(http.Response)
    made.data = _data(response, with_bodies)
    return made


def _data(message: http.Message, with_bodies: bool) -> Any:
    data = copy.copy(message.data)
    data.headers = http.Headers(message.headers.fields)
    data.trailers = http.Headers(message.trailers.fields) if message.trailers is not None else None
    if not with_bodies:
        data.content = None
    return data


def _message(message: websocket.WebSocketMessage) -> websocket.WebSocketMessage:
    return websocket.WebSocketMessage(*message.get_state())


def _client(client: connection.Client) -> connection.Client:
    made = connection.Client(peername=client.peername, sockname=client.sockname)
    for name in (*_SHARED, *_TIMES):
        setattr(made, name, getattr(client, name))
    return made


def _server(server: connection.Server) -> connection.Server:
    made = connection.Server(address=server.address, peername=server.peername, sockname=server.sockname)
    for name in (*_SHARED, *_TIMES, "timestamp_tcp_setup"):
        setattr(made, name, getattr(server, name))
    return made
