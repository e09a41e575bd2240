"""Stores what the pool learns, and applies what earlier runs, other proxies and people with `codexpool` stored.

The state is opened in a thread; no request waits for it. What is put before it is open is kept in memory, and written
after the contents of the file were applied: a limit noted by an earlier run counts before this run overwrites it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from codexpool.common import tasks
from codexpool.common.recent import Recent
from codexpool.members.shares import Answer, Ask, Subject
from codexpool.pool.identity import Condition, Identity, IdentityKey, Status
from codexpool.pool.sessions import Session
from codexpool.pool.states import REFUSED_FOR_GOOD
from codexpool.pool.usage import Usage
from codexpool.state import Record, Row, Rows, Snapshot, State, StateError, UnavailableError, record_name
from codexpool.state.notes import USAGE

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger("codexpool")

T = TypeVar("T")

POLL = 1.0  # Seconds between two reads of what other proxies wrote.
SESSION_REWRITE = 3600.0  # Seconds after which a session in use is written again, so that it is not pruned.
USED_REWRITE = 10.0  # Seconds after which the last use of an identity, or an account's usage, is written again.
PATIENCE = 2.0  # Seconds from the start that connections, identities and notices wait for the state.
ASKED_WITHIN = 0.25  # Seconds to find out whether another proxy asks a question.
ANSWERED_WITHIN = 5.0  # Seconds for which the question is another proxy's.
OPEN_PAUSES = (1.0, 10.0)  # Seconds between two attempts to open the state: the first pause and the longest.
MAX_UNWRITTEN = 100_000  # Rows that wait for the state to open; of more, the oldest are dropped.
ROWS_TRACKED = 10_000  # Rows for which it is known when they were written.


class Persistence(Rows):
    """The state of a running proxy. ``open_state`` opens it, and may read files and fail; it is retried.

    ``scope`` is the key there of what belongs to the proxy's pool.toml.
    """

    def __init__(self, open_state: Callable[[], State], owner: tasks.Tasks, scope: str) -> None:
        super().__init__()
        self.scope = scope
        self._open_state = open_state
        self._unwritten: dict[tuple[str, Hashable], Row] = {}  # What was put before the state is open.
        self._state: State | None = None  # None until it is open, and the contents of the file were applied.
        self._earlier = Snapshot()
        self._is_open = asyncio.Event()
        self._patient_until = asyncio.get_running_loop().time() + PATIENCE
        self._is_closed = False
        self._opening = owner.spawn(self._open())
        self._written: Recent[Hashable, tuple[object, float]] = Recent(ROWS_TRACKED)
        self._used_at: dict[str, float] = {}
        self._questions: Recent[str, float] = Recent(ROWS_TRACKED)  # When this proxy last took them.
        self._news: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._condemned: Recent[str, float] = Recent(ROWS_TRACKED)  # Since when tokens are dead, as the state says.

    async def run(self, apply: Callable[[Snapshot], None]) -> None:
        """Apply what earlier runs stored, and then, for ever, what others write."""
        state, self._earlier = await self._opening
        self._take_over(self._earlier, apply)
        self._use(state)
        self._is_open.set()
        loop = asyncio.get_running_loop()
        while True:
            end = loop.time() + POLL
            if (news := await tasks.in_thread(state.changes, POLL)) != Snapshot():
                self._take_over(news, apply)
                self._news.set_result(news)
                self._news = loop.create_future()
            else:
                await asyncio.sleep(end - loop.time())  # It may return early: the engine is out of reach.

    async def earlier(self) -> Snapshot:
        """Wait until the state is open, and return what earlier runs stored."""
        await self._is_open.wait()
        return self._earlier

    async def opened(self) -> State:
        """Wait until the state is open, and what earlier runs stored was applied."""
        await self._is_open.wait()
        assert self._state is not None
        return self._state

    async def opens_in_time(self) -> bool:
        """Wait until the state is open, or `PATIENCE` after the start is over. Return whether it is open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._patient_until):
                await self._is_open.wait()
        return self._is_open.is_set()

    @property
    def is_connected(self) -> bool:
        """Whether the state can be asked now, as far as is known."""
        return self._state is not None and self._state.is_connected

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._unwritten) if self._state is None else self._state.waiting

    def look_up(self, sessions: Sequence[str]) -> Mapping[str, tuple[IdentityKey, int]]:
        """Return who serves these sessions, and how often they moved. May take a while; raises StateError."""
        return self._state.look_up(sessions) if self._state is not None else {}

    def transact(self, work: Callable[[Connection], T], /) -> T:
        """Run a function in a short transaction of the state. May take a while; raises StateError."""
        if self._state is None:
            raise UnavailableError("the state is not open yet", "wait for it")
        return self._state.transact(work)

    def exchange_leases(self, asks: Sequence[Ask]) -> Mapping[Subject, Answer]:
        """Tell the state what is kept and wanted of some bounds. May take a while; raises StateError."""
        from codexpool.state import leases  # In a thread: it imports SQLAlchemy.

        name = self._state.name if self._state is not None else ""
        return self.transact(lambda connection: leases.exchange(connection, name, self.scope, asks))

    async def claim(self, case: str) -> bool:
        """Return whether this process must handle a case: none has before, here or in another process."""
        await self.opens_in_time()
        if self._state is None:
            is_new = ("claims", case) not in self._unwritten
            self.put_claim(case, time.time())
            return is_new
        return await tasks.in_thread(self._state.claim, case, time.time())

    async def news(self) -> Snapshot:
        """Wait for the next news, and return them once they are applied."""
        return await asyncio.shield(self._news)

    async def is_to_ask(self, question: str) -> bool:
        """Return whether this proxy should ask the backend something: no other one does so just now.

        If the state does not say so at once, it should: better asked twice than late.
        """
        state, now = self._state, time.time()
        was_ours = abs(now - self._questions.get(question, 0.0)) < ANSWERED_WITHIN
        if was_ours or state is None or not state.is_connected:
            return True
        is_ours = True
        with contextlib.suppress(StateError, TimeoutError):
            async with asyncio.timeout(ASKED_WITHIN):
                is_ours = await tasks.in_thread(_take, state, question, now + state.offset, daemon=True)
        if is_ours:
            self._questions[question] = now
        return is_ours

    def put(self, row: Row) -> None:
        if self._state is not None:
            self._state.put(row)
            return
        self._unwritten.pop(row[:2], None)
        self._unwritten[row[:2]] = row
        if len(self._unwritten) > MAX_UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]

    def _use(self, state: State) -> None:
        self._state = state
        for row in self._unwritten.values():
            state.put(row)
        self._unwritten.clear()

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        if condition.status in REFUSED_FOR_GOOD:
            self._condemned[fingerprint] = condition.since
        if fingerprint and not _is_of_flag(condition):
            super().put_condition(fingerprint, condition)

    def drop_condition(self, fingerprint: str, at: float | None = None) -> None:
        self._condemned.pop(fingerprint, None)
        if fingerprint:
            super().drop_condition(fingerprint, at)

    def vouched(self, fingerprint: str, at: float) -> None:
        """Store that whoami, asked at ``at``, vouches for a token, if the state says that it was dead before."""
        since = self._condemned.get(fingerprint)
        if since is not None and since <= at:
            self.drop_condition(fingerprint, at)

    def condition_learned(self, fingerprint: str) -> None:
        """Note that the state has a token's condition, and not what was put before it was open."""
        self._unwritten.pop(("conditions", fingerprint), None)

    def _take_over(self, news: Snapshot, apply: Callable[[Snapshot], None]) -> None:
        try:
            apply(news)
        except Exception:  # A bug of ours must not end the reading of news.
            logger.exception("state: what others have stored cannot be applied")
        for fingerprint, condition in news.conditions.items():
            if condition.status in REFUSED_FOR_GOOD:
                self._condemned[fingerprint] = condition.since

    def session_bound(self, name: str, session: Session) -> None:
        """Store the identity of a session, if that changed or was stored long ago."""
        now = time.time()
        if abs(now - session.stored_at) > SESSION_REWRITE:
            session.stored_at = now
            self.put_session(name, session.key, now, session.moves)

    def usage_seen(self, key: IdentityKey, usage: Usage) -> None:
        """Store an account's usage: a limit, its end and a reading at once, everything else now and then."""
        if self._is_due(key, _urgent(usage), USED_REWRITE):
            self.put_note(USAGE, json.dumps(key), usage.document())

    def usage_learned(self, key: IdentityKey, usage: Usage) -> None:
        """Note that the state has an account's usage: another proxy has just stored it."""
        self._written[key] = (_urgent(usage), time.time())

    def identity_served(self, identity: Identity) -> None:
        """Store, now and then, that an identity served a request."""
        if self._is_due(identity, None, USED_REWRITE):
            self._used_at[identity.name] = time.time()
            self.put_identity(identity)

    def _is_due(self, key: Hashable, value: object, seconds: float) -> bool:
        """Return whether a value is new, or was last written more than ``seconds`` ago; it counts as written then."""
        now = time.time()
        written, at = self._written.get(key, (None, 0.0))
        if written == value and abs(now - at) <= seconds:
            return False
        self._written[key] = (value, now)
        return True

    def put_identity(self, identity: Identity) -> None:
        """Store the token of an identity, its owner, and when it last served."""
        if identity.metadata is not None:
            record = Record(identity.fingerprint, identity.metadata.key, self._used_at.get(identity.name))
            self.put_record(record_name(self.scope, identity.name), record)

    def identity_renamed(self, before: str, identity: Identity) -> None:
        """Store what is known of an identity under its other name, and nothing under the one before."""
        if (used_at := self._used_at.pop(before, None)) is not None:
            self._used_at[identity.name] = used_at
        self.put_identity(identity)
        self.drop_identity(before)

    def drop_identity(self, name: str) -> None:
        """Forget a removed identity: its account does not bind another one with the same name."""
        self.drop_record(record_name(self.scope, name))
        self._earlier.records.pop(record_name(self.scope, name), None)

    def close(self) -> None:
        """Write what is unwritten. May take some seconds: for the end of the process."""
        self._is_closed = True
        if self._state is None:
            if not self._unwritten:
                return
            try:
                self._use(self._open_state())
            except Exception as error:
                logger.error("state: what this proxy learned and counted is lost: %s", error)
        if self._state is not None:
            self._state.close()

    async def _open(self) -> tuple[State, Snapshot]:
        is_failing = False
        for pause in tasks.growing_pauses(*OPEN_PAUSES):
            try:
                opened = await tasks.in_thread(self._open_and_load)
            except Exception as error:  # A StateError; but no bug, either, may lose the state.
                if not is_failing:
                    reason = str(error) or type(error).__name__
                    logger.error("state: %s. Retrying; new data is kept in memory", reason)
                is_failing = True
                await asyncio.sleep(pause)
            else:
                if is_failing:
                    logger.info("state: open, new data is written")
                return opened
        raise AssertionError("pauses do not end")

    def _open_and_load(self) -> tuple[State, Snapshot]:
        state = self._open_state()
        if self._is_closed:  # The addon was reloaded meanwhile: nothing else would close this one.
            state.close()
        return state, state.load()


def _urgent(usage: Usage) -> tuple[object, ...]:
    """Return what others must learn of an account's usage at once."""
    return usage.read_at, usage.credits, *usage.limited.items()


def _take(state: State, question: str, at: float) -> bool:
    from codexpool.state import questions  # In a thread: it imports SQLAlchemy.

    return state.transact(lambda connection: questions.take(connection, question, at, ANSWERED_WITHIN))


def _is_of_flag(condition: Condition) -> bool:
    """Return whether a condition is the flag of pool.toml: the state may have the evidence, which that lacks."""
    evidence = condition.evidence
    return condition.status is Status.NEEDS_REPLACEMENT and (evidence is None or not evidence.whoami)
