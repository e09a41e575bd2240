"""What identities said about what is left, shared by all clients that ask within some seconds.

A client near a limit asks every five seconds. If each of many clients made a request of its own, the backend would
soon refuse the account's questions, also those that the pool asks for itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from codexpool.common.recent import Recent
from codexpool.pool.identity import IdentityKey

LASTS: Final = 10.0  # Seconds for which an answer is given to other clients.
LASTS_AT_LIMIT: Final = 60.0  # The same if the account is at its limit: only time, or a person, changes that.
PATIENCE: Final = 3.0  # Seconds that a client waits for the answer to another client.
KEPT: Final = 1_000
LONGEST: Final = 32_768  # Characters of an answer that is kept.

Document = Mapping[str, Any]


class SharedUsage:
    """The newest answer of each identity, and the requests for one under way. ``timer`` gives monotonic seconds."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._answers: Recent[IdentityKey, tuple[float, Document]] = Recent(KEPT)
        self._asked: Recent[IdentityKey, tuple[float, asyncio.Event]] = Recent(KEPT)

    async def answer(self, key: IdentityKey) -> Document | None:
        """Return an identity's answer, or None if the caller has to ask, and then to call `ended`."""
        ends = self._timer() + PATIENCE
        while True:
            now = self._timer()
            if (found := self._answers.get(key)) is not None and now < found[0]:
                return found[1]
            asked_at, ended = self._asked.get(key, (now, None))
            if ended is None or now >= min(ends, asked_at + PATIENCE):
                self._asked[key] = (now, asyncio.Event())
                return None
            try:
                async with asyncio.timeout(min(ends, asked_at + PATIENCE) - now):
                    await ended.wait()
            except TimeoutError:
                continue

    def keep(self, key: IdentityKey, document: Document) -> None:
        if len(json.dumps(document)) > LONGEST:
            return
        limit = document.get("rate_limit")
        is_at_limit = isinstance(limit, dict) and limit.get("limit_reached") is True
        self._answers[key] = (self._timer() + (LASTS_AT_LIMIT if is_at_limit else LASTS), document)

    def ended(self, key: IdentityKey) -> None:
        """Have those that wait for an identity's answer take it, or ask again if there is none."""
        if (found := self._asked.pop(key, None)) is not None:
            found[1].set()
