"""Events, in the schema of docs/events.md.

An event is created on the path of a request, so it only keeps references; its document is made when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from codexpool.redaction import redact_text
from codexpool.traces.trace import Seen, TurnTrace

VERSION = 1


class Kind(StrEnum):
    """The kind of an event; ``event`` in its document."""

    REQUEST = "request"
    """A request has its answer; a WebSocket its handshake."""
    TURN = "turn"
    """A request for the model on an open WebSocket has its answer."""
    SOCKET = "socket"
    """A WebSocket was opened or closed."""
    IDENTITY = "identity"
    """The status of an identity has changed."""
    MOVE = "move"
    """A session is served by another identity from now on."""
    BREAKER = "breaker"
    """The circuit breaker has opened or closed."""
    LOST = "lost"
    """Events were dropped: the file of events had no room."""
    START = "start"
    STOP = "stop"


@dataclass(slots=True)
class Event:
    """An event. ``at`` is in unix seconds; ``number`` counts the events since the proxy was started."""

    kind: Kind
    at: float
    request: Seen | None = None
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
        request, turn = self.request, self.turn
        served = request if self.kind is Kind.REQUEST else None
        return {
            "version": VERSION,
            "number": self.number,
            "time": moment(self.at),
            "event": str(self.kind),
            "flow": request.flow if request is not None else None,
            "client": request.client if request is not None else None,
            "member": _safe(request.member or None) if request is not None else None,
            "session": _safe(request.session) if request is not None else None,
            "model": _safe(request.model or None) if request is not None else None,
            "identity": _safe(self.identity),
            "method": _safe(request.method) if request is not None else None,
            "host": _safe(request.host) if request is not None else None,
            "path": _safe(request.path) if request is not None else None,
            "status": self.status,
            "attempts": served.attempts if served is not None else None,
            "milliseconds": turn.milliseconds if turn is not None else self._milliseconds(),
            "outcome": _safe(turn.outcome) if turn is not None else None,
            "bytes_out": served.bytes_out if served is not None else None,
            "bytes_in": turn.bytes_in if turn is not None else self._bytes_in(),
            "refusals": [redact_text(text) for text in served.refusals] if served is not None else [],
            "was": _safe(self.was),
            "becomes": _safe(self.becomes),
            "text": redact_text(self._in_words()),
        }

    def _milliseconds(self) -> float | None:
        if self.request is None or self.kind not in (Kind.REQUEST, Kind.SOCKET) or self.becomes == "open":
            return None
        return round((self.at - self.request.at) * 1000, 1)

    def _bytes_in(self) -> int | None:
        if self.request is None or self.becomes == "open":
            return None
        counts = self.kind is Kind.SOCKET or (self.kind is Kind.REQUEST and self.status != 101)
        return self.request.bytes_in if counts else None

    def _in_words(self) -> str:
        """One line for people."""
        request, who = self.request, self.identity or "nobody"
        match self.kind:
            case Kind.REQUEST if request is not None:
                tries = f" after {request.attempts} attempts" if request.attempts > 1 else ""
                said = request.error if self.status is None else str(self.status)
                return f"{request.method} {request.path}: {said}, {who}{tries}"
            case Kind.TURN if self.turn is not None:
                return f"turn on the socket of {who}: {self.turn.outcome}"
            case Kind.SOCKET:
                return f"socket of {who} {self.becomes}{f': {self.text}' if self.text else ''}"
            case Kind.IDENTITY:
                return f"{who}: {self.was} -> {self.becomes}{f' ({self.text})' if self.text else ''}"
            case Kind.MOVE if request is not None:
                return f"session {request.session}: {self.was or 'somebody who has left'} -> {self.becomes}"
            case _:
                return self.text


def moment(at: float) -> str:
    """Format a time as events have it: UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _safe(text: str | None) -> str | None:
    return None if text is None else redact_text(text)
