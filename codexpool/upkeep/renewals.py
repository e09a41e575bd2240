"""Another token for an identity whose present one was refused or is about to end: one renewal at a time for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from codexpool.common.tasks import Tasks
from codexpool.credentials import (
    Credential,
    NoTokenAnyMoreError,
    NoTokenNowError,
    Renewal,
    UnusableTokenError,
)
from codexpool.pool.identity import Evidence, Identity, Kind
from codexpool.pool.pool import Pool
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.backoff import Pauses, Waiting

logger = logging.getLogger("codexpool")

Present = Callable[[Identity], tuple[Credential, Bearer | None] | None]
"""An identity's credential and token as they are now; None where it has left the pool."""


class _UnderWay:
    """One identity's renewal."""

    def __init__(self, waiting: Waiting) -> None:
        self.attempt = asyncio.Event()
        """Set when the present attempt has come to something, or to nothing."""
        self.pauses = Pauses(waiting)
        self.said = ""
        """Why the last attempt gave no token."""
        self.is_wanted_again = False
        """The token was refused once more meanwhile, perhaps too late for this renewal to be the answer to that."""


class Renewals:
    """The renewals under way.

    ``present`` is looked at before each attempt. ``came`` is awaited with every new token, and has to find out whose
    it is before it is used. It may raise NoTokenNowError where that cannot be found out yet. ``waiting`` are the
    requests that wait for an identity: they cut pauses short.
    """

    def __init__(
        self,
        pool: Pool,
        tasks: Tasks,
        waiting: Waiting,
        present: Present,
        came: Callable[[Identity, Renewal], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._waiting = waiting
        self._present = present
        self._came = came
        self._under_way: dict[Identity, _UnderWay] = {}

    def begin(self, identity: Identity, refused: bool) -> None:
        """Have an identity get another token, unless that is under way.

        ``refused`` says that the backend refused the one it has, and not only the clock.
        """
        if (before := self._under_way.get(identity)) is not None:
            before.is_wanted_again = before.is_wanted_again or refused
        else:
            under_way = self._under_way[identity] = _UnderWay(
                self._waiting
            )  # Not when the task runs: somebody may wait by then.
            task = self._tasks.spawn(self._until_settled(identity, under_way, refused))
            task.add_done_callback(lambda _: self._ended(identity, under_way))

    def hurry(self, identity: Identity) -> None:
        """An identity's credential has changed: what is under way is to be tried again now."""
        if (under_way := self._under_way.get(identity)) is not None:
            under_way.pauses.hurry()

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
        if under_way.is_wanted_again and identity.is_in_renewal and self._present(identity) is not None:
            self.begin(identity, refused=True)

    async def _until_settled(self, identity: Identity, under_way: _UnderWay, refused: bool) -> None:
        while not identity.paused and (present := self._present(identity)) is not None:
            wait = under_way.pauses.begins()
            if await self._is_settled(identity, under_way, *present, refused, wait):
                return
            under_way.attempt.set()
            await under_way.pauses.pause()
            under_way.attempt = asyncio.Event()

    async def _is_settled(
        self,
        identity: Identity,
        under_way: _UnderWay,
        credential: Credential,
        stale: Bearer | None,
        refused: bool,
        wait: float,
    ) -> bool:
        """One attempt. False where it is to be made again after so many seconds."""
        fingerprint = identity.fingerprint
        try:
            renewal = await credential.renewed(stale, refused)
            if renewal is not None:
                await self._came(identity, renewal)
        except NoTokenNowError as error:
            if isinstance(error, UnusableTokenError) and (refused or credential.is_over(time.time())):
                evidence = Evidence(time.time(), fingerprint=fingerprint, note=str(error))
                self._pool.states.unusable(identity.name, fingerprint, evidence)
            self._none_now(identity, under_way, str(error), wait)
            return False
        except NoTokenAnyMoreError as error:
            evidence = Evidence(time.time(), code=error.code, fingerprint=fingerprint, note=str(error))
            self._pool.states.login_over(identity.name, fingerprint, evidence)
            return True
        if renewal is None:
            note = "its token is refused, and there is no other one"
            evidence = identity.condition.evidence or Evidence(time.time(), fingerprint=fingerprint, note=note)
            self._pool.states.unrenewed(identity.name, fingerprint, evidence, time.time(), until=None)
        return True

    def _none_now(self, identity: Identity, under_way: _UnderWay, reason: str, wait: float) -> None:
        if reason != under_way.said:  # Once for each reason, and not for each attempt.
            logger.warning("%s: %s; tried again in %.0f s", identity.name, reason, max(1.0, wait))
            under_way.said = reason
        if identity.kind is Kind.COMMAND:
            now = time.time()
            evidence = Evidence(now, fingerprint=identity.fingerprint, note=reason)
            self._pool.states.unrenewed(identity.name, identity.fingerprint, evidence, now, until=now + wait)
