"""Removes member keys from what a member's client sends. Pure.

The commands that the model runs see the environment of the client, and the key in it (openai/codex 0.169.0, by
experiment). If one prints it, the next request has it.
"""

from __future__ import annotations

import re
from typing import Final

import zstandard

from codexpool.protocol.frames import dumped, parsed
from codexpool.protocol.inflate import UnreadableError, inflated, pieces
from codexpool.tokens.member_key import PREFIX

MARK: Final = PREFIX.encode()
SHOWN: Final = b"(member key, removed by codexpool)"

_KEY: Final = re.compile(re.escape(MARK) + rb"[\w-]{16,128}")


def without_keys(body: bytes, encoding: str, most: int) -> bytes | None:
    """Remove the keys from a body, encoded as before; None if it has none.

    Raise UnreadableError for a body that cannot be read, TooLongError beyond ``most`` bytes.
    """
    if encoding not in ("", "identity", "zstd"):
        raise UnreadableError(f"content-encoding {encoding[:32]}")
    if not _may_have_key(body, encoding, most):
        return None
    clean, count = _KEY.subn(SHOWN, inflated(body, encoding, most))
    if not count:
        return None
    return zstandard.ZstdCompressor().compress(clean) if encoding == "zstd" else clean


def _may_have_key(body: bytes, encoding: str, most: int) -> bool:
    """Search a body piece by piece: one that inflates beyond ``most`` bytes must not take as much memory."""
    if encoding != "zstd" and len(body) <= most:
        return MARK in body
    found, tail = False, b""
    for piece in pieces(body, encoding, most):
        text = tail + piece
        found = found or MARK in text
        tail = text[-len(MARK) :]
    return found


def message_without_keys(message: bytes) -> bytes | None:
    """Remove the keys from a WebSocket message; None if it has none."""
    if MARK not in message or not _KEY.search(message):
        return None
    clean = _KEY.sub(SHOWN, message)
    document = parsed(clean)
    return dumped(document) if document else clean
