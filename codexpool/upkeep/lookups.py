"""Asks the state who serves the sessions that this proxy has not seen: one query at a time, for all that wait.

Of each session one request asks, and the others wait with it. An answer that comes too late for them is taken over,
too: the session was bound here meanwhile, and `codexpool.pool.sessions` says which identity counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from codexpool.common import tasks
from codexpool.pool.identity import IdentityKey
from codexpool.state import StateError

logger = logging.getLogger("codexpool")

MOST: Final = 1_000  # Sessions of one query; of those beyond that the requests do not wait.

Stored = Mapping[str, tuple[IdentityKey, int]]  # By session: who serves it, and how often it has moved.


@dataclass(slots=True)
class _Query:
    sessions: set[str] = field(default_factory=set)
    begun: float | None = None
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class LookUps:
    """``look_up`` asks the state, in a thread; ``found`` takes over what it answers."""

    def __init__(
        self, look_up: Callable[[Sequence[str]], Stored], found: Callable[[Stored], object], owner: tasks.Tasks
    ) -> None:
        self._look_up = look_up
        self._found = found
        self._owner = owner
        self._under_way = _Query()
        self._next = _Query()
        self._is_running = False

    async def look_up(self, sessions: Sequence[str], seconds: float) -> None:
        """Wait until the state has answered about these sessions, ``seconds`` at most.

        While a query is under way that has taken longer than that already, nothing is waited for.
        """
        queries = [query for session in sessions if (query := self._query_for(session)) is not None]
        if not self._is_running and self._next.sessions:
            self._is_running = True
            self._owner.spawn(self._run())
        begun = self._under_way.begun
        if begun is not None and asyncio.get_running_loop().time() - begun >= seconds:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for query in queries:
                    await query.is_over.wait()

    def _query_for(self, session: str) -> _Query | None:
        if session in self._under_way.sessions:
            return self._under_way
        if session not in self._next.sessions and len(self._next.sessions) >= MOST:
            return None
        self._next.sessions.add(session)
        return self._next

    async def _run(self) -> None:
        try:
            while self._next.sessions:
                query, self._next = self._next, _Query()
                query.begun, self._under_way = asyncio.get_running_loop().time(), query
                try:
                    self._found(await tasks.in_thread(self._look_up, tuple(query.sessions), daemon=True))
                except StateError as error:  # The state's own log says when it is lost, and back.
                    logger.debug("state: looking up sessions failed: %s", error)
                finally:
                    self._under_way = _Query()
                    query.is_over.set()
        finally:
            self._is_running = False
