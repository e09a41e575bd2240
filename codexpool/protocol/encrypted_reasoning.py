"""A request without its encrypted reasoning: another account has issued that, and the backend does not take it. Pure.

The reasoning is the model's own notes, which only the backend can read. Without them the conversation is complete:
messages, calls and results stay (docs/protocol.md, section 3), byte for byte. The items are parsed one at a time: all
of them at once take many times the memory of the body.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, NamedTuple

import zstandard

from codexpool.protocol.bounded_json import parts_of
from codexpool.protocol.inflate import TooLongError, UnreadableError, inflated

KEY: Final = "encrypted_content"

LONGEST: Final = 16 * 2**20  # Bytes of a body, inflated, that something is left out of.
PARTS: Final = 500_000  # Values in it, about.

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


Left = tuple[bytes, set[bytes]]
"""What is left of a body, and the digests of what was left out."""


class Item(NamedTuple):
    """An item of a conversation: where it stands, and where the next one does; that is its end for the last."""

    begin: int
    end: int
    following: int
    value: Any


def lighter(body: bytes, encoding: str, known: Collection[bytes] | None, most: int = LONGEST) -> Left | None:
    """The body, encoded as before, without the encrypted content of ``known`` digests (None: without any).

    The second value are the digests of what was left out. None where there is nothing to leave out. Raises
    UnreadableError for a body that is no JSON object, is encoded in a way no client uses, or is too long.
    """
    gone: set[bytes] = set()

    def is_foreign(item: Any) -> bool:
        content = _encrypted(item)
        if content is None or (known is not None and digest(content) not in known):
            return False
        gone.add(digest(content))
        return True

    text = _text(body, encoding, most)
    cuts = _cuts(text, is_foreign)
    if not gone:
        return None
    if encoding != "zstd":
        return b"".join(_kept(text, cuts)), gone
    stream = zstandard.ZstdCompressor().compressobj(size=len(text) - sum(end - begin for begin, end in cuts))
    return b"".join([*map(stream.compress, _kept(text, cuts)), stream.flush()]), gone


def has_encrypted(body: bytes, encoding: str, most: int = LONGEST) -> bool:
    """Whether there is anything that `lighter` could leave out. Raises TooLongError beyond ``most`` bytes."""
    try:
        return any(_encrypted(item.value) is not None for item in _items(_text(body, encoding, most)))
    except TooLongError:
        raise
    except UnreadableError:
        return False


def digest(content: str) -> bytes:
    """What an encrypted content is known by."""
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=12).digest()


def _encrypted(item: Any) -> str | None:
    """The encrypted content of a reasoning item. Whatever else is encrypted (a compacted history) is not ours to
    lose."""
    content = item.get(KEY) if isinstance(item, dict) and item.get("type") == "reasoning" else None
    return content if isinstance(content, str) and content else None


def _text(body: bytes, encoding: str, most: int) -> str:
    """A body as a text that has a character for each byte: what is looked for is ASCII."""
    if encoding not in ("", "identity", "zstd"):
        raise UnreadableError(f"content-encoding {encoding[:32]}")
    try:
        text = inflated(body, encoding, min(most, LONGEST))
    except TooLongError as error:
        if most < LONGEST:
            raise
        raise UnreadableError(str(error)) from error
    if parts_of(text) > PARTS:
        raise UnreadableError(f"JSON of more than {PARTS} parts")
    return text.decode("latin-1")


def _items(text: str) -> Iterator[Item]:
    """The items of ``input``. Raises UnreadableError for what is no JSON object."""
    try:
        yield from _input_of(text)
    except (ValueError, IndexError, RecursionError) as error:
        raise UnreadableError(f"no JSON object ({error})") from error


def _input_of(text: str) -> Iterator[Item]:
    at = _behind(text, 0, "{")
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _behind(text, at, ":")
        if name == "input" and text[at] == "[":
            for item in _list_at(text, at):
                at = item.following
                yield item
            at = text.index("]", at) + 1
        else:
            _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] != "}":
            at = _behind(text, at, ",")


def _list_at(text: str, at: int) -> Iterator[Item]:
    at = _behind(text, at, "[")
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        following = _skip(text, end)
        is_last = text[following] == "]"
        following = end if is_last else _behind(text, following, ",")
        yield Item(at, end, following, value)
        if is_last:
            return
        at = following


def _behind(text: str, at: int, mark: str) -> int:
    """Where something begins behind a mark."""
    at = _skip(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark} at {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space is not None else at


def _cuts(text: str, is_gone: Callable[[Any], bool]) -> list[tuple[int, int]]:
    """What to cut out so that the rest is JSON: an item with the comma behind it, and what ends a list with the one
    before."""
    cuts: list[tuple[int, int]] = []
    kept_to = 0
    for item in _items(text):
        if not is_gone(item.value):
            kept_to = item.end
            continue
        if item.following != item.end:
            cuts.append((item.begin, item.following))
            continue
        begin = item.begin
        while cuts and cuts[-1][1] == begin:  # Its neighbours before it go, too.
            begin = cuts.pop()[0]
        cuts.append((kept_to if kept_to and text[kept_to:begin].strip() == "," else begin, item.end))
    return cuts


def _kept(text: str, cuts: list[tuple[int, int]]) -> Iterator[bytes]:
    at = 0
    for begin, end in cuts:
        yield text[at:begin].encode("latin-1")
        at = end
    yield text[at:].encode("latin-1")
