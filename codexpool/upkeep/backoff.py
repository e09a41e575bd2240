"""The pauses between two askings of something that gave no answer: growing, jittered, and short while somebody waits.

A pause counts from the beginning of the attempt before it. So whatever a request of our own hangs on, the next one
begins `LONGEST_PAUSE` and its jitter after it at most: what is well again is found out within 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds from one attempt to the next: doubled each time, and jittered by a fifth."""

AT_LEAST = 0.5
"""Seconds between the end of an attempt and the next one, however long it took."""

WANTED_AFTER = 2.0
"""Seconds from one attempt to the next while a client's request waits for it."""


class Waiting:
    """The client's requests that wait for some identity to become ready."""

    def __init__(self) -> None:
        self._number = 0
        self._pauses: set[Pauses] = set()

    @property
    def is_anybody(self) -> bool:
        return self._number > 0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """As long as this lasts, one more request waits."""
        self._number += 1
        try:
            for pauses in self._pauses:
                pauses.look()
            yield
        finally:
            self._number -= 1

    @contextlib.contextmanager
    def tells(self, pauses: Pauses) -> Iterator[None]:
        """As long as this lasts, a pause hears of requests that begin to wait."""
        self._pauses.add(pauses)
        try:
            yield
        finally:
            self._pauses.discard(pauses)


class Pauses:
    """The pauses of one identity's asking. `waiting` cuts them short."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._next = FIRST_PAUSE
        self._looks = asyncio.Event()
        self._is_hurried = False
        self._seconds = 0.0
        self._begun = asyncio.get_running_loop().time()

    def begins(self) -> float:
        """An attempt begins. The seconds from now to the next one, should it come to nothing."""
        self._begun = asyncio.get_running_loop().time()
        self._is_hurried = False
        self._seconds = self._next * random.uniform(0.8, 1.2)
        self._next = min(2 * self._next, LONGEST_PAUSE)
        return self._seconds

    def hurry(self) -> None:
        """What is asked about has changed: ask again now, and with short pauses first."""
        self._next, self._is_hurried = FIRST_PAUSE, True
        self._looks.set()

    def look(self) -> None:
        """Somebody waits."""
        self._looks.set()

    async def pause(self) -> None:
        """Wait until the next attempt is due."""
        clock = asyncio.get_running_loop().time
        earliest = clock() + AT_LEAST
        with self._waiting.tells(self):
            while not self._is_hurried:
                seconds = min(self._seconds, WANTED_AFTER) if self._waiting.is_anybody else self._seconds
                left = max(self._begun + seconds, earliest) - clock()
                if left <= 0:
                    return
                self._looks.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._looks.wait()
