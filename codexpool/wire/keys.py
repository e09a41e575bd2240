"""Member keys out of what a member's client says: they stay here, whatever a body holds. Pure.

A key that is in the environment of a client is seen by the commands that the model runs there (openai/codex 0.169.0,
by experiment). One that prints it has it in the next request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import zstandard

from codexpool.members.keys import PREFIX
from codexpool.wire.frames import dumped, parsed
from codexpool.wire.lighter import UnreadableError

MARK: Final = PREFIX.encode()

SHOWN: Final = b"(member key, removed by codexpool)"
"""In place of a key."""

PIECE: Final = 1 << 20
"""Bytes of a body that are looked at in one piece."""

LONGEST: Final = 64 * 2**20
"""Bytes of a body that is read; no history is that long."""

AT_ONCE: Final = 2 * PIECE
"""Bytes of a body that is looked through at once; of a longer one, or one that does not say how long it is, a thread
does so."""

_KEY: Final = re.compile(re.escape(MARK) + rb"[\w-]{16,128}")


def without_keys(body: bytes, encoding: str) -> bytes | None:
    """The body without any key, encoded as before; None where there is none in it.

    Raises UnreadableError for one that cannot be looked into.
    """
    if encoding in ("", "identity"):
        return _KEY.sub(SHOWN, body) if _KEY.search(body) else None
    if encoding != "zstd":
        raise UnreadableError(f"content-encoding {encoding}")
    try:
        if not _is_in(_pieces(body)):
            return None
        return zstandard.ZstdCompressor().compress(_KEY.sub(SHOWN, b"".join(_pieces(body))))
    except zstandard.ZstdError as error:
        raise UnreadableError(str(error)) from error


def takes_long(body: bytes, encoding: str) -> bool:
    """Whether an event loop would be kept from its work meanwhile."""
    if encoding != "zstd":
        return len(body) > AT_ONCE
    try:
        return not 0 <= zstandard.frame_content_size(body) <= AT_ONCE
    except zstandard.ZstdError:
        return False


def message_without_keys(message: bytes) -> bytes | None:
    """A message of a WebSocket without any key; None where there is none in it."""
    if MARK not in message or not _KEY.search(message):
        return None
    clean = _KEY.sub(SHOWN, message)
    document = parsed(clean)
    return dumped(document) if document else clean


def _is_in(pieces: Iterator[bytes]) -> bool:
    """Whether there is a key in a body: one may begin in one piece and end in the next."""
    before = b""
    for piece in pieces:
        text = before + piece
        if MARK in text and _KEY.search(text):
            return True
        before = text[-256:]
    return False


def _pieces(body: bytes) -> Iterator[bytes]:
    stream = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
    read = 0
    while piece := stream.read(PIECE):
        read += len(piece)
        if read > LONGEST:
            raise UnreadableError(f"more than {LONGEST} bytes")
        yield piece
