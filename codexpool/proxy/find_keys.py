"""Where a member key stands in a request: that is found out, and the flow shows it no more."""

from __future__ import annotations

import binascii
import re
from typing import Final

from mitmproxy import http

from codexpool.protocol.headers import AUTHORIZATION, PLACEHOLDER, Fields
from codexpool.protocol.member_keys import MARK, without_keys
from codexpool.proxy.bodies import look
from codexpool.proxy.dressed_copy import with_body

BASIC: Final = b"asic "
"""What a header has in it whose value is a user and a password: that of a URL with a key in it, for one."""

SHOWN: Final = PLACEHOLDER.format("member key").encode()
SHOWN_IN_NAMES: Final = b"codexpool-member-key"
SHOWN_IN_PATHS: Final = b"codexpool:member-key"

_BEARER: Final = re.compile(rb"(?i:bearer) +(" + re.escape(MARK) + rb"[\w-]{16,128}) *")
_BASIC: Final = re.compile(rb"\s*(?i:basic) +([\w+/=-]+)\s*")
# Any of it may be percent-encoded. (To decode a long path, and look for it then, takes far longer.) A value that goes
# on in another line has the line's end in it.
_ENCODED: Final = b"".join(rb"(?:%c|(?i:%%%02x))" % (byte, byte) for byte in MARK)
_KEY: Final = re.compile(_ENCODED + rb"(?:[\w%-]|\r\n[ \t]+)*")


def key_of(request: http.Request) -> bytes | None:
    """The key of a request; empty where one stands anywhere but in its one ``Authorization``; None without any."""
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
    """Whether there is a member key, or what looks like one, in what a request begins or ends with."""
    trailers = request.data.trailers
    return key_of(request) is not None or (trailers is not None and any(map(_is_held, trailers.fields)))


def hide_key(flow: http.HTTPFlow) -> None:
    """Have a flow show a placeholder for each key in it."""
    request = flow.request
    request.headers.fields = _without(request.headers.fields)
    if request.data.trailers is not None:
        request.data.trailers.fields = _without(request.data.trailers.fields)
    if _KEY.search(request.data.path):
        request.data.path = _KEY.sub(SHOWN_IN_PATHS, request.data.path)


async def take_key_out(flow: http.HTTPFlow) -> bool:
    """Take any key out of the body of a request that is whole; whether there was one.

    Raises UnreadableError for a body that cannot be looked into.
    """
    body, encoding = flow.request.raw_content, flow.request.headers.get("content-encoding", "")
    if not body:
        return False
    if (clean := await look(without_keys, body, encoding)) is None:
        return False
    with_body(flow.request, clean)
    return True


def _without(fields: Fields) -> Fields:
    return tuple((_KEY.sub(SHOWN_IN_NAMES, name), _shown(value)) for name, value in fields)


def _shown(value: bytes) -> bytes:
    shown = _KEY.sub(SHOWN, value)
    return shown if not _holds(shown) else SHOWN


def _may_hold(fields: Fields) -> bool:
    """What nearly every request is done with here."""
    text = b"\n".join([part for field in fields for part in field])
    return MARK in text or BASIC in text


def _is_held(field: tuple[bytes, bytes]) -> bool:
    return MARK in field[0] or _holds(field[1])


def _holds(value: bytes) -> bool:
    """Whether a header's value has a key in it, as it is or as a user's password."""
    if MARK in value:
        return True
    match = _BASIC.fullmatch(value) if BASIC in value else None
    try:
        return match is not None and MARK in binascii.a2b_base64(match[1])
    except ValueError:
        return False
