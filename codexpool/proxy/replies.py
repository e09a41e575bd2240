"""Answers of the proxy itself.

The client never gets a 401 about an identity of the pool: one with an OAuth login would react by rotating its own
refresh token (docs/protocol.md).
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
from codexpool.protocol.models import Catalogue, matches

AT_ONCE = 60.0  # Longest wait, in seconds, that a client is told to retry after; a longer one is shown to the person.


class Advice(Enum):
    """What a client is told when no identity can serve."""

    FINAL = "show the message; do not retry"
    WAIT = "retry by yourself in a moment"
    LIMIT = "show a limit, with its end"


def advice(returns_at: float | None, is_limit: bool, now: float) -> Advice:
    """Return the advice if an identity serves again at ``returns_at`` (unix seconds; None: waiting does not help)."""
    if returns_at is not None and returns_at - now <= AT_ONCE:
        return Advice.WAIT
    return Advice.LIMIT if returns_at is not None and is_limit else Advice.FINAL


def seconds_to(returns_at: float, now: float) -> int:
    """Return the whole seconds a client is told to wait."""
    return max(1, math.ceil(returns_at - now))


PROMO = "x-codex-promo-message"  # The client shows its text with a limit; of the body it shows only the time.


def unservable(
    message: str, summary: str, upgrade: bool, returns_at: float | None, is_limit: bool, now: float
) -> http.Response:
    """Tell a client that no identity can serve, so that it shows why at once instead of retrying.

    ``summary`` is a short form of the message. ``returns_at`` is the unix second at which an identity serves
    again, if that only takes time. Of a refused WebSocket upgrade the client sees only the status; a 426 sends it to
    HTTP, where it gets a readable answer. A plain-text 400 is final for it, and shown as it is (by experiment, see
    docs/when-no-identity-can-serve.md).
    """
    if upgrade:
        return over_http(message)
    advised = advice(returns_at, is_limit, now)
    if returns_at is None or advised is Advice.FINAL:
        return http.Response.make(400, message, {"content-type": "text/plain; charset=utf-8"})
    if advised is Advice.WAIT:
        error = {"type": "rate_limit_exceeded", "code": "codexpool_unservable", "message": message}
        return _json(429, {"error": error}, {"retry-after": str(seconds_to(returns_at, now))})
    return _json(429, {"error": limit_error(message, returns_at)}, {PROMO: promo(summary)})


def over_http(message: str) -> http.Response:
    """Answer a WebSocket upgrade so that the client silently sends the same request over HTTP."""
    return _json(426, {"error": {"code": "codexpool_unservable", "message": message}})


def limit_error(message: str, resets_at: float) -> dict[str, Any]:
    """Return the error of a limit: the client goes by its ``type``, and gives no advice without a plan."""
    code = "usage_limit_reached"
    return {"type": code, "code": code, "message": message, "resets_at": math.ceil(resets_at)}


def promo(message: str) -> str:
    """Return a text for `PROMO`: one line of ASCII, which the client continues with ", or try again at"."""
    return " ".join(message.encode("ascii", "replace").decode().split()).rstrip(".")


def failed_stream(
    stream: http.Response, status: int, error: Mapping[str, Any], values: Mapping[bytes, bytes]
) -> http.Response:
    """Return a stream that failed before it answered as an error response, with what its headers said about limits.

    ``values`` are the headers that came with the failure.
    """
    came = {**stream.headers, **{name.decode("latin-1"): value.decode("latin-1") for name, value in values.items()}}
    kept = {name: value for name, value in came.items() if name.lower().startswith(("x-", "retry-after"))}
    return _json(status, {"error": dict(error)}, kept)


def cut(answer: http.Response, why: str) -> http.Response:
    """Return an answer that was cut off as its head, with ``why`` as the body."""
    is_page = "html" in answer.headers.get("content-type", "")  # The only sign of a page.
    gone = OF_A_BODY if is_page else OF_A_BODY | {b"content-type"}
    fields = [(name, value) for name, value in answer.headers.fields if name.lower() not in gone]
    if not is_page:
        fields.append((b"content-type", b"text/plain; charset=utf-8"))
    return http.Response.make(answer.status_code, f"codexpool: {why}", http.Headers(fields))


OF_A_BODY = frozenset({b"content-length", b"content-encoding", b"transfer-encoding", b"trailer"})
"""Headers that describe the body they came with."""


def failed_closed(reason: str, at_once: bool = False) -> http.Response:
    """Refuse a request after a fault of the proxy; the client may retry, ``at_once`` if that is likely to help."""
    error = {"type": "server_error", "code": "codexpool_failed_closed", "message": f"codexpool: {reason}"}
    return _json(503, {"error": error}, {"retry-after": "0"} if at_once else {})


REFUSAL = {"www-authenticate": 'Bearer realm="codexpool"', "retry-after": "0"}
"""Headers of a refusal. A client with a PAT retries five times; without a pause it shows the message after one second
instead of eight (by experiment with 0.169.0)."""


def refused(why: str) -> http.Response:
    """Refuse a request without a valid member key (RFC 9110, 15.5.2), in the form of the backend's own refusals."""
    error = {"type": "invalid_request_error", "code": "codexpool_not_a_member", "message": f"codexpool: {why}"}
    return _json(401, {"error": error}, REFUSAL)


