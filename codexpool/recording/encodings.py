"""What a text may contain in another encoding: percent signs, escapes, hex and base64."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

_DEPTH: Final = 3  # encodings within one another that are undone

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){6,}")
_ESCAPED: Final = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def layers(text: str, depth: int = 0) -> Iterator[str]:
    """Yield every text that is encoded in this one, in up to three encodings."""
    if depth == _DEPTH:
        return
    for inner in set(_decoded(text)) - {text, ""}:
        yield inner
        yield from layers(inner, depth + 1)


def _decoded(text: str) -> Iterator[str]:
    if "%" in text:
        yield from (unquote(text), unquote_plus(text))
    if "\\" in text:
        yield _ESCAPED.sub(
            lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[2]), text
        )
    yield from (_text(bytes.fromhex(match[0])) for match in _HEX.finditer(text))
    for match in _BASE64.finditer(text):
        run = match[0].replace("-", "+").replace("_", "/")
        for shift in range(4):  # Characters before it may look like base64, too.
            whole = run[shift:]
            yield _text(_from_base64(whole[: len(whole) - (len(whole) % 4 == 1)]))


def _from_base64(run: str) -> bytes:
    try:
        return base64.b64decode(run + "=" * (-len(run) % 4))
    except binascii.Error:
        return b""


def _text(data: bytes) -> str:
    """Return printable text; empty for anything else, as nearly every run that is not encoded text decodes to."""
    text = data.decode("utf-8", "ignore")
    return text if len(text) >= 6 and sum(map(str.isprintable, text)) * 10 >= len(text) * 9 else ""
