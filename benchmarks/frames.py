"""Fast WebSocket frames with permessage-deflate, for upstream and load: their cost must not distort the results.

Frames are hardly checked here. The tests check the frames of the proxies.
"""

from __future__ import annotations

import base64
import hashlib
import zlib

TEXT, CLOSE = 1, 8
TAIL = b"\x00\x00\xff\xff"
MASK = b"\x01\x02\x03\x04"
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accepted(key: str) -> str:
    """Return the value of Sec-WebSocket-Accept for a key."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()).decode()


class Sender:
    """Makes frames of texts, all compressed with one window, as most servers do."""

    def __init__(self, *, masks: bool) -> None:
        self._masks = masks
        self._deflate = zlib.compressobj(1, wbits=-15)

    def frame(self, text: bytes) -> bytes:
        """Return a whole text message in one frame, at most 65535 bytes long when compressed."""
        payload = (self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        length, masked = len(payload), 0x80 if self._masks else 0
        head = bytes((0xC1, masked | length)) if length < 126 else bytes((0xC1, masked | 126)) + length.to_bytes(2)
        return head + MASK + _masked(payload, MASK) if self._masks else head + payload


class Receiver:
    """Extracts the texts from a stream of frames. ``messages`` counts the complete ones."""

    def __init__(self) -> None:
        self.messages = 0
        self._rest = b""
        self._inflate = zlib.decompressobj(wbits=-15)
        self._is_deflated = True

    def feed(self, data: bytes) -> bytes:
        """Return the text of what ``data`` completes, joined. Raises EOFError for a close frame."""
        buffer = self._rest + data if self._rest else data
        at, parts = 0, []
        while (span := _span(buffer, at)) is not None:
            start, end, mask = span
            first, payload = buffer[at], buffer[start:end]
            at = end
            if mask:
                payload = _masked(payload, mask)
            opcode = first & 0x0F
            if opcode == CLOSE:
                raise EOFError(f"the WebSocket was closed: {payload[2:].decode(errors='replace')}")
            if opcode > TEXT:
                continue
            if opcode == TEXT:
                self._is_deflated = bool(first & 0x40)
            parts.append(payload)
            if first & 0x80:
                self.messages += 1
                if self._is_deflated:
                    parts.append(TAIL)
        self._rest = buffer[at:]
        text = b"".join(parts)
        return self._inflate.decompress(text) if self._is_deflated else text


def _span(buffer: bytes, at: int) -> tuple[int, int, bytes] | None:
    """Return where the payload of the frame begins and ends, and its mask; None if it is incomplete."""
    have = len(buffer) - at
    if have < 2:
        return None
    length = buffer[at + 1] & 0x7F
    size = {126: 2, 127: 8}.get(length, 0)
    start = at + 2 + size
    if have < 2 + size:
        return None
    if size:
        length = int.from_bytes(buffer[at + 2 : start])
    mask = b""
    if buffer[at + 1] & 0x80:
        mask = buffer[start : start + 4]
        start += 4
    return (start, start + length, mask) if len(buffer) >= start + length else None


def _masked(payload: bytes, mask: bytes) -> bytes:
    count = len(payload)
    key = (mask * (count // 4 + 1))[:count]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(count)
