"""Search the bodies of requests without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from codexpool.protocol.inflate import TooLongError, declared_size

AT_ONCE: Final = 2 * 2**20
"""Longest body, in inflated bytes, to search in the event loop: that takes some milliseconds."""

LONGEST: Final = 64 * 2**20
"""Longest body, in inflated bytes, to search at all; no session is that long."""

_READER: Final = ThreadPoolExecutor(1, "codexpool-bodies")
"""One body at a time, to bound memory. (The loop's own threads resolve names, and must stay free.)"""

Found = TypeVar("Found")


async def look(into: Callable[[bytes, str, int], Found], body: bytes, encoding: str) -> Found:
    """Search a body with a function: a short one at once, a long one in a thread.

    ``into`` takes the body, its encoding and the bytes it may inflate, and raises TooLongError beyond that.
    """
    if declared_size(body, encoding) <= AT_ONCE:  # Otherwise it would be inflated twice.
        try:
            return into(body, encoding, AT_ONCE)
        except TooLongError:
            pass
    return await asyncio.get_running_loop().run_in_executor(_READER, into, body, encoding, LONGEST)
