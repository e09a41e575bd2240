"""Another token for an identity whose present one was refused or is about to end: one renewal at a time for each."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal
from codexpool.credentials.secret import Bearer
from codexpool.pool.identity import Condition, Evidence, Identity, Kind, Status
from codexpool.pool.pool import Pool
from codexpool.tasks import Tasks

logger = logging.getLogger("codexpool")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts that gave no token: doubled each time, and jittered."""


Renewed = Callable[[], Awaitable[Renewal | None]]
"""`Credential.renewed`, with its arguments."""


class Renewals:
    """The renewals under way.

    ``came`` is awaited with every new token, and has to find out whose it is before it is used. It may raise
    NoTokenNowError where that cannot be found out yet.
    """

    def __init__(self, pool: Pool, tasks: Tasks, came: Callable[[Identity, Renewal], Awaitable[None]]) -> None:
        self._pool = pool
        self._tasks = tasks
        self._came = came
        self._under_way: set[Identity] = set()
        self._attempts: dict[Identity, asyncio.Event] = {}

    def begin(self, identity: Identity, credential: Credential, stale: Bearer | None, refused: bool) -> None:
        """Have an identity get another token than ``stale``, unless that is under way.

        ``refused`` says that the backend refused that one, and not only the clock.
        """
        if identity not in self._under_way:
            self._under_way.add(identity)
            self._attempts[identity] = asyncio.Event()  # Not when the task runs: somebody may wait by then.
            self._tasks.spawn(self._until_settled(identity, partial(credential.renewed, stale, refused)))

    async def attempted(self, identity: Identity) -> None:
        """Wait for the attempt that is under way, if there is one."""
        if (attempt := self._attempts.get(identity)) is not None:
            await attempt.wait()

    async def _until_settled(self, identity: Identity, renewed: Renewed) -> None:
        pause = FIRST_PAUSE
        try:
            while self._pool.identities.get(identity.name) is identity and not identity.paused:
                wait = pause * random.uniform(0.8, 1.2)
                attempt = self._attempts.setdefault(identity, asyncio.Event())
                is_settled = await self._is_settled(identity, renewed, wait)
                del self._attempts[identity]
                attempt.set()
                if is_settled:
                    return
                await asyncio.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._under_way.discard(identity)
            if (unmade := self._attempts.pop(identity, None)) is not None:
                unmade.set()

    async def _is_settled(self, identity: Identity, renewed: Renewed, wait: float) -> bool:
        """One attempt. False where it is to be made again after so many seconds."""
        fingerprint = identity.fingerprint
        try:
            renewal = await renewed()
            if renewal is not None:
                await self._came(identity, renewal)
        except NoTokenNowError as error:
            self._none_now(identity, str(error), wait)
            return False
        except NoTokenAnyMoreError as error:
            evidence = Evidence(time.time(), code=error.code, fingerprint=fingerprint, note=str(error))
            condition = Condition(Status.NEEDS_LOGIN, evidence.at, evidence=evidence)
            self._pool.condition_learned(identity.name, fingerprint, condition)
            return True
        if renewal is None:
            evidence = identity.condition.evidence or Evidence(time.time(), fingerprint=fingerprint)
            self._pool.unrenewed(identity.name, fingerprint, evidence, time.time(), until=None)
        return True

    def _none_now(self, identity: Identity, reason: str, wait: float) -> None:
        logger.warning("%s: %s; tried again in %.0f s", identity.name, reason, max(1.0, wait))
        if identity.kind is Kind.COMMAND:
            now = time.time()
            evidence = Evidence(now, fingerprint=identity.fingerprint, note=reason)
            self._pool.unrenewed(identity.name, identity.fingerprint, evidence, now, until=now + wait)
