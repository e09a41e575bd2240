"""A request without its encrypted reasoning: another account has issued that, and the backend does not take it. Pure.

The reasoning is the model's own notes, which only the backend can read. Without them the conversation is whole: what
was said, called and answered stays (codex-protocol section 3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

import zstandard

from codexpool.wire.frames import dumped

KEY = "encrypted_content"

LONGEST = 256 * 2**20
"""Bytes of a body that is decoded; no history is that long."""


class UnreadableError(ValueError):
    """A body that is no JSON object, or is encoded in a way no client uses."""


def lighter(body: bytes, encoding: str, known: Collection[bytes] | None) -> tuple[bytes, set[bytes]] | None:
    """The body, encoded as before, without the encrypted content of ``known`` digests (None: without any).

    The second value are the digests of what was left out. None where there is nothing to leave out. Raises
    UnreadableError.
    """
    document = _document(body, encoding)
    items = document.get("input")
    if not isinstance(items, list):
        return None
    gone: set[bytes] = set()

    def is_foreign(content: str) -> bool:
        if known is not None and digest(content) not in known:
            return False
        gone.add(digest(content))
        return True

    kept = list(_without(items, is_foreign))
    if not gone:
        return None
    return _encoded(dumped({**document, "input": kept}), encoding), gone


def has_encrypted(body: bytes, encoding: str) -> bool:
    """Whether there is anything that `lighter` could leave out."""
    try:
        items = _document(body, encoding).get("input")
    except UnreadableError:
        return False
    return isinstance(items, list) and any(_encrypted(item) is not None for item in items)


def digest(content: str) -> bytes:
    """What an encrypted content is known by."""
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=12).digest()


def _without(items: list[Any], is_foreign: Callable[[str], bool]) -> Iterator[Any]:
    """The items less the foreign reasoning. Whatever else is encrypted (a compacted history) is not ours to lose."""
    for item in items:
        content = _encrypted(item)
        if content is None or not is_foreign(content):
            yield item


def _encrypted(item: Any) -> str | None:
    """The encrypted content of a reasoning item."""
    content = item.get(KEY) if isinstance(item, dict) and item.get("type") == "reasoning" else None
    return content if isinstance(content, str) and content else None


def _document(body: bytes, encoding: str) -> dict[str, Any]:
    try:
        if encoding == "zstd":
            stream = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
            body = stream.read(LONGEST)
        elif encoding not in ("", "identity"):
            raise UnreadableError(f"content-encoding {encoding}")
        document = json.loads(body)
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    if not isinstance(document, dict):
        raise UnreadableError("no JSON object")
    return document


def _encoded(body: bytes, encoding: str) -> bytes:
    return zstandard.ZstdCompressor().compress(body) if encoding == "zstd" else body
