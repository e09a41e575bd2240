"""The tokens of a turn, as the backend counts them at its end. Pure.

They are in the event ``response.completed`` (or ``response.incomplete``), which repeats request and answer and may be
long. ``usage`` comes after both, so the last bytes of a stream are enough.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from codexpool.protocol import frames

KEPT: Final = 16_384  # Bytes of the end of a stream that are searched: little comes after the usage.
HELD: Final = 4 * KEPT  # Bytes of a stream that a meter keeps, unless a single piece is larger.
MOST: Final = 10**9  # Tokens of a turn; a larger number is an error.

_COUNTED: Final = frozenset({"response.completed", "response.incomplete"})

_KEY: Final = b'"usage"'  # A model cannot write this into an answer: in a JSON string the quotes are escaped.
_TRIES: Final = 8  # Places of it that are tried, from the end. The usage is at the last or last but one.


class Tokens(NamedTuple):
    """What a turn has used: ``cached`` are among ``input``, and ``reasoning`` among ``output``."""

    input: int
    cached: int
    output: int
    reasoning: int


def tokens_of(end: bytes) -> Tokens | None:
    """Return the tokens of a turn from the end of its stream, or from its last frame; None if they are not there."""
    end = end[-KEPT:]
    if b"\r" in end:
        end = end.replace(b"\r\n", b"\n")
    begin = len(end)
    while begin > 0 and (key := end.rfind(_KEY, 0, begin)) >= 0:
        before, after = end.rfind(b"\n\n", 0, key), end.find(b"\n\n", key)
        begin = before + 2 if before >= 0 else 0
        if (tokens := _of_event(end[begin : after if after >= 0 else None])) is not None:
            return tokens
    return None


class Meter:
    """Keeps the end of a stream that passes by: references to its last pieces, no copy."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def passed(self, piece: bytes) -> bytes:
        """Take a piece, and return it (see mitmproxy's ``response.stream``)."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > HELD:  # Not for every piece: this is on the path of each.
            while self._size - len(self._pieces[0]) >= KEPT:
                self._size -= len(self._pieces.popleft())
        return piece

    @property
    def tokens(self) -> Tokens | None:
        return tokens_of(b"".join(self._pieces))


def _of_event(event: bytes) -> Tokens | None:
    data = b"\n".join([line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]) or event
    # Usually this saves parsing the request and answer in it, which come first.
    if frames.kind_at_once(data) in _COUNTED and (tokens := _of_rest(data)) is not None:
        return tokens
    if document := frames.parsed(data):
        return _of_document(document) if document.get("type") in _COUNTED else None
    return _of_rest(data)


def _of_rest(rest: bytes) -> Tokens | None:
    """Return the tokens in an event without its beginning. From a key of the response on, brackets match again."""
    at = len(rest)
    for _ in range(_TRIES):
        if (at := rest.rfind(_KEY, 0, at)) < 0:
            return None
        if tokens := _of_document(frames.parsed(b'{"response":{' + rest[at:])):
            return tokens
    return None


def _of_document(document: dict[str, Any]) -> Tokens | None:
    usage = frames.inner(frames.inner(document, "response"), "usage")
    read, written = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if read is None or written is None:
        return None
    cached = _count(frames.inner(usage, "input_tokens_details"), "cached_tokens") or 0
    reasoning = _count(frames.inner(usage, "output_tokens_details"), "reasoning_tokens") or 0
    return Tokens(read, min(cached, read), written, min(reasoning, written))


def _count(of: dict[str, Any], name: str) -> int | None:
    value = of.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None
