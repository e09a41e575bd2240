"""Compressed streams whose pieces can be read as they arrive."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import brotli  # type: ignore[import-untyped]
import zstandard

Coder = tuple[Callable[[bytes], bytes], Callable[[], bytes]]
"""Functions that compress and flush a piece, and that end the stream."""


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
    """Return the content-encoding for an ``accept-encoding``; empty if it has none of these."""
    offers = [offer.partition(";") for offer in accept_encoding.lower().split(",")]
    names = {name.strip() for name, _, weight in offers if weight.replace(" ", "") not in ("q=0", "q=0.0")}
    return next((coding for coding in CODERS if coding in names), "")


async def compressed(pieces: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """Compress the pieces of a stream."""
    take, end = CODERS[coding]()
    async for piece in pieces:
        yield take(piece)
    yield end()
