"""Content-encodings as backends, gateways and attackers write them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import brotli  # type: ignore[import-untyped]
import zstandard

MB = 1 << 20


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("", bytes),
    "identity": ("identity", bytes),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "br": ("br", lambda data: bytes(brotli.compress(data, quality=4))),
}
"""By a name for a test: the encoding as a header says it, and what makes it."""

COMPRESSED = [name for name, (encoding, _) in CODINGS.items() if encoding not in ("", "identity")]


@cache
def bomb(name: str, size: int = 512 * MB, byte: bytes = b" ") -> tuple[str, bytes]:
    """The encoding, and a body of it that inflates to so much."""
    encoding, encode = CODINGS[name]
    if encoding == "zstd":
        stream: Any = zstandard.ZstdCompressor().compressobj()
    elif encoding == "br":
        return encoding, encode(byte * size)
    else:
        bits = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}[encoding]
        stream = zlib.compressobj(wbits=bits)
    made = [stream.compress(byte * MB) for _ in range(size // MB)]
    return encoding, b"".join([*made, stream.flush()])
