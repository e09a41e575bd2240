"""Looking into the bodies of requests without keeping the event loop from its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from codexpool.protocol.inflate import TooLongError

AT_ONCE: Final = 2 * 2**20
"""Bytes of a body, inflated, that are looked into at once: that takes some milliseconds."""

LONGEST: Final = 64 * 2**20
"""Bytes of a body, inflated, that are looked into at all; no history is that long."""

_READER: Final = ThreadPoolExecutor(1, "codexpool-bodies")
"""One body at a time: so they take the memory of one. (The loop's own threads resolve names, and do not wait.)"""

Found = TypeVar("Found")


async def look(into: Callable[[bytes, str, int], Found], body: bytes, encoding: str) -> Found:
    """Have a function look into a body: a short one at once, a long one in a thread.

    ``into`` takes the body, its encoding, and how many bytes it may inflate, and raises TooLongError beyond that.
    """
    if len(body) <= AT_ONCE:
        try:
            return into(body, encoding, AT_ONCE)
        except TooLongError:
            pass
    return await asyncio.get_running_loop().run_in_executor(_READER, into, body, encoding, LONGEST)
