"""What a stream of events says as it passes by, wherever it is cut and however it is compressed. Pure.

`Beginning` looks at the first events, which are held: does the backend answer, or has it failed before anything was
said? `Reading` looks at all of a stream that is passed on: what has been said cannot be taken back, but it is
learned.
"""

from __future__ import annotations

import re
from typing import Any, Final

from codexpool.protocol import frames
from codexpool.protocol.inflate import Inflater, TooLongError, UnreadableError
from codexpool.protocol.token_usage import Meter, Tokens

MOST: Final = 1 << 20
"""Bytes of a beginning that are looked at; whatever is longer is an answer. (The first events may repeat what was
asked.) Also the bytes of an event that is read later on."""

MOST_AT_ONCE: Final = 8 * 2**20
"""Bytes that one piece of a stream is inflated to. No text is packed as tightly as one that has more."""

EVENTS_AT_ONCE: Final = 10_000
"""Events in one piece of a compressed stream, about: a few kilobytes have room for a million."""

FAILURES: Final = frozenset({frames.FAILED, frames.ERROR})
"""Events that say that there is no answer, or no more of it."""

TELLING: Final = FAILURES | {frames.LIMITS}  # Events of a stream that the pool learns from.

_MARKS: Final = tuple(f'"{kind}"'.encode() for kind in TELLING)

_END: Final = re.compile(rb"\n\r?\n")  # Events end with an empty line (HTML Living Standard, 9.2.6).


class Events:
    """Cuts a stream into its events. One of more than `MOST` bytes is left out."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._is_too_long = False

    def take(self, piece: bytes) -> list[bytes]:
        """The events that end in a piece."""
        pending, events, begin = self._pending, [], 0
        searched = max(0, len(pending) - 2)  # The end of an event may have begun in the piece before.
        pending += piece
        for end in _END.finditer(pending, searched):
            if not self._is_too_long:
                events.append(bytes(pending[begin : end.start()]))
            self._is_too_long, begin = False, end.end()
        del pending[:begin]
        if len(pending) > MOST:
            self._is_too_long = True
            del pending[:-2]
        return events

    @property
    def is_between(self) -> bool:
        """Whether a new event begins with the next piece."""
        return not self._pending and not self._is_too_long


class Beginning:
    """Takes the first pieces of a stream until it is known what they are.

    Raises UnreadableError for a content-encoding that nobody knows.
    """

    def __init__(self, encoding: str = "") -> None:
        self._inflater = Inflater(encoding)
        self._events = Events()
        self._taken = 0

    def take(self, piece: bytes) -> dict[str, Any] | bool:
        """The event, if the backend has failed; True if it answers, False if more is to come first.

        Only the ``data`` of an event is looked at. A comment, which keeps the connection open, says that something is
        to be waited for: the client is to see that. What cannot be read is passed on.
        """
        try:
            for text in self._inflater.take(piece):
                self._taken += len(text)
                if _ends_in(text) > EVENTS_AT_ONCE:
                    return True
                for event in self._events.take(text):
                    if (found := _found(event)) is not False:
                        return found
                if self._taken > MOST:
                    return True
        except UnreadableError:
            return True
        return False


class Reading:
    """Reads an answer that is passed on: the tokens at its end, and the events that the pool learns from.

    What cannot be inflated is not read, and passed on all the same.
    """

    def __init__(self, encoding: str, *, is_metered: bool, has_events: bool) -> None:
        self.has_failed = False
        """Whether the stream has said that it failed."""
        self._meter = Meter() if is_metered else None
        self._events = Events() if has_events else None
        self._inflater: Inflater | None = None
        self._is_readable = True
        try:
            self._inflater = Inflater(encoding) if encoding not in ("", "identity") else None
        except UnreadableError:
            self._is_readable = False

    def take(self, piece: bytes) -> list[dict[str, Any]]:
        """See a piece pass by; the events in it that the pool learns from."""
        if not self._is_readable:
            return []
        if self._inflater is None:
            return self._read(piece)
        found: list[dict[str, Any]] = []
        size = events = 0
        try:
            for text in self._inflater.take(piece):
                size += len(text)
                events += _ends_in(text)
                if size > MOST_AT_ONCE or events > EVENTS_AT_ONCE:
                    raise TooLongError(f"a piece of {size} bytes and {events} events")
                found += self._read(text)
        except UnreadableError:
            self._is_readable = False
        return found

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of the turn, if its end has passed."""
        return self._meter.tokens if self._meter is not None and self._is_readable else None

    def _read(self, text: bytes) -> list[dict[str, Any]]:
        if self._meter is not None:
            self._meter.passed(text)
        if self._events is None:
            return []
        # Nearly every piece is some whole events, none of which is of interest: this is on the path of each.
        if self._events.is_between and text.endswith(b"\n\n") and not _is_marked(text):
            return []
        found: dict[str, bytes] = {}
        for event in self._events.take(text):
            data = _data(event) if _is_marked(event) else b""
            if data and (kind := frames.kind(data)) in TELLING:
                found[kind] = data  # Of several gauges the last one counts.
                if kind in FAILURES:
                    self.has_failed, self._events = True, None  # Nothing comes after that.
                    break
        return [frames.parsed(data) for data in found.values()]


def _found(event: bytes) -> dict[str, Any] | bool:
    """See `Beginning.take`; of one event."""
    data = _data(event)
    kind = frames.kind(data) if data else ""
    if kind in FAILURES:
        return frames.parsed(data)
    return kind not in frames.PRELUDE


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


def _ends_in(text: bytes) -> int:
    """The events that end in a text, or nearly all of them."""
    return text.count(b"\n\n") + text.count(b"\n\r\n")


def _is_marked(text: bytes) -> bool:
    return any(mark in text for mark in _MARKS)
