"""What the client gets from us in place of an answer of the backend.

The client never sees a 401 of the pool: a client with an OAuth login would answer it by rotating a refresh token of
its own (docs/protocol.md, section 6b).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from mitmproxy import http

from codexpool.protocol.discovery import synthetic
from codexpool.protocol.empty_mcp import answer as toolless_answer

AT_ONCE = 60.0
"""Seconds up to which a client is told to try again by itself; whatever takes longer is told to the person."""


class Told(Enum):
    """What a client is told that nobody can serve."""

    FINAL = "the message, and nothing that it could wait for"
    WAIT = "to try again by itself, in a moment"
    LIMIT = "a limit, with its end"


def told(returns_at: float | None, is_limit: bool, now: float) -> Told:
    """What a client is told where somebody serves again at the unix second ``returns_at``; None: not by waiting."""
    if returns_at is not None and returns_at - now <= AT_ONCE:
        return Told.WAIT
    return Told.LIMIT if returns_at is not None and is_limit else Told.FINAL


def seconds_to(returns_at: float, now: float) -> int:
    """The whole seconds that a client is told to wait."""
    return max(1, math.ceil(returns_at - now))


PROMO = "x-codex-promo-message"
"""The header whose text the client shows of a limit; it shows nothing of the body but the time."""


def unservable(
    message: str, summary: str, upgrade: bool, returns_at: float | None, is_limit: bool, now: float
) -> http.Response:
    """Nobody can serve this request; the client is to show why at once, and not to try again and again.

    ``summary`` is the message in short. ``returns_at`` is the unix second at which somebody serves again, if that is
    a matter of time alone; a client that is to wait a moment only does so by itself. Of a refused WebSocket upgrade
    the client sees the status only: 426 sends it to HTTP, where the same request gets an answer that it understands.
    A 400 in plain text is the one that it takes for final and shows as it is. (Found by experiment, see
    docs/when-no-identity-can-serve.md.)
    """
    if upgrade:
        return over_http(message)
    told_so = told(returns_at, is_limit, now)
    if returns_at is None or told_so is Told.FINAL:
        return http.Response.make(400, message, {"content-type": "text/plain; charset=utf-8"})
    if told_so is Told.WAIT:
        error = {"type": "rate_limit_exceeded", "code": "codexpool_unservable", "message": message}
        return _json(429, {"error": error}, {"retry-after": str(seconds_to(returns_at, now))})
    return _json(429, {"error": limit_error(message, returns_at)}, {PROMO: promo(summary)})


def over_http(message: str) -> http.Response:
    """The answer to a WebSocket upgrade upon which a client asks the same over HTTP, without a word."""
    return _json(426, {"error": {"code": "codexpool_unservable", "message": message}})


def limit_error(message: str, resets_at: float) -> dict[str, Any]:
    """The error of a limit: its ``type`` decides, its time is whole, and without a plan no advice is given."""
    code = "usage_limit_reached"
    return {"type": code, "code": code, "message": message, "resets_at": math.ceil(resets_at)}


def promo(message: str) -> str:
    """A text as the client shows it of a limit: it goes before ", or try again at", and has to be ASCII in a line."""
    return " ".join(message.encode("ascii", "replace").decode().split()).rstrip(".")


def failed_stream(
    stream: http.Response, status: int, error: Mapping[str, Any], values: Mapping[bytes, bytes]
) -> http.Response:
    """What a stream is taken for that has failed before it answered anything. What it said of limits stays said.

    ``values`` are the headers that came with the failure.
    """
    came = {**stream.headers, **{name.decode("latin-1"): value.decode("latin-1") for name, value in values.items()}}
    kept = {name: value for name, value in came.items() if name.lower().startswith(("x-", "retry-after"))}
    return _json(status, {"error": dict(error)}, kept)


def cut(answer: http.Response, why: str) -> http.Response:
    """What an answer counts as whose body does not come to its end: its head, with a line of ours for a body."""
    is_page = "html" in answer.headers.get("content-type", "")  # A page is told by that alone.
    gone = OF_A_BODY if is_page else OF_A_BODY | {b"content-type"}
    fields = [(name, value) for name, value in answer.headers.fields if name.lower() not in gone]
    if not is_page:
        fields.append((b"content-type", b"text/plain; charset=utf-8"))
    return http.Response.make(answer.status_code, f"codexpool: {why}", http.Headers(fields))


OF_A_BODY = frozenset({b"content-length", b"content-encoding", b"transfer-encoding", b"trailer"})
"""Headers that speak of a body, and are wrong for another one."""


def failed_closed(reason: str, at_once: bool = False) -> http.Response:
    """Something of ours went wrong: the request does not leave, and may be tried again.

    ``at_once`` if that is of use: the client shows nothing of the first few of those.
    """
    error = {"type": "server_error", "code": "codexpool_failed_closed", "message": f"codexpool: {reason}"}
    return _json(503, {"error": error}, {"retry-after": "0"} if at_once else {})


REFUSAL = {"www-authenticate": 'Bearer realm="codexpool"', "retry-after": "0"}
"""With a refusal. A client with a personal access token asks five times more, and does not wait between them: so it
shows the message after a second, and not after eight (found by experiment with 0.169.0)."""


def refused(why: str) -> http.Response:
    """A request without a key that opens the pool (RFC 9110, 15.5.2), in the shape of the backend's own refusals."""
    error = {"type": "invalid_request_error", "code": "codexpool_not_a_member", "message": f"codexpool: {why}"}
    return _json(401, {"error": error}, REFUSAL)