def unreadable(why: str) -> http.Response:
    """Refuse a member's request in an encoding that no Codex client uses."""
    error = {"type": "invalid_request_error", "code": "codexpool_unreadable", "message": f"codexpool: {why}"}
    return _json(415, {"error": error})


def withheld(why: str) -> http.Response:
    """Refuse a request with a member key in the wrong place."""
    error = {"type": "invalid_request_error", "code": "codexpool_key_withheld", "message": f"codexpool: {why}"}
    return _json(403, {"error": error})


def not_for_members(why: str) -> http.Response:
    """Refuse what members may not use. The client shows the header of a refused WebSocket, never the body."""
    message = f"codexpool: {why or 'this needs a login of your own; a member key is not enough'}"
    error = {"type": "invalid_request_error", "code": "forbidden", "message": message}
    return _json(403, {"error": error}, {"x-openai-authorization-error": message} if why else {})


def too_many(pause: float) -> http.Response:
    """Refuse an address that was refused too often; say only when to retry."""
    return _json(429, {"error": {"code": "codexpool_too_many_refusals"}}, {"retry-after": str(math.ceil(pause) or 1)})


def denied(message: str, returns_at: float, is_limit: bool, now: float) -> http.Response:
    """Refuse a turn for now: the member's limit is reached, or no slot is free."""
    if is_limit:
        return _json(429, {"error": limit_error(message, returns_at)}, {PROMO: promo(message)})
    error = {"type": "rate_limit_exceeded", "code": "codexpool_no_place", "message": message}
    return _json(429, {"error": error}, {"retry-after": str(seconds_to(returns_at, now))})


def toolless(body: bytes, encoding: str) -> http.Response:
    """Answer an MCP message as a server without tools."""
    status, document = toolless_answer(body, encoding)
    return http.Response.make(status) if document is None else _json(status, document)


def document(told: object, headers: Mapping[str, str] = MappingProxyType({})) -> http.Response:
    return _json(200, told, headers)


def model_list(catalogue: Catalogue, condition: str) -> http.Response:
    """Return the list of models; only its etag to a client that has it (``condition`` is its If-None-Match)."""
    if matches(condition, catalogue.etag):
        return http.Response.make(304, headers={"etag": catalogue.etag})
    return http.Response.make(200, catalogue.body, {"content-type": "application/json", "etag": catalogue.etag})


def discovered(client_id: str) -> http.Response:
    """Return routing discovery for a client that no identity can serve."""
    return _json(200, synthetic(client_id))


def _json(status: int, document: object, headers: Mapping[str, str] = MappingProxyType({})) -> http.Response:
    return http.Response.make(status, json.dumps(document), {"content-type": "application/json", **headers})
