"""Streams in a content-encoding, as a backend may send them: each piece can be read as it comes."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import brotli  # type: ignore[import-untyped]
import zstandard

Coder = tuple[Callable[[bytes], bytes], Callable[[], bytes]]
"""What compresses a piece, all of which can be read then, and what ends the stream."""


def _gzip(bits: int) -> Coder:
    stream = zlib.compressobj(wbits=bits)
    return lambda piece: stream.compress(piece) + stream.flush(zlib.Z_SYNC_FLUSH), stream.flush


def _zstd() -> Coder:
    stream = zstandard.ZstdCompressor().compressobj()
    block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return lambda piece: stream.compress(piece) + stream.flush(block), stream.flush


def _brotli() -> Coder:
    stream: Any = brotli.Compressor()
    return lambda piece: stream.process(piece) + stream.flush(), stream.finish


CODERS: Final[dict[str, Callable[[], Coder]]] = {
    "zstd": _zstd,
    "gzip": lambda: _gzip(zlib.MAX_WBITS | 16),
    "br": _brotli,
    "deflate": lambda: _gzip(zlib.MAX_WBITS),
}
"""By content-encoding, the preferred one first."""


def accepted(accept_encoding: str) -> str:
    """The content-encoding for a client that says what it understands; empty where that is none of these."""
    offers = [offer.partition(";") for offer in accept_encoding.lower().split(",")]
    names = {name.strip() for name, _, weight in offers if weight.replace(" ", "") not in ("q=0", "q=0.0")}
    return next((coding for coding in CODERS if coding in names), "")


async def compressed(pieces: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """The pieces of a stream, compressed."""
    take, end = CODERS[coding]()
    async for piece in pieces:
        yield take(piece)
    yield end()
