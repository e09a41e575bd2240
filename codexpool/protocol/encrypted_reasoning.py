"""A request without its encrypted reasoning, which the backend refuses if another account issued it. Pure.

The reasoning is the model's own notes, which only the backend can read. Without them the conversation is complete:
messages, calls and results stay (docs/protocol.md, section 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Final

import zstandard

from codexpool.protocol.bounded_json import loads
from codexpool.protocol.frames import dumped
from codexpool.protocol.inflate import TooLongError, UnreadableError, inflated

LONGEST: Final = 16 * 2**20  # Bytes of a body, inflated, that something is left out of.
PARTS: Final = 500_000  # Values in it, about.
Left = tuple[bytes, set[bytes]]  # What is left of a body, and the digests of what was left out.


def lighter(body: bytes, encoding: str, known: Collection[bytes] | None, most: int = LONGEST) -> Left | None:
    """Return the body, encoded as before, without the encrypted content of ``known`` digests (None: without any).

    None if there is nothing to leave out. Raise UnreadableError for a body that is no JSON object, is encoded in a
    way no client uses, or is too long; TooLongError beyond ``most`` bytes.
    """
    document = _document(body, encoding, most)
    kept, gone = [], set[bytes]()
    for item in _items(document):
        content = _encrypted(item)
        if content is None or (known is not None and digest(content) not in known):
            kept.append(item)
        else:
            gone.add(digest(content))
    if not gone:
        return None
    made = dumped({**document, "input": kept})
    return zstandard.ZstdCompressor().compress(made) if encoding == "zstd" else made, gone


def has_encrypted(body: bytes, encoding: str, most: int = LONGEST) -> bool:
    """Return whether there is anything that `lighter` could leave out. Raise TooLongError beyond ``most`` bytes."""
    try:
        return any(_encrypted(item) is not None for item in _items(_document(body, encoding, most)))
    except TooLongError:
        raise
    except UnreadableError:
        return False


def digest(content: str) -> bytes:
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=12).digest()


def _encrypted(item: Any) -> str | None:
    """Return the encrypted content of a reasoning item. (A compacted history is encrypted too, but must stay.)"""
    content = item.get("encrypted_content") if isinstance(item, dict) and item.get("type") == "reasoning" else None
    return content if isinstance(content, str) and content else None


def _document(body: bytes, encoding: str, most: int) -> dict[str, Any]:
    if encoding not in ("", "identity", "zstd"):
        raise UnreadableError(f"content-encoding {encoding[:32]}")
    try:
        document = loads(inflated(body, encoding, min(most, LONGEST)), PARTS)
    except TooLongError as error:
        if most < LONGEST:
            raise
        raise UnreadableError(str(error)) from error
    except ValueError as error:
        raise UnreadableError(f"no JSON object ({error})") from error
    if not isinstance(document, dict):
        raise UnreadableError("no JSON object")
    return document


def _items(document: dict[str, Any]) -> list[Any]:
    items = document.get("input")
    return items if isinstance(items, list) else []
