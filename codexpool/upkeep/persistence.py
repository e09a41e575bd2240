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

from codexpool.common import tasks
from codexpool.members.ledger import Account, Spent
from codexpool.pool.breaker import Breaker
from codexpool.pool.identity import Condition, Identity, IdentityKey, Metadata
from codexpool.pool.sessions import Session
from codexpool.pool.usage import Usage
from codexpool.state import Record, Snapshot, State, record_name
from codexpool.state.base import UnopenedState

logger = logging.getLogger("codexpool")

POLL = 1.0
"""Seconds between two looks at what other proxies wrote."""

REWRITTEN_AFTER = 3600.0
"""Seconds after which a session in use is written again, so that it does not look forgotten."""

USED_AFTER = 10.0
"""Seconds after which it is written again that an identity was used."""

PATIENCE = 2.0
"""Seconds that an identity, or a person to be told, waits for the state at the start."""

REOPENED = (1.0, 30.0)
"""Seconds between two attempts to open the state: at first, and at most (they double in between)."""

BOUND_KEPT = 10_000
"""Sessions of which it is remembered that they were written."""


USAGE, FAMILIES, BREAKER, RESUMED, NOT_FOR = "usage", "families", "breaker", "resumed", "not_for"
"""The kinds of notes: by account and user, for all, by pool.toml, by token, and by what an exclusion is about."""


