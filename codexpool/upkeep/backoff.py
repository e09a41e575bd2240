"""The pauses between two attempts to ask the backend: growing, jittered, and short while a client's request waits.

A pause counts from the start of the attempt before it. However long an attempt hangs, the next one starts within
`LONGEST_PAUSE` and its jitter, so a recovery is noticed within 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds from one attempt to the next: doubled each time, with a jitter of a fifth."""

AT_LEAST = 0.5  # Seconds between the end of an attempt and the next one, however long it took.
WANTED_AFTER = 2.0  # Seconds from one attempt to the next while a client's request waits for it.


class Waiting:
    """Counts the client's requests that wait for an identity."""

    def __init__(self) -> None:
        self.number = 0
        self.pauses: set[Pauses] = set()

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more request within the block, and shorten the present pauses."""
        self.number += 1
        try:
            for pauses in self.pauses:
                pauses.recompute()
            yield
        finally:
            self.number -= 1


class Pauses:
    """The pauses between the attempts for one identity. Requests in ``waiting`` cut them short."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._next = FIRST_PAUSE
        self._changed = asyncio.Event()
        self._is_hurried = False
        self._seconds = 0.0
        self._begun = asyncio.get_running_loop().time()

    def begin(self) -> float:
        """Start an attempt. Return the seconds until the next one, should this one fail."""
        self._begun = asyncio.get_running_loop().time()
        self._is_hurried = False
        self._seconds = self._next * random.uniform(0.8, 1.2)
        self._next = min(2 * self._next, LONGEST_PAUSE)
        return self._seconds

    def hurry(self) -> None:
        """End the pause now, and begin with short ones again: the credential has changed."""
        self._next, self._is_hurried = FIRST_PAUSE, True
        self._changed.set()

    def recompute(self) -> None:
        self._changed.set()

    async def pause(self) -> None:
        """Wait until the next attempt is due."""
        clock = asyncio.get_running_loop().time
        earliest = clock() + AT_LEAST
        self._waiting.pauses.add(self)
        try:
            while not self._is_hurried:
                seconds = min(self._seconds, WANTED_AFTER) if self._waiting.number else self._seconds
                left = max(self._begun + seconds, earliest) - clock()
                if left <= 0:
                    return
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
        finally:
            self._waiting.pauses.discard(self)
