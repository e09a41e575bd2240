"""What the pool remembers beyond this process: the state, opened in a thread, and never waited for by a request."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codexpool.members.ledger import Account, Spent
from codexpool.pool.breaker import Breaker
from codexpool.pool.identity import Condition, Identity, IdentityKey, Metadata
from codexpool.pool.sessions import Session
from codexpool.pool.usage import Usage
from codexpool.state import MemoryState, Record, Snapshot, State, StateError, record_name
from codexpool.tasks import Tasks

logger = logging.getLogger("codexpool")

POLL = 1.0
"""Seconds between two looks at what other proxies wrote."""

REWRITTEN_AFTER = 3600.0
"""Seconds after which a session in use is written again, so that it does not look forgotten."""

USED_AFTER = 10.0
"""Seconds after which it is written again that an identity was used."""

BOUND_KEPT = 10_000
"""Sessions of which it is remembered that they were written."""


USAGE, FAMILIES, BREAKER, RESUMED, NOT_FOR = "usage", "families", "breaker", "resumed", "not_for"
"""The kinds of notes: by account and user, for all, by pool.toml, by token, and by what an exclusion is about."""


class Memory:
    """The state as the keeper uses it. What is put before it is open is lost, and found out anew.

    Only what is spent could not be, and waits until then. ``open_state`` opens what outlives the process, and may
    read files.
    """

    def __init__(self, open_state: Callable[[], State], tasks: Tasks) -> None:
        self._bound: OrderedDict[str, tuple[IdentityKey, float]] = OrderedDict()
        self._used: dict[str, float] = {}
        self._usages: dict[IdentityKey, tuple[tuple[tuple[str, float], ...], float]] = {}
        self._spent: dict[Account, Spent] = {}
        self._opened = tasks.spawn(asyncio.to_thread(_opened, open_state))

    async def known(self) -> Snapshot:
        """What earlier runs have left."""
        return (await asyncio.shield(self._opened))[1]

    async def share(self, take: Callable[[Snapshot], None]) -> None:
        """Hand on what an earlier run has left, and then what other proxies on this machine, and people, write."""
        state, known = await asyncio.shield(self._opened)
        self._put_spent()
        take(known)
        while True:
            await asyncio.sleep(POLL)
            if (news := await asyncio.to_thread(state.changes)) != Snapshot():
                take(news)

    async def claim(self, case: str) -> bool:
        """Whether it is for us to see to a case: nobody has before, in this process or another one."""
        state, _ = await asyncio.shield(self._opened)
        return await asyncio.to_thread(state.claim, case, time.time())

    def bind(self, session: str, known: Session) -> None:
        """A session is served by an identity."""
        if (state := self._now()) is None:
            return
        now = time.time()
        written, at = self._bound.get(session, (None, 0.0))
        if written != known.key or now - at > REWRITTEN_AFTER:
            state.put_session(session, known.key, now, known.moves)
            self._bound[session] = (known.key, now)
            if len(self._bound) > BOUND_KEPT:
                self._bound.popitem(last=False)

    def saw_usage(self, key: IdentityKey, usage: Usage) -> None:
        """How much of its limits an account has used. A limit is written at once, all else now and then."""
        if (state := self._now()) is None:
            return
        now, limited = time.time(), tuple(usage.limited.items())
        written, at = self._usages.get(key, ((), 0.0))
        if limited != written or abs(now - at) > USED_AFTER:
            state.put_note(USAGE, json.dumps(key), usage.document())
            self._usages[key] = (limited, now)

    def families_are(self, families: Mapping[str, str]) -> None:
        """Which family's limit counts for which model."""
        if (state := self._now()) is not None:
            state.put_note(FAMILIES, "", dict(families))

    def excludes(self, subject: str, document: Mapping[str, Any]) -> None:
        """What a token, a plan or an account is not for (see `codexpool.pool.exclusions`)."""
        if (state := self._now()) is not None:
            state.put_note(NOT_FOR, subject, dict(document))

    def breaker_is(self, pool_toml: Path, breaker: Breaker) -> None:
        """Whether the breaker of a pool is open, and why."""
        if (state := self._now()) is not None:
            state.put_note(BREAKER, str(pool_toml), breaker.document())

    def used(self, pool_toml: Path, identity: Identity) -> None:
        """An identity has served a request."""
        now = time.time()
        if abs(now - self._used.get(identity.name, 0.0)) > USED_AFTER:
            self._used[identity.name] = now
            self.met(pool_toml, identity, now)

    def met(self, pool_toml: Path, identity: Identity, used_at: float | None = None) -> None:
        """Which token an identity of a pool.toml has, and whose that is."""
        if identity.metadata is not None and (state := self._now()) is not None:
            record = Record(identity.fingerprint, identity.metadata.key, used_at or self._used.get(identity.name))
            state.put_record(record_name(pool_toml, identity.name), record)

    def belongs(self, pool_toml: Path, identity: Identity, key: IdentityKey) -> None:
        """Whose an identity of a pool.toml is, although it has a token of somebody else just now."""
        if (state := self._now()) is not None:
            state.put_record(record_name(pool_toml, identity.name), Record(identity.fingerprint, key, None))

    def left(self, pool_toml: Path, name: str) -> None:
        """An identity was taken out of a pool.toml: whose it was binds nobody who takes its name."""
        if (state := self._now()) is not None:
            state.drop_record(record_name(pool_toml, name))
            self._opened.result()[1].records.pop(record_name(pool_toml, name), None)

    def learned(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """What whoami and routing discovery said of a token."""
        if (state := self._now()) is not None:
            state.put_metadata(fingerprint, metadata, at)

    def became(self, fingerprint: str, condition: Condition) -> None:
        """The condition of the identity that has this token."""
        if (state := self._now()) is not None and fingerprint:
            state.put_condition(fingerprint, condition)

    def forget(self, fingerprint: str) -> None:
        """A token that there is another one for."""
        if (state := self._now()) is not None and fingerprint:
            state.drop_condition(fingerprint)

    def spent(self, account: Account, spent: Spent) -> None:
        """What this process has counted for an account. It is kept until the state is open."""
        self._spent[account] = spent
        self._put_spent()

    def close(self) -> None:
        """Write what is still to be written."""
        self._put_spent()
        if (state := self._now()) is not None:
            state.close()

    def _put_spent(self) -> None:
        if self._spent and (state := self._now()) is not None:
            for account, spent in self._spent.items():
                state.put_spent(account, spent)
            self._spent.clear()

    def _now(self) -> State | None:
        """The state, if it is open by now: nobody waits for a disk."""
        if self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None:
            return self._opened.result()[0]
        return None


def _opened(open_state: Callable[[], State]) -> tuple[State, Snapshot]:
    try:
        state = open_state()
    except StateError as error:
        logger.error("%s. Until then sessions and metadata are kept in memory only", error)
        state = MemoryState()
    except Exception as error:  # Whatever it is, nobody is to wait for it for ever.
        logger.error("state: it cannot be opened (%s); nothing outlives this process", error or type(error).__name__)
        state = MemoryState()
    return state, state.load()
