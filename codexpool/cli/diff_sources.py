"""The two sides of `codexpool diff`: a request in a file, or one that a running proxy remembers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from codexpool.cli.common import Failure
from codexpool.cli.saved_flows import Selected, pick
from codexpool.protocol.inflate import UnreadableError, inflated
from codexpool.traces.trace import METADATA
from codexpool.views.formatting import plain
from codexpool.views.request_diff import Side

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow, Message

LONGEST: Final = 64 * 2**20
"""Bytes of a body, inflated, that is compared."""


class Trouble(Failure):
    """A side cannot be read: exit code 2, as diff(1) has it."""

    exit_code = 2


def from_file(where: Selected) -> Side:
    """Return the side in a file. Raises Trouble."""
    try:
        flow, number = pick(where, only_whole=True)
    except Failure as failure:
        raise Trouble(failure.message) from None
    return _side(flow, f"{plain(where.path)}#{number}")


def from_proxy(flow: str, url: str | None) -> Side:
    """Return the side that a running proxy remembers. Raises Trouble."""
    from codexpool.cli import running_proxy

    try:
        document = running_proxy.find_proxy(url).get(f"/api/flows/{quote(flow, safe='')}")["flow"]
        return from_document(document, flow, ("a running proxy keeps no bodies",))
    except Failure as failure:
        raise Trouble(failure.message) from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Trouble("cannot read what the proxy says of this flow: is it another release of codexpool?") from None


def from_document(document: dict[str, Any], label: str, notes: tuple[str, ...] = ()) -> Side:
    """Return what the client has sent, by the document of a trace. Raises LookupError and others."""
    attempts = document["attempts"]
    status = document["answer"]["status"]
    return Side(
        label,
        document["method"],
        document["url"],
        [(str(name), str(value)) for name, value in document["request_headers"]],
        float(document["at"]),
        status=status if isinstance(status, int) else None,
        answer_headers=[(str(n), str(v)) for n, v in attempts[-1]["response_headers"]] if attempts else (),
        is_safe=True,
        notes=notes,
    )


def _side(flow: HTTPFlow, label: str) -> Side:
    """Return a flow as mitmproxy has it; with what the client has sent, if the addon has left its trace."""
    request, response = flow.request, flow.response
    made = Side(
        label,
        request.method,
        request.url,
        _fields(request),
        request.timestamp_start,
        _body(flow),
        None if response is None else response.status_code,
        () if response is None else _fields(response),
    )
    document = flow.metadata.get(METADATA)
    if not isinstance(document, dict):
        return made
    try:
        told = from_document(document, label)
    except (LookupError, TypeError, ValueError, AttributeError):
        return made
    return dataclasses.replace(told, body=made.body, status=made.status, answer_headers=made.answer_headers)


def _body(flow: HTTPFlow) -> bytes | None:
    """Return what was sent, without its content coding; of a WebSocket the last message of the client."""
    if flow.websocket is not None:
        sent = [message.content for message in flow.websocket.messages if message.from_client]
        return sent[-1] if sent else None
    body = flow.request.raw_content
    try:
        return body and inflated(body, flow.request.headers.get("content-encoding", ""), LONGEST)
    except UnreadableError:
        return body


def _fields(message: Message) -> list[tuple[str, str]]:
    """Return the headers, without the pseudo-headers that browsers write into HAR files."""
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.headers.fields]
    return [(name, value) for name, value in fields if not name.startswith(":")]
