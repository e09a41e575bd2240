"""Another token for an identity whose present one was refused or is about to end: one renewal at a time for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal
from codexpool.credentials.secret import Bearer
from codexpool.pool.identity import Condition, Evidence, Identity, Kind, Status
from codexpool.pool.pool import Pool
from codexpool.tasks import Tasks

logger = logging.getLogger("codexpool")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts that gave no token: doubled each time, and jittered."""

Present = Callable[[Identity], tuple[Credential, Bearer | None] | None]
"""An identity's credential and token as they are now; None where it has left the pool."""


class _UnderWay:
    """One identity's renewal."""

    def __init__(self) -> None:
        self.attempt = asyncio.Event()
        """Set when the present attempt has come to something, or to nothing."""
        self.hurry = asyncio.Event()
        """Set when the pause before the next attempt is to end."""


class Renewals:
    """The renewals under way.

    ``present`` is looked at before each attempt. ``came`` is awaited with every new token, and has to find out whose
    it is before it is used. It may raise NoTokenNowError where that cannot be found out yet.
    """

    def __init__(
        self, pool: Pool, tasks: Tasks, present: Present, came: Callable[[Identity, Renewal], Awaitable[None]]
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._present = present
        self._came = came
        self._under_way: dict[Identity, _UnderWay] = {}

    def begin(self, identity: Identity, refused: bool) -> None:
        """Have an identity get another token, unless that is under way.

        ``refused`` says that the backend refused the one it has, and not only the clock.
        """
        if identity not in self._under_way:
            under_way = self._under_way[identity] = _UnderWay()  # Not when the task runs: somebody may wait by then.
            task = self._tasks.spawn(self._until_settled(identity, under_way, refused))
            task.add_done_callback(lambda _: self._ended(identity, under_way))

    def hurry(self, identity: Identity) -> None:
        """An identity's credential has changed: what is under way is to be tried again now."""
        if (under_way := self._under_way.get(identity)) is not None:
            under_way.hurry.set()

    async def attempted(self, identity: Identity, seconds: float) -> None:
        """Wait for the attempt that is under way, if there is one; ``seconds`` at most."""
        if (under_way := self._under_way.get(identity)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await under_way.attempt.wait()

    def _ended(self, identity: Identity, under_way: _UnderWay) -> None:
        if self._under_way.get(identity) is under_way:
            del self._under_way[identity]
        under_way.attempt.set()

    async def _until_settled(self, identity: Identity, under_way: _UnderWay, refused: bool) -> None:
        pause = FIRST_PAUSE
        while not identity.paused and (present := self._present(identity)) is not None:
            wait = pause * random.uniform(0.8, 1.2)
            if await self._is_settled(identity, *present, refused, wait):
                return
            under_way.attempt.set()
            try:
                async with asyncio.timeout(wait):
                    await under_way.hurry.wait()
                pause = FIRST_PAUSE
            except TimeoutError:
                pause = min(2 * pause, LONGEST_PAUSE)
            under_way.hurry.clear()
            under_way.attempt = asyncio.Event()

    async def _is_settled(
        self, identity: Identity, credential: Credential, stale: Bearer | None, refused: bool, wait: float
    ) -> bool:
        """One attempt. False where it is to be made again after so many seconds."""
        fingerprint = identity.fingerprint
        try:
            renewal = await credential.renewed(stale, refused)
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
            note = "its token is refused, and there is no other one"
            evidence = identity.condition.evidence or Evidence(time.time(), fingerprint=fingerprint, note=note)
            self._pool.unrenewed(identity.name, fingerprint, evidence, time.time(), until=None)
        return True

    def _none_now(self, identity: Identity, reason: str, wait: float) -> None:
        logger.warning("%s: %s; tried again in %.0f s", identity.name, reason, max(1.0, wait))
        if identity.kind is Kind.COMMAND:
            now = time.time()
            evidence = Evidence(now, fingerprint=identity.fingerprint, note=reason)
            self._pool.unrenewed(identity.name, identity.fingerprint, evidence, now, until=now + wait)