def unreadable(why: str) -> http.Response:
    """A member's request that is encoded in a way no Codex client uses."""
    error = {"type": "invalid_request_error", "code": "codexpool_unreadable", "message": f"codexpool: {why}"}
    return _json(415, {"error": error})


def withheld(why: str) -> http.Response:
    """A request that carries a member key to where none belongs."""
    error = {"type": "invalid_request_error", "code": "codexpool_key_withheld", "message": f"codexpool: {why}"}
    return _json(403, {"error": error})


def not_for_members(why: str) -> http.Response:
    """What a member's client does not get. Of a refused WebSocket it shows the header, and never the body."""
    message = f"codexpool: {why or 'this is for a person with a login of their own, and a member key is none'}"
    error = {"type": "invalid_request_error", "code": "forbidden", "message": message}
    return _json(403, {"error": error}, {"x-openai-authorization-error": message} if why else {})


def too_many(pause: float) -> http.Response:
    """A refusal that is one too many of an address. Nothing is said but when it is of use to come again."""
    return _json(429, {"error": {"code": "codexpool_too_many_refusals"}}, {"retry-after": str(math.ceil(pause) or 1)})


def denied(message: str, returns_at: float, is_limit: bool, now: float) -> http.Response:
    """A turn that a member may not have now: a limit of its own, or no place for a while."""
    if is_limit:
        return _json(429, {"error": limit_error(message, returns_at)}, {PROMO: promo(message)})
    error = {"type": "rate_limit_exceeded", "code": "codexpool_no_place", "message": message}
    return _json(429, {"error": error}, {"retry-after": str(seconds_to(returns_at, now))})


def toolless(body: bytes, encoding: str) -> http.Response:
    """The answer to a message for the tools of a person, where there is none."""
    status, document = toolless_answer(body, encoding)
    return http.Response.make(status) if document is None else _json(status, document)


def document(told: object, headers: Mapping[str, str] = MappingProxyType({})) -> http.Response:
    """An answer that is a document of ours."""
    return _json(200, told, headers)


def discovered(client_id: str) -> http.Response:
    """Routing discovery for a client that nobody can serve."""
    return _json(200, synthetic(client_id))


def _json(status: int, document: object, headers: Mapping[str, str] = MappingProxyType({})) -> http.Response:
    return http.Response.make(status, json.dumps(document), {"content-type": "application/json", **headers})
