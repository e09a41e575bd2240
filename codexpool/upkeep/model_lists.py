"""Reads which models the accounts of a pool may use, for `codexpool.pool.entitlements`.

Accounts are asked when an identity becomes ready, and then with their usage (see `codexpool.upkeep.polling`); all of
them when a client of another version comes; and one at once when an answer names another list than the one that is
known. A read that fails changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from codexpool.common.tasks import Tasks
from codexpool.credentials.account_api import AccountApi, UnreadError
from codexpool.pool.entitlements import FRESH
from codexpool.pool.exclusions import subjects_of
from codexpool.pool.identity import Identity
from codexpool.pool.pool import Pool
from codexpool.pool.states import SERVING_OR_SOON
from codexpool.tokens.bearer import Bearer

logger = logging.getLogger("codexpool")

AT_ONCE = 4  # Lists that are read at the same time, besides those that are read with an account's usage.
SOON = 5.0  # Seconds after which all accounts are looked at again, while some list is not known.


class ModelLists:
    """``bearer`` returns the present token of an identity, by its name."""

    def __init__(self, pool: Pool, api: AccountApi, tasks: Tasks, bearer: Callable[[str], Bearer | None]) -> None:
        self._pool = pool
        self._known = pool.entitlements
        self._api = api
        self._tasks = tasks
        self._bearer = bearer
        self._under_way: set[tuple[str, str]] = set()  # Accounts with plan, and versions.
        self._is_reading_all = self._is_wanted = False
        self._all_at = 0.0  # When all were last looked at.

    def client_asks(self, version: str, *, is_answered: bool) -> None:
        """Follow a client's request for the models: have lists read that are due, unless that was done just now.

        ``is_answered``: all lists for this version are known.
        """
        now = time.time()
        is_new = self._known.asked_for(version, now)
        is_due = not self._all_at <= now < self._all_at + (FRESH if is_answered else SOON)
        if (is_new or is_due) and version in self._known.versions:
            self._have_all_read()

    def can_be_asked(self, identity: Identity) -> None:
        """Follow an identity that has become ready, or limited: have its lists read if they are not known."""
        if not all(self._known.was_asked(_plan(identity), version) for version in self._known.versions):
            self._have_all_read()

    def answer_names(self, name: str, version: str, etag: str) -> None:
        """Read a list again if an answer under an identity names another etag than it has."""
        identity = self._pool.identities.get(name)
        if identity is not None and self._known.is_outdated(_plan(identity), version, etag, time.time()):
            self._tasks.spawn(self._read(identity, _plan(identity), version))

    async def read(self, identity: Identity) -> None:
        """Read the lists of an identity's account that are due."""
        self._forget_others()
        await self._read_due(identity)

    async def _read_due(self, identity: Identity) -> None:
        plan = _plan(identity)
        for version in list(self._known.versions):
            if self._known.is_due(plan, version, time.time()):
                await self._read(identity, plan, version)

    def _have_all_read(self) -> None:
        self._is_wanted = True  # Also those of identities and versions that come while lists are read.
        if not self._is_reading_all:
            self._is_reading_all = True
            self._tasks.spawn(self._read_all())

    async def _read_all(self) -> None:
        """Read the lists that are due, a few at once: accounts may be many."""
        try:
            while self._is_wanted:
                self._is_wanted = False
                self._forget_others()
                identities = iter(list(self._pool.identities.values()))
                await asyncio.gather(*(self._read_each(identities) for _ in range(AT_ONCE)))
            self._all_at = time.time()
        finally:
            self._is_reading_all = False

    async def _read_each(self, identities: Iterator[Identity]) -> None:
        for identity in identities:
            await self._read_due(identity)

    async def _read(self, identity: Identity, plan: str, version: str) -> None:
        metadata, bearer, key = identity.metadata, self._bearer(identity.name), (plan, version)
        if metadata is None or identity.status not in SERVING_OR_SOON or key in self._under_way:
            return
        if bearer is None or bearer.fingerprint != identity.fingerprint:
            return  # Never the token of one identity with the account of another.
        self._under_way.add(key)
        try:
            read = await self._api.models(bearer, metadata, version, self._known.etag(plan, version))
        except UnreadError as error:
            logger.debug("%s: its models are not known: %s", identity.name, error)
            self._known.unread(plan, version, time.time())
        except Exception:  # A bug of ours must not keep the other accounts from being asked.
            logger.exception("%s: reading its models failed", identity.name)
            self._known.unread(plan, version, time.time())
        else:
            if read is None:
                self._known.unchanged(plan, version, time.time())
            elif version in self._known.versions:  # Else another version took its place meanwhile.
                self._known.learn(plan, version, *read, time.time())
        finally:
            self._under_way.discard(key)

    def _forget_others(self) -> None:
        self._known.keep({_plan(identity) for identity in self._pool.identities.values()})


def _plan(identity: Identity) -> str:
    return subjects_of(identity).plan
