"""The two sides of `codexpool diff`: a flow of a file, or one that a running proxy remembers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import click

from codexpool.cli import har
from codexpool.cli.common import Failure
from codexpool.protocol.inflate import UnreadableError, inflated
from codexpool.protocol.routes import BACKEND_ONLY, policy
from codexpool.traces.trace import METADATA
from codexpool.views.formatting import plain
from codexpool.views.request_diff import Side

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow, Message

LONGEST: Final = 64 * 2**20
"""Bytes of a body, inflated, that is compared."""

FLOW: Final = re.compile(r"last|[0-9a-f][0-9a-f-]{3,35}")
"""A flow of the running proxy."""


class Trouble(Failure):
    """A side cannot be read: as with diff(1), exit code 2."""

    exit_code = 2


class Kept(NamedTuple):
    """One request in a file: what it may be chosen by, and how to read the rest."""

    id: str
    method: str
    url: str
    is_ours: bool
    """The addon has left its document with it."""
    side: Callable[[str], Side]


class Selected(NamedTuple):
    """A file, and which of its requests."""

    path: Path
    which: str

    def __str__(self) -> str:
        return plain(f"{self.path}#{self.which}" if self.which else self.path)


def named(text: str) -> Selected | None:
    """The file that an argument names, and which of its requests; None for what is none. Raises click.UsageError."""
    if text and (path := Path(text).expanduser()).is_file():
        return Selected(path, "")
    name, sharp, which = text.rpartition("#")
    if name and sharp and (path := Path(name).expanduser()).is_file():
        if re.fullmatch(r"-?\d+|[0-9a-f-]+", which) is None or which.strip("-0") == "":
            raise click.UsageError(
                f"{plain(text)}: behind the # comes the number of a request (1 is the first, -1 the last), or the "
                "beginning of its id"
            )
        return Selected(path, which)
    if FLOW.fullmatch(text) is None:
        raise click.UsageError(
            f"{plain(text)}: there is no such file, and this is no flow of a proxy either. Say FILE, FILE#N, the id "
            "of a flow, or: last"
        )
    return None


def of_file(where: Selected) -> Side:
    """The side in a file. Raises Trouble."""
    kept, broken = _kept(where.path)
    index = _index(where, kept, broken)
    label = f"{plain(where.path)}#{index + 1}"
    try:
        made = kept[index].side(label)
    except har.BrokenError as error:
        raise Trouble(f"{plain(where.path)}: entry {index + 1}: {error}") from None
    return made


def of_proxy(flow: str, url: str | None) -> Side:
    """The side that a running proxy remembers. Raises Trouble."""
    from codexpool.cli import running_proxy

    try:
        document = running_proxy.proxy(url).get(f"/api/flows/{quote(flow, safe='')}")["flow"]
        return of_document(document, flow, ("a running proxy keeps no bodies",))
    except Failure as failure:
        raise Trouble(failure.message) from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Trouble("what the proxy says of this flow is not understood: is it of another release?") from None


def of_document(document: dict[str, Any], label: str, notes: tuple[str, ...] = ()) -> Side:
    """The side that the document of a trace tells of: what the client has sent. Raises LookupError and others."""
    attempts = document["attempts"]
    status = document["answer"]["status"]
    return Side(
        label,
        document["method"],
        document["url"],
        [(str(name), str(value)) for name, value in document["request_headers"]],
        float(document["at"]),
        status=status if isinstance(status, int) else None,
        answer_headers=[(str(name), str(value)) for name, value in attempts[-1]["response_headers"]]
        if attempts
        else (),
        is_safe=True,
        notes=notes,
    )


# -- files


def _kept(path: Path) -> tuple[list[Kept], str]:
    """The requests of a file, and what is wrong with its end, if its beginning can be read. Raises Trouble."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Trouble(f"{plain(path)} cannot be read: {error.strerror}") from None
    if not data:
        raise Trouble(f"{plain(path)} is empty")
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        try:
            entries = har.entries(data)
        except har.BrokenError as error:
            raise Trouble(f"{plain(path)}: {error}") from None
        kept, broken = [_of_entry(entry) for entry in entries], ""
    else:
        kept, broken = _dumped(data)
    if not kept:
        reason = f": {broken}" if broken else ""
        raise Trouble(f"{plain(path)} has no HTTP request{reason or ' in it'}")
    return kept, broken


