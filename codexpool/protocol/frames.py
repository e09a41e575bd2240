"""WebSocket frames: what the backend's say, and the one that makes a client connect again. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from codexpool.protocol.bounded_json import loads
from codexpool.protocol.errors import unpacked
from codexpool.protocol.headers import PLACEHOLDER, TURN_STATE

_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([\w.]+)"')

_GENERATE = b'"generate"'

_MODEL = re.compile(rb'"model"\s*:\s*"([\w./:-]{1,64})"')

ERROR: Final = "error"
CREATE: Final = "response.create"
FAILED: Final = "response.failed"
LIMITS: Final = "codex.rate_limits"
METADATA: Final = "response.metadata"

PRELUDE: Final = frozenset({"response.created", "response.in_progress", LIMITS, METADATA, "codex.response.metadata"})
"""Events that come before anything a person could see of an answer."""

ENDS: Final = frozenset({"response.completed", "response.incomplete", FAILED, ERROR})
"""Events after which nothing of an answer comes any more."""


def kind(message: bytes) -> str:
    """The ``type`` of a message; empty where it has none. Nearly every one begins with it, and is not parsed."""
    if (match := _TYPE.match(message)) is not None:
        return match[1].decode()
    return str(parsed(message).get("type") or "")


def begins_turn(message: bytes) -> bool:
    """Whether a client's message asks the model something. As it connects it sends one that asks nothing."""
    return kind(message) == CREATE and (_GENERATE not in message or parsed(message).get("generate") is not False)


def model_of(message: bytes) -> str:
    """The model that a client's message asks, which it says near its beginning; empty where it does not."""
    match = _MODEL.search(message, 0, 1024)
    return match[1].decode() if match is not None else ""


def parsed(message: bytes) -> dict[str, Any]:
    """The JSON object of a message; an empty one where it is none."""
    try:
        document = loads(message)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def status_of(frame: Mapping[str, Any]) -> int:
    """The status of an error frame, as of an answer over HTTP; 0 where it has none."""
    for name in ("status", "status_code"):
        if isinstance(status := frame.get(name), int) and not isinstance(status, bool):
            return status
    return 0


def headers_of(frame: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers that come with a frame, by lower-case name. None has a line break in it, which would make two."""
    headers = frame.get("headers")
    if not isinstance(headers, dict):
        return {}
    return {
        str(name).lower().encode("latin-1", "replace"): str(value).encode("latin-1", "replace")
        for name, value in headers.items()
        if str(name).isprintable() and str(value).isprintable()
    }


def failure_of(frame: Mapping[str, Any]) -> dict[str, Any]:
    """The error object of a ``response.failed``."""
    response = frame.get("response")
    error = response.get("error") if isinstance(response, dict) else None
    return error if isinstance(error, dict) else {}


def connect_again() -> bytes:
    """The frame on which a client lets go of its socket and connects anew, with all of its history, without a word.

    It is what the backend says to a socket that is an hour old. One for each request to the model goes unseen; with
    ``retry-after: 0`` the client is back within 20 ms (found by experiment: docs/when-no-identity-can-serve.md).
    """
    error = {
        "type": "invalid_request_error",
        "code": "websocket_connection_limit_reached",
        "message": "codexpool: connect again, another identity serves this session",
    }
    return json.dumps({"type": ERROR, "status": 400, "error": error, "headers": {"retry-after": "0"}}).encode()


def limited(error: Mapping[str, Any], promo: str) -> bytes:
    """The error frame of a limit; ``promo`` is what the client shows of it, before the time."""
    return json.dumps(
        {"type": ERROR, "status": 429, "error": error, "headers": {"x-codex-promo-message": promo}}
    ).encode()


def wait(message: str, seconds: int) -> bytes:
    """The error frame upon which a client waits so many seconds by itself, and asks once more."""
    error = {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": message}
    return json.dumps(
        {"type": ERROR, "status": 429, "error": error, "headers": {"retry-after": str(seconds)}}
    ).encode()


def scrubbed(message: bytes, token: str, name: str) -> bytes:
    """A frame without the token that it repeats, plain or as base64 in a header."""
    secret, shown = token.encode(), PLACEHOLDER.format(name).encode()
    if b"x-error-json" in message.lower():
        frame = parsed(message)
        headers = frame.get("headers")
        if isinstance(headers, dict):
            kept = {key: value for key, value in headers.items() if secret not in unpacked(str(value))}
            if len(kept) < len(headers):
                message = dumped({**frame, "headers": kept})
    return message.replace(secret, shown)


def unservable(message: str) -> bytes:
    """The frame that ends a turn with a text, which is shown as it is."""
    error = {"code": "invalid_prompt", "message": message}
    response = {"id": "resp_codexpool", "object": "response", "status": "failed", "output": [], "error": error}
    return json.dumps({"type": FAILED, "response": response}).encode()


def turn_state(message: bytes) -> str | None:
    """The turn state that a client's message carries in its ``client_metadata``."""
    if TURN_STATE not in message:
        return None
    metadata = parsed(message).get("client_metadata")
    value = metadata.get(TURN_STATE.decode()) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else None


def without_turn_state(message: bytes) -> bytes:
    """The message without it."""
    document = parsed(message)
    del document["client_metadata"][TURN_STATE.decode()]
    return dumped(document)


def dumped(document: Mapping[str, Any]) -> bytes:
    """A document, in ASCII: mitmproxy cuts a message that was changed, and a letter of several bytes with it."""
    return json.dumps(document, separators=(",", ":")).encode()
