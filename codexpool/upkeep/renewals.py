"""Renews tokens that were refused or are about to expire: one renewal at a time for each identity.

The pauses between two attempts to ask the backend grow, and are short while a client's request waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from codexpool.common.tasks import Tasks
from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal, UnusableTokenError
from codexpool.pool.identity import Evidence, Identity, Kind, Status, Word
from codexpool.pool.pool import Pool
from codexpool.tokens.bearer import Bearer

logger = logging.getLogger("codexpool")

# A pause counts from the start of the attempt before it. However long an attempt hangs, the next one starts within
# `LONGEST_PAUSE` and its jitter, so a recovery is noticed within 30 s.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0  # Seconds from one attempt to the next: doubled, and jittered by a fifth.
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


# Returns an identity's present credential and token; None if it has left the pool.
Present = Callable[[Identity], tuple[Credential, Bearer | None] | None]


@dataclass(slots=True, eq=False)
class _UnderWay:
    """The renewal of one identity's token; ``refused``: the backend refused the present one."""

    identity: Identity
    refused: bool
    pauses: Pauses
    attempt: asyncio.Event = field(default_factory=asyncio.Event)  # Set when the present attempt has ended.
    logged: str = ""  # Why an attempt gave no token, as last logged.
    is_wanted_again: bool = False  # The token was refused again meanwhile, perhaps too late for this renewal.


@dataclass(slots=True)
class Renewals:
    """The present renewals.

    ``present`` is called before each attempt. ``use`` is awaited with each new token: it finds out the token's owner
    first, and raises NoTokenNowError if it cannot yet. ``waiting`` requests cut pauses short.
    """

    pool: Pool
    tasks: Tasks
    waiting: Waiting
    present: Present
    use: Callable[[Identity, Renewal], Awaitable[None]]
    _under_way: dict[Identity, _UnderWay] = field(default_factory=dict)

    def begin(self, identity: Identity, refused: bool) -> None:
        """Start to renew an identity's token, unless that is under way; ``refused``: the backend refused it."""
        if (before := self._under_way.get(identity)) is not None:
            before.is_wanted_again = before.is_wanted_again or refused
        else:
            # Registered before the task runs: a request may wait for it by then.
            under_way = self._under_way[identity] = _UnderWay(identity, refused, Pauses(self.waiting))
            self.tasks.spawn(self._renew(under_way)).add_done_callback(lambda _: self._ended(under_way))

    def hurry(self, identity: Identity) -> None:
        """Retry a present renewal now: the identity's credential has changed."""
        if (under_way := self._under_way.get(identity)) is not None:
            under_way.pauses.hurry()

    async def attempted(self, identity: Identity, seconds: float) -> None:
        """Wait for the present attempt, if there is one; ``seconds`` at most."""
        if (under_way := self._under_way.get(identity)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await under_way.attempt.wait()

    def _ended(self, under_way: _UnderWay) -> None:
        identity = under_way.identity
        if self._under_way.get(identity) is under_way:
            del self._under_way[identity]
        under_way.attempt.set()
        if under_way.is_wanted_again and identity.is_in_renewal and self.present(identity) is not None:
            self.begin(identity, refused=True)

    async def _renew(self, under_way: _UnderWay) -> None:
        identity, pauses = under_way.identity, under_way.pauses
        while not identity.paused and (present := self.present(identity)) is not None:
            wait = pauses.begin()
            if await self._attempt(under_way, *present, wait):
                return
            under_way.attempt.set()
            await pauses.pause()
            under_way.attempt = asyncio.Event()

    async def _attempt(self, under_way: _UnderWay, credential: Credential, stale: Bearer | None, wait: float) -> bool:
        """Return False if the attempt must be repeated, in ``wait`` seconds."""
        identity, refused = under_way.identity, under_way.refused
        fingerprint = identity.fingerprint
        try:
            renewal = await credential.renewed(stale, refused)
            if renewal is not None:
                await self.use(identity, renewal)
        except NoTokenNowError as error:
            if isinstance(error, UnusableTokenError) and (refused or credential.is_over(time.time())):
                evidence = Evidence(time.time(), fingerprint=fingerprint, note=str(error))
                self.pool.states.unusable(identity.name, fingerprint, evidence)
            reason, now = str(error), time.time()
            if reason != under_way.logged:  # Once for each reason, not for each attempt.
                logger.warning("%s: %s; retrying in %.0f s", identity.name, reason, max(1.0, wait))
                under_way.logged = reason
            if identity.kind is Kind.COMMAND or (identity.kind is Kind.AGENT and stale is None):
                evidence = Evidence(now, fingerprint=identity.fingerprint, note=reason)
                self.pool.states.unrenewed(identity.name, identity.fingerprint, evidence, now, until=now + wait)
            return False
        except NoTokenAnyMoreError as error:
            evidence = error.evidence(fingerprint)
            if identity.kind is Kind.AGENT:  # The registration of a task is an agent's whoami.
                self.pool.states.whoami_said(identity.name, Word.REFUSED, evidence)
                return identity.status is Status.NEEDS_REPLACEMENT
            self.pool.states.login_over(identity.name, fingerprint, evidence)
            return True
        if renewal is None:
            note = "its token is refused, and there is no other"
            evidence = identity.condition.evidence or Evidence(time.time(), fingerprint=fingerprint, note=note)
            self.pool.states.unrenewed(identity.name, fingerprint, evidence, time.time(), until=None)
        return True
