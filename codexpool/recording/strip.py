"""Copies flows without bodies, addresses, certificates, metadata of other addons, and what was edited away."""

from __future__ import annotations

import copy
from typing import Final, TypeVar

from mitmproxy import connection, http, websocket

from codexpool.traces.trace import METADATA

NOTE: Final = "codexpool_recording"
"""The key in a recorded flow's metadata under which the sizes of what was left out are."""

SIZES: Final = ("request_bytes", "response_bytes")

_OF_CONNECTION: Final = (
    *("id", "tls", "tls_version", "alpn", "cipher", "transport_protocol"),
    *("timestamp_start", "timestamp_end", "timestamp_tls_setup"),
)
_NOWHERE: Final = ("127.0.0.1", 0)
M = TypeVar("M", http.Request, http.Response)


def strip(flow: http.HTTPFlow) -> http.HTTPFlow:
    """Return a copy without bodies; of a flow from an earlier recording the sizes are kept."""
    client, server = connection.Client(peername=_NOWHERE, sockname=_NOWHERE), connection.Server(address=None)
    for made_one, one in ((client, flow.client_conn), (server, flow.server_conn)):
        for name in _OF_CONNECTION:
            setattr(made_one, name, getattr(one, name))
    server.timestamp_tcp_setup = flow.server_conn.timestamp_tcp_setup
    made = http.HTTPFlow(client, server)
    made.id, made.timestamp_created = flow.id, flow.timestamp_created
    made.request = _bare(flow.request)
    made.response = _bare(flow.response) if flow.response is not None else None
    made.error = copy.copy(flow.error)
    made.comment, made.marked, made.is_replay = flow.comment, flow.marked, flow.is_replay
    if (socket := flow.websocket) is not None:
        made.websocket = websocket.WebSocketData(
            [], socket.closed_by_client, socket.close_code, socket.close_reason, socket.timestamp_end
        )
    sizes = flow.metadata.get(NOTE)
    if not isinstance(sizes, dict):
        sizes = {"request_bytes": _size(flow.request), "response_bytes": _size(flow.response)}
    made.metadata = {NOTE: {name: size for name in SIZES if isinstance(size := sizes.get(name), int | None)}}
    if METADATA in flow.metadata:
        made.metadata[METADATA] = flow.metadata[METADATA]
    return made


def _bare(message: M) -> M:
    made = type(message).__new__(type(message))
    made.data = copy.copy(message.data)
    made.data.headers = http.Headers(message.headers.fields)
    made.data.content = made.data.trailers = None
    return made


def _size(message: http.Message | None) -> int | None:
    """Return the bytes of a body: of one that was streamed, as its headers announced it."""
    if message is None:
        return None
    length = message.headers.get("content-length", "")
    if message.raw_content is None:
        return int(length) if length.isdecimal() else None
    return len(message.raw_content)
