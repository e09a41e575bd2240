"""Read and clean a held answer before the client or a dump sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mitmproxy import http

from codexpool.protocol import lent_usage
from codexpool.protocol.bounded_json import loads
from codexpool.protocol.discovery import seen_by_client
from codexpool.protocol.errors import unpacked
from codexpool.protocol.headers import Fields
from codexpool.protocol.inflate import TooLongError, UnreadableError, pieces

LONGEST: Final = 1 << 20  # Bytes, inflated, of an answer to read; a longer one is judged by its status alone.

UNREAD: Final = b"codexpool: the backend's answer is not readable, and is not passed on"
"""Replaces the body of a refusal that cannot be checked for a token."""


class Read(NamedTuple):
    """The readable part of a body, and whether that is all of it."""

    text: bytes
    is_whole: bool


def read(response: http.Response) -> Read:
    """Decode a body: nothing if it is too long, and up to the damage if it is damaged."""
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
    """Return whether this is an HTML page, as the content delivery network sends them."""
    return "html" in response.headers.get("content-type", "") or body[:64].lstrip()[:1] == b"<"


def show_own_id(response: http.Response, pooled_id: str, client_id: str) -> None:
    """Put the client's own account id into an answer of routing discovery."""
    try:
        document = loads(read(response).text)
    except ValueError:
        return
    response.content = json.dumps(seen_by_client(document, pooled_id, client_id)).encode()


def show_no_person(response: http.Response, client_id: str) -> dict[str, Any]:
    """Remove what names the person behind the identity from an answer that says what is left, and return it."""
    try:
        document = loads(read(response).text)
    except ValueError:
        document = None
    shown = lent_usage.seen_by_client(document, client_id)
    response.content = json.dumps(shown).encode()
    return shown


def scrub(response: http.Response, secrets: Mapping[bytes, bytes]) -> bytes:
    """Remove secrets from an answer: some refusals repeat the token they refuse.

    ``secrets`` maps each secret to its replacement. Returns the readable part of the body, without them; that part
    replaces a body that is not readable to its end.
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
    """Return a truncated text without the beginning of a secret at its end."""
    longest = next((size for size in range(len(secret) - 1, 0, -1) if text.endswith(secret[:size])), 0)
    return text[: len(text) - longest]


def _without(fields: Fields, secrets: Mapping[bytes, bytes]) -> Fields:
    kept = []
    for name, value in fields:
        if any(secret in unpacked(value) for secret in secrets):
            continue  # Encoded, such as x-error-json in base64.
        for secret, shown in secrets.items():
            value = value.replace(secret, shown)
        kept.append((name, value))
    return tuple(kept)
