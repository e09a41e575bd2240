"""What is done to an answer that is held, before the client or a dump sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from mitmproxy import http

from codexpool.protocol.bounded_json import loads
from codexpool.protocol.discovery import seen_by_client
from codexpool.protocol.errors import unpacked
from codexpool.protocol.headers import Fields
from codexpool.protocol.inflate import TooLongError, UnreadableError, pieces

LONGEST: Final = 1 << 20
"""Bytes of a held answer, inflated, that are looked at; beyond that it is judged by its status alone."""

UNREAD: Final = b"codexpool: the backend's answer could not be read, and is not passed on"
"""In place of the body of a refusal of which nobody can say whether it repeats a token."""


class Read(NamedTuple):
    """What could be read of a body. Where that is not the whole of it, nobody knows what else is in there."""

    text: bytes
    is_whole: bool


def read(response: http.Response) -> Read:
    """The body without its content-encoding: none where it is too long, and as far as it goes where it is damaged."""
    body, encoding = response.raw_content or b"", response.headers.get("content-encoding", "")
    if len(body) > LONGEST:
        return Read(b"", False)
    text = bytearray()
    try:
        for piece in pieces(body, encoding, LONGEST):
            text += piece
    except TooLongError:
        return Read(b"", False)
    except UnreadableError:
        return Read(bytes(text) or body, False)
    return Read(bytes(text), True)


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
        document = loads(read(response).text)
    except ValueError:
        return
    response.content = json.dumps(seen_by_client(document, pooled_id, client_id)).encode()


def scrub(response: http.Response, secrets: Mapping[bytes, bytes]) -> bytes:
    """Some refusals repeat the token they refuse: neither the client nor a dump is to see it.

    ``secrets`` has what to show in the place of each. Returns what could be read of the body, without them. Of one
    that was not read to its end only that is passed on.
    """
    text, is_whole = read(response)
    clean = text
    for secret, shown in secrets.items():
        clean = (clean if is_whole else _without_end(clean, secret)).replace(secret, shown)
    if not is_whole:
        response.headers.pop("content-encoding", None)
        response.content = clean or UNREAD
    elif clean != text:
        response.content = clean
    response.headers.fields = _without(response.headers.fields, secrets)
    if response.trailers is not None:
        response.trailers.fields = _without(response.trailers.fields, secrets)
    return clean


def _without_end(text: bytes, secret: bytes) -> bytes:
    """A text that was cut off, without the first part of a secret at its end."""
    longest = next((size for size in range(len(secret) - 1, 0, -1) if text.endswith(secret[:size])), 0)
    return text[: len(text) - longest]


def _without(fields: Fields, secrets: Mapping[bytes, bytes]) -> Fields:
    kept = []
    for name, value in fields:
        if any(secret in unpacked(value) for secret in secrets):
            continue  # x-error-json is base64
        for secret, shown in secrets.items():
            value = value.replace(secret, shown)
        kept.append((name, value))
    return tuple(kept)
