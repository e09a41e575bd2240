"""WebSocket frames: what the backend's say, and the one that makes a client connect again. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from codexpool.protocol.bounded_json import loads
from codexpool.protocol.errors import unpacked
from codexpool.protocol.headers import PLACEHOLDER, TURN_STATE

ERROR: Final = "error"
CREATE: Final = "response.create"
FAILED: Final = "response.failed"
LIMITS: Final = "codex.rate_limits"
METADATA: Final = "response.metadata"
ALSO_METADATA: Final = "codex.response.metadata"

PRELUDE: Final = frozenset({"response.created", "response.in_progress", LIMITS, METADATA, ALSO_METADATA})
"""Events that come before anything the client shows of an answer."""

ENDS: Final = frozenset({"response.completed", "response.incomplete", FAILED, ERROR})  # Events that end an answer.

_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([\w.]+)"')
_MODEL = re.compile(rb'"model"\s*:\s*"([\w./:-]{1,64})"')


def kind(message: bytes) -> str:
    """Return the ``type`` of a message; empty if it has none. Nearly every one begins with it, and is not parsed."""
    return kind_at_once(message) or str(parsed(message).get("type") or "")


def kind_at_once(message: bytes) -> str:
    """Return the ``type`` of a message that begins with it; empty for any other."""
    match = _TYPE.match(message)
    return match[1].decode() if match is not None else ""


def begins_turn(message: bytes) -> bool:
    """Return whether a client's message is a turn. (The one it sends when it connects has ``"generate": false``.)"""
    return kind(message) == CREATE and (b'"generate"' not in message or parsed(message).get("generate") is not False)


def model_of(message: bytes) -> str:
    """Return the model that a client's message names near its beginning; empty if it does not."""
    match = _MODEL.search(message, 0, 1024)
    return match[1].decode() if match is not None else ""


def parsed(message: bytes) -> dict[str, Any]:
    """Return the JSON object of a message; an empty one if it is none."""
    try:
        document = loads(message)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def inner(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object of that name in another one; an empty one if there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def dumped(document: Mapping[str, Any]) -> bytes:
    """Encode a document in ASCII: mitmproxy cuts a changed message into pieces, and through longer characters."""
    return json.dumps(document, separators=(",", ":")).encode()


def status_of(frame: Mapping[str, Any]) -> int:
    """Return the status of an error frame, as of an answer over HTTP; 0 if it has none."""
    for name in ("status", "status_code"):
        if isinstance(status := frame.get(name), int) and not isinstance(status, bool):
            return status
    return 0


def headers_of(frame: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the headers of a frame by lower-case name; without any that has a line break, which would make two."""
    return {
        str(name).lower().encode("latin-1", "replace"): str(value).encode("latin-1", "replace")
        for name, value in inner(frame, "headers").items()
        if str(name).isprintable() and str(value).isprintable()
    }


def with_header(message: bytes, name: bytes, value: bytes | None) -> bytes:
    """Return a frame with another value of a header that it has, or without it; ``name`` is in lower case."""
    frame = parsed(message)
    header = name.decode()
    kept = {key: old for key, old in inner(frame, "headers").items() if key.lower() != header}
    if value is not None:
        kept[header] = value.decode()
    return dumped({**frame, "headers": kept})


def failure_of(frame: Mapping[str, Any]) -> dict[str, Any]:
    return inner(inner(frame, "response"), "error")


def connect_again() -> bytes:
    """Return the frame that makes a client reconnect with its whole history, without showing anything.

    The backend sends it to a socket that is an hour old. One for each request of the model goes unseen; with
    ``retry-after: 0`` the client is back within 20 ms (by experiment: docs/when-no-identity-can-serve.md).
    """
    error = {
        "type": "invalid_request_error",
        "code": "websocket_connection_limit_reached",
        "message": "codexpool: connect again, another identity serves this session",
    }
    return _error(400, error, {"retry-after": "0"})


def limited(error: Mapping[str, Any], promo: str) -> bytes:
    """Return the error frame of a limit; the client shows ``promo`` before the time."""
    return _error(429, error, {"x-codex-promo-message": promo})


def wait(message: str, seconds: int) -> bytes:
    """Return the error frame that makes a client wait so many seconds and ask again."""
    error = {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": message}
    return _error(429, error, {"retry-after": str(seconds)})


def unservable(message: str) -> bytes:
    """Return the frame that ends a turn with a text, which is shown as it is."""
    error = {"code": "invalid_prompt", "message": message}
    response = {"id": "resp_codexpool", "object": "response", "status": "failed", "output": [], "error": error}
    return json.dumps({"type": FAILED, "response": response}).encode()


def _error(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    return json.dumps({"type": ERROR, "status": status, "error": error, "headers": headers}).encode()


def scrubbed(message: bytes, secrets: Iterable[str], name: str) -> bytes:
    """Return a frame without the secrets that it repeats, plain or as base64 in a header."""
    shown = PLACEHOLDER.format(name).encode()
    for secret in (secret.encode() for secret in secrets):
        if b"x-error-json" in message.lower():
            frame = parsed(message)
            headers = inner(frame, "headers")
            kept = {key: value for key, value in headers.items() if secret not in unpacked(str(value))}
            if len(kept) < len(headers):
                message = dumped({**frame, "headers": kept})
        message = message.replace(secret, shown)
    return message


def turn_state(message: bytes) -> str | None:
    if TURN_STATE not in message:
        return None
    value = inner(parsed(message), "client_metadata").get(TURN_STATE.decode())
    return value if isinstance(value, str) else None


def without_turn_state(message: bytes) -> bytes:
    document = parsed(message)
    del document["client_metadata"][TURN_STATE.decode()]
    return dumped(document)
