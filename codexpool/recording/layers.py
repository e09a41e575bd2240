"""What a text or a body may be an encoding of, and what it may contain in one. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from codexpool.protocol.inflate import UnreadableError, inflated

_DEPTH: Final = 3
"""How many encodings within one another are undone."""

LONGEST: Final = 64 * 2**20
"""Bytes that a body is inflated to; one that is longer cannot be looked through."""

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_ESCAPED: Final = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PIECE: Final = re.compile(r'"delta"\s*:\s*"((?:[^"\\]|\\.)*)"')


class Leaf:
    """One text or body of a file, with all that is encoded within it."""

    def __init__(self, value: str | bytes, coding: str = "") -> None:
        self.raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        self.is_closed = False
        self.coding = coding

    def layers(self) -> Iterator[tuple[int, bytes]]:
        """It, and what it is after encodings were undone: how many, and what then."""
        data = self.raw
        if self.coding and data:
            try:
                data = inflated(data, self.coding, LONGEST)
            except UnreadableError:
                self.is_closed = True
        yield from _layers(data, 0)


def _layers(data: bytes, depth: int) -> Iterator[tuple[int, bytes]]:
    yield depth, data
    if depth == _DEPTH:
        return
    seen = {data}
    for inner in _undone(data):
        if inner not in seen:
            seen.add(inner)
            yield from _layers(inner, depth + 1)


def _undone(data: bytes) -> Iterator[bytes]:
    """What the data may be an encoding of, and what it may contain in one."""
    if b"%" in data:
        yield unquote_to_bytes(data)
        yield unquote_to_bytes(data.replace(b"+", b" "))
    if b"\\" in data:
        yield _ESCAPED.sub(_unescaped, data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogatepass")
    if b'"delta"' in data:
        pieces = _PIECE.findall(data.decode("utf-8", "surrogateescape"))
        yield "".join(pieces).encode("utf-8", "surrogatepass")
    yield from _decompressed(data)
    runs = [inner for run in _BASE64.findall(data) if (inner := from_base64(run))]
    if runs:
        yield b"\n".join(runs)
        yield b"\n".join(inner for inner in runs if is_printable(inner))
    for codec in ("utf-16-le", "utf-16-be"):
        if data.count(b"\0") * 3 > len(data):
            yield data.decode(codec, "replace").encode("utf-8", "replace")


def _decompressed(data: bytes) -> Iterator[bytes]:
    try:
        if data.startswith(b"\x1f\x8b"):
            yield inflated(data, "gzip", LONGEST)
        elif data.startswith(b"\x28\xb5\x2f\xfd"):
            yield inflated(data, "zstd", LONGEST)
        elif data[:1] == b"\x78":
            yield inflated(data, "deflate", LONGEST)
    except UnreadableError:
        return


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[2])


def from_base64(run: bytes) -> bytes:
    plain = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except binascii.Error:
        return b""


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it may be found: as it is, and as other things are written that have it in them."""
    raw = secret.encode("utf-8", "replace")
    yield from (raw, json.dumps(secret)[1:-1].encode(), quote(raw, safe="").encode(), quote(raw).encode())
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    yield from (secret.encode("utf-16-le", "replace"), secret.encode("utf-16-be", "replace"))
    for start in range(3):  # whatever comes before it, and without what depends on what comes after it
        for encoded in (base64.b64encode(raw[start:]), base64.urlsafe_b64encode(raw[start:])):
            whole = encoded[: len(raw[start:]) // 3 * 4]
            if len(whole) >= 8:
                yield whole


def is_printable(data: bytes) -> bool:
    return all(32 <= byte < 127 or byte in (9, 10, 13) for byte in data)
