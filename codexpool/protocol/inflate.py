"""Bodies and streams without their content-encoding, in pieces of bounded size. Pure.

A few bytes can inflate to gigabytes, so each piece is small, and the caller stops when it has enough. mitmproxy's
``content`` and ``text`` have no such bound: never use them for what comes from outside.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final

import brotli  # type: ignore[import-untyped]
import zstandard

PIECE: Final = 1 << 20  # Bytes of a piece, about: no step gives more than a few times that.
WINDOW: Final = 8 * 2**20  # Bytes of history that a zstd stream may need (the most that RFC 9659 allows).
FRAMES: Final = 1_000  # Frames or members in one go: a megabyte has room for a hundred thousand empty ones.

# Bytes given to a decoder at once.
_ZSTD_SLICE: Final = 64  # Its output cannot be bounded, and a block of 4 bytes can be 128 KiB.
_ZLIB_SLICE: Final = 16_384  # It copies what follows the end of a member.
_BROTLI_SLICE: Final = 4  # Before 1.2 (mitmproxy 11 has such a one) its output cannot be bounded; a block has 16 MiB.


class UnreadableError(ValueError):
    """A body that is damaged, cut short, too long, or encoded in a way no client uses."""


class TooLongError(UnreadableError):
    """A body that is longer than the bound."""


class Inflater:
    """Undoes one content-encoding, piece by piece. Raises UnreadableError for one that it does not know."""

    def __init__(self, encoding: str) -> None:
        if not is_known(encoding):
            raise UnreadableError(f"content-encoding {encoding[:32]}")
        self._decoder: Any = _DECODERS[encoding.strip().lower()]()

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Inflate a piece. Raise UnreadableError if it is damaged."""
        try:
            yield from self._decoder.take(piece)
        except (zlib.error, zstandard.ZstdError, brotli.error) as error:
            raise UnreadableError(str(error)) from error

    @property
    def has_ended(self) -> bool:
        return bool(self._decoder.has_ended)


def is_known(encoding: str) -> bool:
    return encoding.strip().lower() in _DECODERS


def declared_size(body: bytes, encoding: str) -> int:
    """Return the inflated size by the body's own word, which may be wrong; the size of the body if it has none."""
    if encoding.strip().lower() == "zstd":
        try:
            return max(len(body), zstandard.frame_content_size(body))
        except zstandard.ZstdError:
            pass
    return len(body)


def pieces(body: bytes, encoding: str, most: int) -> Iterator[bytes]:
    """Inflate a whole body. Raise UnreadableError, and TooLongError beyond ``most`` bytes."""
    inflater, size = Inflater(encoding), 0
    for piece in inflater.take(body) if body else ():
        size += len(piece)
        if size > most:
            raise TooLongError(f"more than {most} bytes")
        yield piece
    if body and not inflater.has_ended:
        raise UnreadableError("it is cut short")


def inflated(body: bytes, encoding: str, most: int) -> bytes:
    """Inflate a whole body at once. Raise as `pieces` does."""
    return b"".join(pieces(body, encoding, most))


class _Plain:
    has_ended = True

    def take(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), PIECE):
            yield data[at : at + PIECE]


class _Framed:
    """Frames (zstd) or members (gzip), one after the other; ``start`` makes the decoder of the next one."""

    def __init__(self, start: Callable[[], Any], slice_: int) -> None:
        self._start, self._slice = start, slice_
        self._frame: Any = None

    @property
    def has_ended(self) -> bool:
        return self._frame is None

    def take(self, data: bytes) -> Iterator[bytes]:
        frames = count()
        for at in range(0, len(data), self._slice):
            rest = data[at : at + self._slice]
            while rest:
                if self._frame is None:
                    if next(frames) == FRAMES:
                        raise UnreadableError(f"more than {FRAMES} frames")
                    self._frame = self._start()
                yield from self._read(rest)
                rest = b""
                if self._frame.eof:
                    rest, self._frame = self._frame.unused_data, None

    def _read(self, data: bytes) -> Iterator[bytes]:
        if inflated := self._frame.decompress(data):
            yield inflated


class _Zlib(_Framed):
    """gzip and deflate: the output of zlib can be bounded."""

    def _read(self, data: bytes) -> Iterator[bytes]:
        while True:
            inflated = self._frame.decompress(data, PIECE)
            if inflated:
                yield inflated
            data = self._frame.unconsumed_tail
            if not data and len(inflated) < PIECE:
                return


class _Brotli:
    def __init__(self) -> None:
        self._stream: Any = brotli.Decompressor()

    @property
    def has_ended(self) -> bool:
        return bool(self._stream.is_finished())

    def take(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _BROTLI_SLICE):
            if inflated := self._stream.process(data[at : at + _BROTLI_SLICE]):
                yield inflated


def _zstd() -> _Framed:
    return _Framed(zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj, _ZSTD_SLICE)


def _zlib() -> _Zlib:
    return _Zlib(lambda: zlib.decompressobj(zlib.MAX_WBITS | 32), _ZLIB_SLICE)  # 32: gzip or zlib, by the header.


_DECODERS: Final[dict[str, Callable[[], Any]]] = {
    "": _Plain,
    "identity": _Plain,
    "zstd": _zstd,
    "gzip": _zlib,
    "x-gzip": _zlib,
    "deflate": _zlib,
    "br": _Brotli,
}
"""The content-encodings that Codex, or a gateway in front of the backend, may use."""
