"""Requests of our own whose answers are bounded: in time as a whole, and in size as they are read and inflated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from codexpool.protocol.inflate import UnreadableError, inflated

if TYPE_CHECKING:
    import httpx

LONGEST: Final = 1 << 20
"""Bytes of an answer, as it comes and inflated. What is asked for has some thousand."""

PLAIN: Final[Mapping[str, str]] = {"accept": "application/json", "accept-encoding": "gzip"}
"""What these answers are to be."""

_CODED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that say how a body came, and that do not fit once it is read."""


async def answer(client: httpx.AsyncClient, method: str, url: str, seconds: float, **more: Any) -> httpx.Response:
    """The whole answer to a request, within ``seconds``, however slowly it comes.

    Raises httpx.HTTPError and httpx.InvalidURL; httpx.ReadTimeout where it took too long, httpx.DecodingError where
    it is longer than `LONGEST` or cannot be inflated.
    """
    import httpx

    try:
        async with asyncio.timeout(seconds), client.stream(method, url, **more) as response:
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > LONGEST:
                    raise httpx.DecodingError(f"an answer of more than {LONGEST} bytes")
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s") from None
    headers = {name: value for name, value in response.headers.items() if name not in _CODED}
    content = _inflated(bytes(body), response.headers.get("content-encoding", ""))
    return httpx.Response(response.status_code, headers=headers, content=content)


def _inflated(body: bytes, encoding: str) -> bytes:
    import httpx

    try:
        return inflated(body, encoding, LONGEST)
    except UnreadableError as error:
        raise httpx.DecodingError(f"an answer that cannot be inflated: {error}") from None
