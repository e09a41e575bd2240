"""The beginning of a stream of events: does the backend answer, or has it failed before anything was said? Pure."""

from __future__ import annotations

from typing import Any

from codexpool.wire import frames

MOST = 2**20
"""Bytes that are looked at; whatever is longer is an answer. (The first events may repeat what was asked.)"""


class Beginning:
    """Takes the first pieces of a stream until it is known what they are."""

    def __init__(self) -> None:
        self._pending = b""
        self._taken = 0

    def take(self, piece: bytes) -> dict[str, Any] | bool:
        """The error object, if the backend has failed; True if it answers, False if more is to come first.

        Events end with an empty line (HTML Living Standard, 9.2.6); only their ``data`` is looked at. A comment,
        which keeps the connection open, says that something is to be waited for: the client is to see that.
        """
        self._taken += len(piece)
        *events, self._pending = (self._pending + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if not data:
                return True
            kind = frames.kind(data)
            if kind == frames.FAILED:
                return frames.failure_of(frames.parsed(data))
            if kind not in frames.PRELUDE:
                return True
        return self._taken > MOST
