"""Removes member keys from what a member's client sends. Pure.

The commands that the model runs see the environment of the client, and the key in it (openai/codex 0.169.0, by
experiment). If one prints it, the next request has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import zstandard

from codexpool.protocol.frames import dumped, parsed
from codexpool.protocol.inflate import UnreadableError, pieces
from codexpool.tokens.member_key import PREFIX

MARK: Final = PREFIX.encode()

SHOWN: Final = b"(member key, removed by codexpool)"  # In place of a key.

_KEY: Final = re.compile(re.escape(MARK) + rb"[\w-]{16,128}")
_LONGEST_KEY: Final = len(MARK) + 128


def without_keys(body: bytes, encoding: str, most: int) -> bytes | None:
    """Remove the keys from a body, encoded as before; None if it has none.

    Raise UnreadableError for a body that cannot be read, TooLongError beyond ``most`` bytes.
    """
    if encoding not in ("", "identity", "zstd"):
        raise UnreadableError(f"content-encoding {encoding[:32]}")
    size, has_any = 0, False
    for text, has_key in _cleaned(pieces(body, encoding, most)):
        size += len(text)
        has_any |= has_key
    if not has_any:
        return None
    clean = (text for text, _ in _cleaned(pieces(body, encoding, most)))
    if encoding != "zstd":
        return b"".join(clean)
    stream = zstandard.ZstdCompressor().compressobj(size=size)
    return b"".join([*map(stream.compress, clean), stream.flush()])


def message_without_keys(message: bytes) -> bytes | None:
    """Remove the keys from a WebSocket message; None if it has none."""
    if MARK not in message or not _KEY.search(message):
        return None
    clean = _KEY.sub(SHOWN, message)
    document = parsed(clean)
    return dumped(document) if document else clean


def _cleaned(body: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The pieces without any key, and whether there was one. A key may begin in one and end in the next."""
    pending = b""
    for piece in body:
        text = pending + piece
        # A key that begins before this ends in this piece.
        to = max(0, len(text) - _LONGEST_KEY)
        whole = [match.span() for match in _KEY.finditer(text) if match.start() < to]
        to = max(to, whole[-1][1]) if whole else to
        pending = text[to:]
        yield (_KEY.sub(SHOWN, text[:to]), True) if whole else (text[:to], False)
    yield _KEY.sub(SHOWN, pending), _KEY.search(pending) is not None