def _dumped(data: bytes) -> tuple[list[Kept], str]:
    """The HTTP flows of a dump of mitmproxy. Its end may be missing: somebody may be writing it."""
    import io

    from mitmproxy.http import HTTPFlow
    from mitmproxy.io import FlowReader

    kept: list[Kept] = []
    read = 0
    try:
        for flow in FlowReader(io.BytesIO(data)).stream():
            read += 1
            if isinstance(flow, HTTPFlow):
                kept.append(_of_flow(flow))
    except Exception:  # FlowReadException mostly, but a file can hold anything.
        if not read:
            return [], "it is neither a dump of mitmproxy (-w) nor a HAR file"
        return kept, f"flow {read + 1} cannot be read: the file is damaged or cut short there"
    return kept, ""


def _index(where: Selected, kept: Sequence[Kept], broken: str) -> int:
    """Which of the requests is meant. Raises Trouble."""
    path, which = plain(where.path), where.which
    if re.fullmatch(r"-?\d+", which):
        number = int(which)
        if abs(number) > len(kept):
            reason = f" ({broken})" if broken else ""
            raise Trouble(f"{path} has {len(kept)} requests{reason}; there is no #{which}")
        if number > 0:
            return number - 1
        _whole(path, broken)
        return len(kept) + number
    if which:
        found = [index for index, one in enumerate(kept) if one.id.startswith(which)]
        if len(found) == 1:
            return found[0]
        reason = f" ({broken})" if broken else ""
        raise Trouble(f"{path}: {len(found) or 'no'} flows have an id that begins with {which}{reason}")
    _whole(path, broken)
    swapped = [index for index, one in enumerate(kept) if one.is_ours or _is_swapped(one)]
    return swapped[-1] if swapped else len(kept) - 1


def _whole(path: str, broken: str) -> None:
    """From the end nobody can count in a file whose end is missing."""
    if broken:
        raise Trouble(f"{path}: {broken}. Say which flow is meant: {path}#N")


def _is_swapped(kept: Kept) -> bool:
    """Whether it is for one of the endpoints that are sent under an identity of the pool."""
    try:
        url = urlsplit(kept.url)
        port = url.port or (80 if url.scheme == "http" else 443)
    except ValueError:
        return False
    target = f"{url.path}?{url.query}"
    return policy(url.scheme, url.hostname or "", port, kept.method, target, BACKEND_ONLY).swaps


def _of_entry(entry: Any) -> Kept:
    method, url = har.url_of(entry)
    return Kept("", method, url, False, lambda label: har.side(entry, label))


def _of_flow(flow: HTTPFlow) -> Kept:
    is_ours = isinstance(flow.metadata.get(METADATA), dict)
    return Kept(flow.id, flow.request.method, flow.request.url, is_ours, lambda label: _side(flow, label))


def _side(flow: HTTPFlow, label: str) -> Side:
    """A flow as mitmproxy has it; what the client has sent where the addon has left that with it."""
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
    if isinstance(document, dict):
        try:
            told = of_document(document, label)
        except (LookupError, TypeError, ValueError, AttributeError):
            return made
        return Side(
            label,
            told.method,
            told.url,
            told.headers,
            told.at,
            made.body,
            made.status,
            made.answer_headers,
            is_safe=True,
        )
    return made


def _body(flow: HTTPFlow) -> bytes | None:
    """What was sent, without its content coding; of a WebSocket the last message of the client."""
    if flow.websocket is not None:
        sent = [message.content for message in flow.websocket.messages if message.from_client]
        return sent[-1] if sent else None
    body = flow.request.raw_content
    try:
        return body and inflated(body, flow.request.headers.get("content-encoding", ""), LONGEST)
    except UnreadableError:
        return body


def _fields(message: Message) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.headers.fields]