class Memory:
    """The state as the keeper uses it: opened in a thread, and never waited for by a request.

    It is *closed* until the file could be opened, which is tried again and again, and *open* from then on. While it
    is closed, all that is put is kept in memory. As it opens, what the file has is handed on first, and what was put
    is written after that: so a limit that an earlier run has noted is known before this run overwrites it.

    ``open_state`` opens what outlives the process, and may read files.
    """

    def __init__(self, open_state: Callable[[], State], owner: tasks.Tasks) -> None:
        self._bound: OrderedDict[str, tuple[IdentityKey, float]] = OrderedDict()
        self._used: dict[str, float] = {}
        self._usages: dict[IdentityKey, tuple[tuple[tuple[str, float], ...], float]] = {}
        self._open_state = open_state
        self._kept = UnopenedState()
        """What is put before the state is open."""
        self._state: State = self._kept
        self._known = Snapshot()
        self._is_open = asyncio.Event()
        self._is_closed = False
        self._opening = owner.spawn(self._opened())

    async def known(self) -> Snapshot:
        """Wait until the state is open, and return what earlier runs have left."""
        await self._is_open.wait()
        return self._known

    async def is_open_within(self, seconds: float) -> bool:
        """Wait until the state is open, ``seconds`` at most. Return whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_open.wait()
        except TimeoutError:
            return False
        return True

    async def share(self, take: Callable[[Snapshot], None]) -> None:
        """Hand on what an earlier run has left, and then what other proxies on this machine, and people, write."""
        state, self._known = await self._opening
        take(self._known)
        self._kept.write_to(state)
        self._state, self._kept = state, UnopenedState()
        self._is_open.set()
        while True:
            await asyncio.sleep(POLL)
            if (news := await tasks.in_thread(state.changes)) != Snapshot():
                take(news)

    async def claim(self, case: str) -> bool:
        """Whether it is for us to see to a case: nobody has before, in this process or another one."""
        await self.is_open_within(PATIENCE)
        return await tasks.in_thread(self._state.claim, case, time.time())

    def bind(self, session: str, known: Session) -> None:
        """A session is served by an identity."""
        now = time.time()
        written, at = self._bound.get(session, (None, 0.0))
        if written != known.key or abs(now - at) > REWRITTEN_AFTER:
            self._state.put_session(session, known.key, now, known.moves)
            self._bound[session] = (known.key, now)
            if len(self._bound) > BOUND_KEPT:
                self._bound.popitem(last=False)

    def saw_usage(self, key: IdentityKey, usage: Usage) -> None:
        """How much of its limits an account has used. A limit is written at once, all else now and then."""
        now, limited = time.time(), tuple(usage.limited.items())
        written, at = self._usages.get(key, ((), 0.0))
        if limited != written or abs(now - at) > USED_AFTER:
            self._state.put_note(USAGE, json.dumps(key), usage.document())
            self._usages[key] = (limited, now)

    def families_are(self, families: Mapping[str, str]) -> None:
        """Which family's limit counts for which model."""
        self._state.put_note(FAMILIES, "", dict(families))

    def excludes(self, subject: str, document: Mapping[str, Any]) -> None:
        """What a token, a plan or an account is not for (see `codexpool.pool.exclusions`)."""
        self._state.put_note(NOT_FOR, subject, dict(document))

    def breaker_is(self, pool_toml: Path, breaker: Breaker) -> None:
        """Whether the breaker of a pool is open, and why."""
        self._state.put_note(BREAKER, str(pool_toml), breaker.document())

    def used(self, pool_toml: Path, identity: Identity) -> None:
        """An identity has served a request."""
        now = time.time()
        if abs(now - self._used.get(identity.name, 0.0)) > USED_AFTER:
            self._used[identity.name] = now
            self.met(pool_toml, identity, now)

    def met(self, pool_toml: Path, identity: Identity, used_at: float | None = None) -> None:
        """Which token an identity of a pool.toml has, and whose that is."""
        if identity.metadata is not None:
            record = Record(identity.fingerprint, identity.metadata.key, used_at or self._used.get(identity.name))
            self._state.put_record(record_name(pool_toml, identity.name), record)

    def belongs(self, pool_toml: Path, identity: Identity, key: IdentityKey) -> None:
        """Whose an identity of a pool.toml is, although it has a token of somebody else just now."""
        self._state.put_record(record_name(pool_toml, identity.name), Record(identity.fingerprint, key, None))

    def left(self, pool_toml: Path, name: str) -> None:
        """An identity was taken out of a pool.toml: whose it was binds nobody who takes its name."""
        self._state.drop_record(record_name(pool_toml, name))
        self._known.records.pop(record_name(pool_toml, name), None)

    def learned(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """What whoami and routing discovery said of a token."""
        self._state.put_metadata(fingerprint, metadata, at)

    def became(self, fingerprint: str, condition: Condition) -> None:
        """The condition of the identity that has this token."""
        if fingerprint:
            self._state.put_condition(fingerprint, condition)

    def forget(self, fingerprint: str) -> None:
        """A token that there is another one for."""
        if fingerprint:
            self._state.drop_condition(fingerprint)

    def spent(self, account: Account, spent: Spent) -> None:
        """What this process has counted for an account."""
        self._state.put_spent(account, spent)

    def close(self) -> None:
        """Write what is still to be written. May take some seconds: for the end of the process."""
        self._is_closed = True
        if self._state is self._kept:
            if self._kept.is_empty:
                return
            try:
                self._state = self._open_state()
            except Exception as error:
                logger.error("state: what this proxy has learned and counted is lost: %s", error)
                return
            self._kept.write_to(self._state)
        self._state.close()

    async def _opened(self) -> tuple[State, Snapshot]:
        """Open the state, however often that has to be tried."""
        is_failing = False
        for pause in tasks.growing_pauses(*REOPENED):
            try:
                opened = await tasks.in_thread(self._open)
            except Exception as error:  # A StateError; and whatever else it is, nobody is to lose the state over it.
                if not is_failing:
                    reason = str(error) or type(error).__name__
                    logger.error("state: %s. It is tried again; what is new is kept in memory meanwhile", reason)
                is_failing = True
                await asyncio.sleep(pause)
            else:
                if is_failing:
                    logger.info("state: it is open, and what is new is written")
                return opened
        raise AssertionError("pauses do not end")

    def _open(self) -> tuple[State, Snapshot]:
        """Open and read the state. For a thread."""
        state = self._open_state()
        if self._is_closed:  # The addon was reloaded meanwhile, and nobody else would close it.
            state.close()
        return state, state.load()
