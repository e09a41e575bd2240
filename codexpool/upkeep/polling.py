"""Asks the backend what each account has left (``GET wham/usage``): beside requests, at the times of the schedule.

A reading changes what the pool knows of an account in both directions: it may be limited, or no longer. One that
fails, or says something odd, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from codexpool.common.tasks import Tasks
from codexpool.credentials.account_api import AccountApi, UnreadError
from codexpool.pool.identity import READ_WITHIN, Condition, Identity, IdentityKey, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.usage import ASKED_EVERY, MAIN, ResetCredits
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.schedule import EVERY, JITTER, Schedule

logger = logging.getLogger("codexpool")

LONGEST_SLEEP: Final = 60.0  # Seconds after which the clock is read again, in case it was set.
LOOK_MOST: Final = 100  # Accounts that one look asks about.
MOST_AT_ONCE: Final = 32  # Readings under way, with those of looks.
ANOTHER_READS: Final = 2.0  # Seconds that another proxy gets to read an account.
MORE_AT_ONCE: Final = 8  # Accounts of which more is read. They must not keep a look waiting.
READ_IN: Final = frozenset({Status.READY, Status.LIMITED, Status.RESTING})  # Statuses in which an account is read.


class Others(Protocol):
    """The other proxies with the same state."""

    async def is_to_ask(self, question: str) -> bool:
        """Return whether this proxy should ask the backend something: no other one does so just now."""

    async def news(self) -> object:
        """Wait until what others have learned is known here."""


class Poller:
    """Carries out the schedule, and looks at limited identities while a client waits.

    ``bearer`` returns an identity's present token by name. ``learned`` is called after each reading, also after one
    that failed; what else is to be read of an account is read by ``read_more`` then. What ``others`` read meanwhile
    is not read again.
    """

    def __init__(
        self,
        pool: Pool,
        tasks: Tasks,
        api: AccountApi,
        bearer: Callable[[str], Bearer | None],
        learned: Callable[[IdentityKey], None],
        read_more: Callable[[Identity], Coroutine[Any, Any, None]],
        others: Others,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._api = api
        self._bearer = bearer
        self._learned = learned
        self._read_more = read_more
        self._others = others
        self._schedule = Schedule()
        self._reading: dict[IdentityKey, asyncio.Task[None]] = {}
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self._more_at_once = asyncio.Semaphore(MORE_AT_ONCE)
        self._finishing: set[IdentityKey] = set()
        self._changed = asyncio.Event()
        self._logged: dict[IdentityKey, str] = {}  # Why an account cannot be read, as last logged.

    # -- what happens to the identities

    def follow(self, identity: Identity, before: Condition) -> None:
        """Plan a reading if an identity has become ready, or limited."""
        if identity.metadata is None:
            return
        now, key = time.time(), identity.metadata.key
        usage = self._pool.states.usage(key)
        if identity.status is Status.LIMITED:
            self._want(identity, now + ASKED_EVERY)
        elif identity.status is Status.READY:
            is_old = not usage.read_at <= now < usage.read_at + EVERY
            if is_old or (before.status is not Status.RESTING and not usage.is_fresh(now)):
                self._want(identity, now)
                if before.status is Status.UNVERIFIED and (usage.may_be_asked(now) or usage.is_being_asked(now)):
                    self._pool.states.unread(identity.name, now)
            else:
                self._want(identity, usage.read_at + EVERY)

    def read_soon(self, identity: Identity) -> None:
        """Read an account as soon as it may be asked about again."""
        if identity.metadata is not None:
            self._want(identity, time.time())

    def used(self, key: IdentityKey) -> None:
        """Note that an account has served a request."""
        if self._schedule.used(key, time.time()):
            self._changed.set()

    def keep(self) -> None:
        """Forget the accounts that have left the pool."""
        keys = self._pool.states.by_keys
        self._schedule.keep(keys)
        self._logged = {key: text for key, text in self._logged.items() if key in keys}

    # -- reading

    async def run(self) -> None:
        """Read each account when it is due, for ever."""
        while True:
            self._changed.clear()
            try:
                pause = self._begin_due()
            except Exception:  # A bug of ours must not end all readings.
                logger.exception("cannot read the usage of accounts; retrying in %.0f s", LONGEST_SLEEP)
                pause = LONGEST_SLEEP
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def first(self, name: str, bearer: Bearer, metadata: Metadata) -> None:
        """Read an account before its identity becomes ready; wait for that only for a moment.

        If many begin at once, the pace does not allow most of them: those are read later.
        """
        now = time.time()
        usage = self._pool.states.usage(metadata.key)
        if not usage.is_fresh(now) and usage.may_be_asked(now) and self._schedule.begin(metadata.key, now):
            await asyncio.wait({self._read(name, bearer, metadata)}, timeout=READ_WITHIN)

    async def look(self, identities: Sequence[Identity], is_enough: Callable[[], bool], seconds: float) -> None:
        """Ask about limited identities, all at once, until one of them can serve; ``seconds`` at most.

        Clients that wait at the same time share the answers. No account is asked twice within a minute.
        """
        now, pending = time.time(), set()
        by_age = sorted(identities, key=lambda identity: self._pool.states.usage_of(identity).asked_at)
        for identity in by_age[:LOOK_MOST]:
            if (task := self._looked_at(identity, now)) is not None:
                pending.add(task)
        ends = asyncio.get_running_loop().time() + seconds
        while pending and not is_enough():
            left = ends - asyncio.get_running_loop().time()
            done, pending = await asyncio.wait(pending, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return

    def _want(self, identity: Identity, at: float) -> None:
        assert identity.metadata is not None
        self._schedule.want(identity.metadata.key, at, identity.priority)
        self._changed.set()

    def _begin_due(self) -> float:
        """Begin the readings that are due. Return the seconds until there may be more."""
        now = time.time()
        for key in self._schedule.take(now):
            identity = self._pool.states.by_keys.get(key)
            usage = self._pool.states.usage(key)
            if identity is None or identity.status not in READ_IN:
                self._schedule.cancelled(key)
            elif self._schedule.is_routine(key) and usage.read_at <= now < usage.read_at + EVERY * (1 - JITTER):
                # Another proxy has read it.
                self._schedule.ended(key, usage.read_at, identity.status is Status.LIMITED)
            elif usage.is_fresh(now) or not usage.may_be_asked(now):
                self._schedule.cancelled(key, now + ASKED_EVERY)
            elif (bearer := self._bearer_of(identity)) is None or identity.metadata is None:
                self._schedule.failed(key, now)
                self._pool.states.read_failed(key)
            else:
                self._read(identity.name, bearer, identity.metadata)
        next_at = self._schedule.next_at(now)
        return LONGEST_SLEEP if next_at is None else min(max(next_at - now, 0.01), LONGEST_SLEEP)

    def _looked_at(self, identity: Identity, now: float) -> asyncio.Task[None] | None:
        """Return the reading of an identity's account that is under way; begin one unless there was one just now."""
        if (metadata := identity.metadata) is None:
            return None
        if (task := self._reading.get(metadata.key)) is not None:
            return task
        bearer = self._bearer_of(identity)
        if bearer is None or not self._pool.states.usage(metadata.key).may_be_asked(now):
            return None
        self._schedule.begin(metadata.key, now, must=True)
        return self._read(identity.name, bearer, metadata, is_look=True)

    def _bearer_of(self, identity: Identity) -> Bearer | None:
        bearer = self._bearer(identity.name)
        return bearer if bearer is not None and bearer.fingerprint == identity.fingerprint else None

    def _read(self, name: str, bearer: Bearer, metadata: Metadata, is_look: bool = False) -> asyncio.Task[None]:
        """Start a reading, which the schedule has begun."""
        key, usage = metadata.key, self._pool.states.usage(metadata.key)
        usage.asked_at, counts = time.time(), is_look or MAIN in usage.limited

        async def reading() -> None:
            is_read = await self._is_read_elsewhere(key)
            if not is_read:
                async with self._at_once:
                    is_read = await self._ask(name, bearer, metadata)
            if is_read and not counts:
                usage.asked_at = 0.0  # If it has found a limit, the next client may look at that.

        task = self._reading[key] = self._tasks.spawn(reading())
        task.add_done_callback(lambda _: self._over(key))
        return task

    def _over(self, key: IdentityKey) -> None:
        self._reading.pop(key, None)
        self._pool.states.usage(key).answered_at = time.time()
        self._schedule.cancelled(key)  # Nothing, unless a bug has ended it.
        self._changed.set()

    async def _is_read_elsewhere(self, key: IdentityKey) -> bool:
        """Return whether another proxy reads an account at this moment; wait for what it learns, a moment at most."""
        usage = self._pool.states.usage(key)
        read_at = usage.read_at
        if await self._others.is_to_ask(f"usage:{json.dumps(key)}"):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANOTHER_READS):
                while usage.read_at == read_at:
                    await self._others.news()
        if usage.read_at == read_at:
            return False
        identity = self._pool.states.by_keys.get(key)
        self._schedule.ended(key, usage.read_at, identity is not None and identity.status is Status.LIMITED)
        if identity is not None:
            self._tasks.spawn(self._read_more(identity))
        return True

    async def _ask(self, name: str, bearer: Bearer, metadata: Metadata) -> bool:
        """Ask the backend, and have the pool learn. Return whether it has answered."""
        key, sent_at, report = metadata.key, time.time(), None
        try:
            report = await self._api.usage(bearer, metadata)
        except UnreadError as error:
            self._schedule.failed(key, time.time(), error.retry_after)
            self._pool.states.read_failed(key)
            if self._logged.get(key) != str(error):
                logger.info("cannot read what %s has left: %s. Retrying later", name, error)
                self._logged[key] = str(error)
        else:
            now = time.time()
            self._logged.pop(key, None)
            self._pool.usage_read(key, report, sent_at, now)
            identity = self._pool.states.by_keys.get(key)
            self._schedule.ended(key, now, identity is not None and identity.status is Status.LIMITED)
        self._learned(key)
        self._tasks.spawn(self._finish(key, bearer, metadata))
        return report is not None

    async def _finish(self, key: IdentityKey, bearer: Bearer, metadata: Metadata) -> None:
        """Read what belongs to an account's usage. No client waits for it."""
        if key in self._finishing:  # Since the last reading: the backend is slow.
            return
        self._finishing.add(key)
        try:
            async with self._more_at_once:
                await self._read_rest(key, bearer, metadata)
        finally:
            self._finishing.discard(key)

    async def _read_rest(self, key: IdentityKey, bearer: Bearer, metadata: Metadata) -> None:
        usage = self._pool.states.usage(key)
        if usage.credits is not None and not usage.credits.is_listed:
            with contextlib.suppress(UnreadError):
                found = await self._api.reset_credits(bearer, metadata)
                usage.credits = ResetCredits(found.available, found.expires_at, time.time(), is_listed=True)
                self._learned(key)
        if (identity := self._pool.states.by_keys.get(key)) is not None:
            await self._read_more(identity)
