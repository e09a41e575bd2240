"""What a stream of events says as it passes by, wherever it is cut and however it is compressed. Pure.

`Beginning` reads the first events, which are held: does the backend answer, or has it failed? `Reading` reads a
stream that is passed on: that cannot be taken back, but the pool learns from it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from codexpool.protocol import frames
from codexpool.protocol.inflate import Inflater, TooLongError, UnreadableError
from codexpool.protocol.token_usage import Meter, Tokens

MOST: Final = 1 << 20
"""Bytes of a beginning, or of a later event, that are read. What is longer is an answer. (The first events may repeat
the request.)"""

MOST_AT_ONCE: Final = 8 * 2**20  # Bytes that one piece is inflated to: real text does not compress so well.
EVENTS_AT_ONCE: Final = 10_000  # In one piece of a compressed stream: a few kilobytes have room for a million.
FAILURES: Final = frozenset({frames.FAILED, frames.ERROR})  # They end an answer early, or say there is none.
TELLING: Final = FAILURES | {frames.LIMITS}  # Events of a stream that the pool learns from.

_PLAIN: Final = frozenset({"", "identity"})

_FAILED, _ERROR, _LIMITS = (f'"{kind}"'.encode() for kind in (frames.FAILED, frames.ERROR, frames.LIMITS))

_END: Final = re.compile(rb"\n\r?\n")  # Events end with an empty line (HTML Living Standard, 9.2.6).
_KIND: Final = re.compile(rb'(?:event:[^\n]*\n)?data:[ \t]*\{[ \t]*"type"[ \t]*:[ \t]*"([\w.]+)"')


class Events:
    """Cuts a stream into its events, and skips one of more than `MOST` bytes."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._is_too_long = False

    def take(self, piece: bytes) -> list[bytes]:
        """Return the events that end in a piece."""
        if piece[-2:] == b"\n\n" and self.is_between and b"\r" not in piece and piece[-3:] != b"\n\n\n":
            return piece[:-2].split(b"\n\n")  # Whole events, as nearly always: nothing is copied to be searched.
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
        return not self._pending and not self._is_too_long


class Beginning:
    """Reads the first pieces of a stream. Raises UnreadableError for an unknown content-encoding."""

    def __init__(self, encoding: str = "") -> None:
        self._inflater = Inflater(encoding) if encoding not in _PLAIN else None
        self._events = Events()
        self._taken = 0

    def take(self, piece: bytes) -> dict[str, Any] | bool:
        """Return the event if the backend has failed; True if it answers, False if that is not clear yet.

        A comment, which keeps the connection open, counts as an answer: the client should see it. So does what cannot
        be read.
        """
        try:
            for text in self._inflater.take(piece) if self._inflater is not None else (piece,):
                self._taken += len(text)
                if _ends_in(text) > EVENTS_AT_ONCE:
                    return True
                for event in self._events.take(text):
                    kind = _kind(event)
                    if kind in FAILURES:
                        return frames.parsed(_data(event))
                    if kind not in frames.PRELUDE:
                        return True
                if self._taken > MOST:
                    return True
        except UnreadableError:
            return True
        return False


class Reading:
    """Reads an answer that is passed on: the tokens at its end, and the events that the pool learns from."""

    def __init__(self, encoding: str, *, is_metered: bool, has_events: bool) -> None:
        self.has_failed = False  # Whether the stream has said that it failed.
        self._meter = Meter() if is_metered else None
        self._events = Events() if has_events else None
        self._inflater: Inflater | None = None
        self._is_readable = True
        try:
            self._inflater = Inflater(encoding) if encoding not in _PLAIN else None
        except UnreadableError:
            self._is_readable = False

    def take(self, piece: bytes) -> list[dict[str, Any]]:
        """Read a piece. Return the events in it that the pool learns from."""
        if self._inflater is None:
            return self._read(piece) if self._is_readable else []
        if not self._is_readable:
            return []
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
        return self._meter.tokens if self._meter is not None and self._is_readable else None

    def _read(self, text: bytes) -> list[dict[str, Any]]:
        if self._meter is not None:
            self._meter.passed(text)
        if self._events is None:
            return []
        # Nearly every piece is some whole events without interest: this check is on the path of each.
        if text[-2:] == b"\n\n" and self._events.is_between and not _is_marked(text):
            return []
        found: dict[str, bytes] = {}
        for event in self._events.take(text):
            if _is_marked(event) and (kind := _kind(event)) in TELLING:
                found[kind] = _data(event)  # Of several gauges the last one counts.
                if kind in FAILURES:
                    self.has_failed, self._events = True, None
                    break
        return [frames.parsed(data) for data in found.values()]


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


def _kind(event: bytes) -> str:
    """Return the ``type`` of an event; empty if it has none. Nearly every one begins with it, and is not copied."""
    if (match := _KIND.match(event)) is not None:
        return match[1].decode()
    data = _data(event)
    return frames.kind(data) if data else ""


def _ends_in(text: bytes) -> int:
    return text.count(b"\n\n") + text.count(b"\n\r\n")


def _is_marked(text: bytes) -> bool:
    """Return whether a text may have an event of `TELLING` in it."""
    return _ERROR in text or _FAILED in text or _LIMITS in text  # A loop would take three times as long.
