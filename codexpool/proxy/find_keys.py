"""Finds the member key in a request, and hides it from the flow."""

from __future__ import annotations

import binascii
import re
from itertools import chain
from typing import Final

from mitmproxy import http

from codexpool.protocol.headers import AUTHORIZATION, PLACEHOLDER, Fields
from codexpool.protocol.member_keys import MARK, without_keys
from codexpool.proxy.bodies import look
from codexpool.proxy.dressed_copy import with_body

# Part of every ``Basic`` credential, which may have a key as its password (from a URL, for example)
BASIC: Final = b"asic "

SHOWN: Final = PLACEHOLDER.format("member key").encode()
SHOWN_IN_NAMES: Final = b"codexpool-member-key"
SHOWN_IN_PATHS: Final = b"codexpool:member-key"

_BEARER: Final = re.compile(rb"(?i:bearer) +(" + re.escape(MARK) + rb"[^\s,]{0,128}) *")
_BASIC: Final = re.compile(rb"\s*(?i:basic) +([\w+/=-]+)\s*")
# Any byte may be percent-encoded (decoding a long path first takes far longer), and a folded header has line breaks.
_ENCODED: Final = b"".join(rb"(?:%c|(?i:%%%02x))" % (byte, byte) for byte in MARK)
_KEY: Final = re.compile(_ENCODED + rb"(?:[\w%-]|\r\n[ \t]+)*")


def key_of(request: http.Request) -> bytes | None:
    """Return the key of a request, None without one, or empty if it is not in a single ``Authorization`` header."""
    fields, path = request.data.headers.fields, request.data.path
    if not _may_hold(fields) and MARK not in path and b"%" not in path:
        return None
    bearers = [value for name, value in fields if name.lower() == AUTHORIZATION]
    elsewhere = any(MARK in name or _holds(value) for name, value in fields if name.lower() != AUTHORIZATION)
    if elsewhere or _KEY.search(path):
        return b""
    if not any(map(_holds, bearers)):
        return None
    match = _BEARER.fullmatch(bearers[0]) if len(bearers) == 1 else None
    return match[1] if match is not None else b""


def carries_key(request: http.Request) -> bool:
    """Return whether the head or the trailers of a request have what looks like a member key."""
    trailers = request.data.trailers.fields if request.data.trailers is not None else ()
    return key_of(request) is not None or any(MARK in name or _holds(value) for name, value in trailers)


def hide_key(flow: http.HTTPFlow) -> None:
    """Replace each key in the head and the trailers of a request by a placeholder."""
    request = flow.request
    request.headers.fields = _without(request.headers.fields)
    if request.data.trailers is not None:
        request.data.trailers.fields = _without(request.data.trailers.fields)
    if _KEY.search(request.data.path):
        request.data.path = _KEY.sub(SHOWN_IN_PATHS, request.data.path)


async def take_key_out(flow: http.HTTPFlow) -> bool:
    """Remove all keys from the body of a complete request; return whether there was one.

    Raises UnreadableError for a body that cannot be decoded.
    """
    body, encoding = flow.request.raw_content, flow.request.headers.get("content-encoding", "")
    if not body or (clean := await look(without_keys, body, encoding)) is None:
        return False
    with_body(flow.request, clean)
    return True


def _without(fields: Fields) -> Fields:
    shown = ((_KEY.sub(SHOWN_IN_NAMES, name), _KEY.sub(SHOWN, value)) for name, value in fields)
    return tuple((name, SHOWN if _holds(value) else value) for name, value in shown)


def _may_hold(fields: Fields) -> bool:
    """Return whether headers need a closer look; nearly none do."""
    text = b"\n".join(chain.from_iterable(fields))
    return MARK in text or BASIC in text


def _holds(value: bytes) -> bool:
    """Return whether a header's value has a key in it, plain or as a password."""
    if MARK in value:
        return True
    match = _BASIC.fullmatch(value) if BASIC in value else None
    try:
        return match is not None and MARK in binascii.a2b_base64(match[1])
    except ValueError:
        return False
