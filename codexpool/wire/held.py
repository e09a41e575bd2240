"""What is done to an answer that is held, before the client or a dump sees it."""

from __future__ import annotations

import json

from mitmproxy import http

from codexpool.wire.errors import unpacked
from codexpool.wire.headers import PLACEHOLDER
from codexpool.wire.routing import seen_by_client


def decoded(response: http.Response) -> bytes:
    """The body without its content encoding; as it came, where that does not fit."""
    try:
        return response.content or b""
    except ValueError:
        return response.raw_content or b""


def is_page(response: http.Response, body: bytes) -> bool:
    """Whether this is a page for a browser, as the content network in front of the backend sends them."""
    return "html" in response.headers.get("content-type", "") or body[:64].lstrip()[:1] == b"<"


def is_event_stream(response: http.Response) -> bool:
    """Whether events are to come, each of which somebody waits for."""
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")


def show_own_id(response: http.Response, pooled_id: str, client_id: str) -> None:
    """Have an answer of routing discovery speak of the client's own account."""
    try:
        document = json.loads(decoded(response))
    except ValueError:
        return
    response.content = json.dumps(seen_by_client(document, pooled_id, client_id)).encode()


def scrub(response: http.Response, token: str, name: str) -> None:
    """Some refusals repeat the token they refuse: neither the client nor a dump is to see it."""
    secret, shown = token.encode(), PLACEHOLDER.format(name).encode()
    body = decoded(response)
    if secret in body:
        response.content = body.replace(secret, shown)
    response.headers.fields = tuple(
        (field, value.replace(secret, shown))
        for field, value in response.headers.fields
        if secret not in unpacked(value)  # x-error-json is base64
    )
