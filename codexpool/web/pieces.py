"""Long answers made piece by piece, so that no request of a client waits for all of one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


async def joined(pieces: Iterable[bytes]) -> bytes:
    """All pieces. After each one, which takes a millisecond or two, the event loop does what else there is to do."""
    made: list[bytes] = []
    for piece in pieces:
        made.append(piece)
        await asyncio.sleep(0)
    return b"".join(made)
