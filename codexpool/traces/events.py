"""Events, in the schema of docs/events.md.

An event is created on the path of a request, so its document is only made when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from codexpool.common.iso_time import iso_time
from codexpool.redaction import redact_text
from codexpool.traces.trace import TurnTrace

VERSION = 1


class Kind(StrEnum):
    """The kind of an event, ``event`` in its document; docs/events.md explains each."""

    REQUEST = "request"
    TURN = "turn"
    SOCKET = "socket"
    IDENTITY = "identity"
    MOVE = "move"
    BREAKER = "breaker"
    LOST = "lost"
    START = "start"
    STOP = "stop"


@dataclass(slots=True)
class Event:
    """An event. ``at`` is in unix seconds; ``number`` counts the events since the proxy was started.

    ``request`` is a `Trace.summary`.
    """

    kind: Kind
    at: float
    request: dict[str, Any] | None = None
    turn: TurnTrace | None = None
    identity: str | None = None
    status: int | None = None
    was: str | None = None
    becomes: str | None = None
    text: str = ""
    number: int | None = 0
    _json: bytes | None = None

    @property
    def json(self) -> bytes:
        """Return the document as one line of ASCII, without control characters; made once for all readers."""
        if self._json is None:
            self._json = json.dumps(self.document(), separators=(",", ":"), allow_nan=False).encode()
        return self._json

    def document(self) -> dict[str, Any]:
        """Return the event as a JSON document: always the same keys, and no secret."""
        request, turn = self.request or {}, self.turn
        served = request if self.kind is Kind.REQUEST else {}
        bytes_out, bytes_in, milliseconds = self._sizes_and_time()
        return {
            "version": VERSION,
            "number": self.number,
            "time": moment(self.at),
            "event": str(self.kind),
            "flow": request.get("flow"),
            "client": request.get("client"),
            **{name: _safe(request.get(name)) for name in ("member", "session", "model")},
            "identity": _safe(self.identity),
            **{name: _safe(request.get(name)) for name in ("method", "host", "path")},
            "status": self.status,
            "attempts": served.get("attempts"),
            "milliseconds": milliseconds,
            "outcome": _safe(turn.outcome) if turn is not None else None,
            "bytes_out": bytes_out,
            "bytes_in": bytes_in,
            "refusals": [redact_text(text) for text in served.get("refusals", ())],
            "was": _safe(self.was),
            "becomes": _safe(self.becomes),
            "text": redact_text(self._in_words()),
        }

    def _sizes_and_time(self) -> tuple[int | None, int | None, float | None]:
        """Return the bytes that were sent and received, and the milliseconds it took, where these are known."""
        request, is_socket = self.request, self.kind is Kind.SOCKET
        if self.turn is not None:
            return self.turn.bytes_out, self.turn.bytes_in, self.turn.milliseconds
        if request is None or self.becomes == "open" or not (is_socket or self.kind is Kind.REQUEST):
            return None, None, None
        size = request["bytes_in"] if is_socket or self.status != 101 else None
        return request["bytes_out"], size, round((self.at - request["at"]) * 1000, 1)

    def _in_words(self) -> str:
        request, identity = self.request, self.identity or "no identity"
        details = f" ({self.text})" if self.text else ""
        match self.kind:
            case Kind.REQUEST if request is not None:
                tries = f" after {request['attempts']} attempts" if request["attempts"] > 1 else ""
                answer = request["error"] if self.status is None else self.status
                return f"{request['method']} {request['path']}: {answer}, {identity}{tries}"
            case Kind.TURN if self.turn is not None:
                return f"turn on the socket of {identity}: {self.turn.outcome}"
            case Kind.SOCKET:
                return f"socket of {identity} {self.becomes}{f': {self.text}' if self.text else ''}"
            case Kind.IDENTITY:
                return f"{identity}: {self.was} -> {self.becomes}{details}"
            case Kind.MOVE if request is not None:
                return f"session {request['session']}: {self.was or 'a removed identity'} -> {self.becomes}"
            case _:
                return self.text


def moment(at: float) -> str:
    """Format a time as events have it: UTC, to the millisecond."""
    return iso_time(at, "milliseconds")


def _safe(text: str | None) -> str | None:
    return None if text is None else redact_text(text)
