"""Requests in files and in a running proxy, as `explain` and `diff` take them: FILE, FILE#N, FILE#ID, or an id."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import click

from codexpool.cli.common import Failure
from codexpool.protocol.inflate import UnreadableError, inflated
from codexpool.traces.trace import METADATA
from codexpool.views.formatting import plain
from codexpool.views.request_diff import Side

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow, Message

LONGEST: Final = 64 * 2**20  # bytes of a body, inflated, that is compared
IN_PROXY: Final = re.compile(r"last|[0-9a-f][0-9a-f-]{3,35}")  # a flow of the running proxy


class Selected(NamedTuple):
    """A file, and which of its requests: a number, the beginning of an id, or nothing."""

    path: Path
    which: str


def named(text: str) -> Selected | None:
    """Return the file that an argument names; None if it names a flow of a proxy. Raises click.UsageError."""
    if text and (path := Path(text).expanduser()).is_file():
        return Selected(path, "")
    name, sharp, which = text.rpartition("#")
    if name and sharp and (path := Path(name).expanduser()).is_file():
        if re.fullmatch(r"-?\d+|[0-9a-f-]+", which) is None or which.strip("-0") == "":
            raise click.UsageError(
                f"{plain(text)}: put the number of a request after the # (1 is the first, -1 the last), or the "
                "beginning of its id"
            )
        return Selected(path, which)
    if IN_PROXY.fullmatch(text) is None:
        raise click.UsageError(
            f"{plain(text)}: there is no such file, and it is not a flow of a proxy. Use FILE, FILE#N, the id of a "
            "flow, or: last"
        )
    return None


def pick(where: Selected) -> tuple[HTTPFlow, int]:
    """Return the selected request and its number, from 1; by default the last of codexpool. Raises Failure.

    A flow has one record for each of its attempts; an id means the last one, which says most.
    """
    from codexpool.recording import files

    path, which = plain(where.path), where.which
    try:
        flows = files.read(where.path).flows
    except files.RecordingError as error:
        raise Failure(str(error)) from None
    if not flows:
        raise Failure(f"{path}: has no HTTP request")
    if re.fullmatch(r"-?\d+", which):
        number = int(which)
        if abs(number) > len(flows):
            raise Failure(f"{path}: has {len(flows)} requests; there is no #{which}")
        index = number - 1 if number > 0 else len(flows) + number
    elif which:
        found = [index for index, flow in enumerate(flows) if flow.id.startswith(which)]
        if (count := len({flows[index].id for index in found})) != 1:
            raise Failure(f"{path}: {count or 'no'} flows have an id that begins with {which}")
        index = found[-1]
    else:
        ours = [index for index, flow in enumerate(flows) if METADATA in flow.metadata]
        index = ours[-1] if ours else len(flows) - 1
    return flows[index], index + 1


# -- the sides of a comparison


def side_of(text: str, proxy_url: str | None) -> Side:
    """Return the request that an argument selects. Raises Failure or click.UsageError."""
    where = named(text)
    if where is None:
        return _from_proxy(text, proxy_url)
    flow, number = pick(where)
    return _from_flow(flow, f"{plain(where.path)}#{number}")


def _from_proxy(flow: str, url: str | None) -> Side:
    from codexpool.cli import running_proxy

    try:
        return _from_document(running_proxy.find_proxy(url).get(f"/api/flows/{quote(flow, safe='')}")["flow"], flow)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Failure("cannot read the proxy's answer about this flow: is it another release of codexpool?") from None


def _from_document(document: dict[str, Any], label: str) -> Side:
    """Return what the client sent, by the document of a trace. Raises LookupError and others."""
    attempts, status = document["attempts"], document["answer"]["status"]
    return Side(
        label,
        document["method"],
        document["url"],
        [(str(name), str(value)) for name, value in document["request_headers"]],
        status=status if isinstance(status, int) else None,
        answer_headers=[(str(n), str(v)) for n, v in attempts[-1]["response_headers"]] if attempts else (),
        is_safe=True,
    )


def _from_flow(flow: HTTPFlow, label: str) -> Side:
    """Return a flow as mitmproxy has it; with what the client sent, if the addon has left its trace."""
    request, response = flow.request, flow.response
    body, status = _body(flow), None if response is None else response.status_code
    answer_headers = () if response is None else _fields(response)
    document = flow.metadata.get(METADATA)
    if isinstance(document, dict):
        try:
            side = _from_document(document, label)
            return dataclasses.replace(side, body=body, status=status, answer_headers=answer_headers)
        except (LookupError, TypeError, ValueError, AttributeError):
            pass  # Not a document of this release: the flow itself is compared.
    return Side(label, request.method, request.url, _fields(request), body, status, answer_headers)


def _body(flow: HTTPFlow) -> bytes | None:
    """Return what was sent, without its content coding; of a WebSocket the last message of the client."""
    if flow.websocket is not None:
        return next((one.content for one in reversed(flow.websocket.messages) if one.from_client), None)
    body = flow.request.raw_content
    try:
        return body and inflated(body, flow.request.headers.get("content-encoding", ""), LONGEST)
    except UnreadableError:
        return body


def _fields(message: Message) -> list[tuple[str, str]]:
    """Return the headers, without the pseudo-headers that browsers write into HAR files."""
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.headers.fields]
    return [(name, value) for name, value in fields if not name.startswith(":")]
