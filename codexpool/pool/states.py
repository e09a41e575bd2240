"""The statuses of the identities, and the events that change them.

Rule 1: `TRANSITIONS` has every status an event leads to. An event that is not listed for a status leaves it alone.
Rule 2: a method handles one event. It adds what a table cannot say: evidence, times, and the conditions on them.
Rule 3: `IdentityStates.become` makes every change. It pauses an identity that is held back (paused in pool.toml, or a
second token of the same account and user) instead of letting it serve, counts refusals, and tells the listener.

A late answer is recognised by its fingerprint and its time: it changes nothing if it is about another token than the
present one, or if the attempt was sent before whoami last vouched for the token. However many requests are refused at
once, one confirmation follows.

Everything runs on one thread, without clock, I/O or waiting: ``at`` is the present unix second, always given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from codexpool.pool.breaker import Breaker
from codexpool.pool.causes import Cause, Causes
from codexpool.pool.confirmation import Confirmation
from codexpool.pool.identity import (
    READ_WITHIN,
    Condition,
    Evidence,
    Identity,
    IdentityKey,
    Kind,
    Metadata,
    Status,
    Word,
)
from codexpool.pool.selection import Ranking
from codexpool.pool.sessions import Session
from codexpool.pool.usage import MAIN, NOTHING, Limit, Usage

SHORT_REST = 2.0  # Seconds of the first rest after a refusal that sets no time; doubles up to...
LONGEST_REST = 60.0
SHORTEST_REST = 0.1
LONGEST_RETRY_AFTER = 3600.0  # Longest rest, in seconds, that a Retry-After can set.

ASKED_FOR = 120.0
"""Seconds after which no answer of whoami is still on its way. (What seems older was asked after the clock was set
back.)"""

JUST_ISSUED = 300.0
"""Seconds for which a token that was just issued is not renewed when refused: the next one would be refused too."""

RENEWED_AGAIN = 15.0
"""The same for a token that has served others since: a client that is always refused must not cause a renewal each
time."""

DOUBTS = 3  # Refusals in a row of unknown cause after which an identity rests.


class Event(StrEnum):
    REFUSED = "a request was refused with a 401"
    REFUSED_WHEN_NEW = "a request was refused with a 401, and the token was only just issued"
    THROTTLED = "a request was answered with a 429 that names no limit"
    DOUBTED = "several refusals in a row did not say whose fault they are"
    LIMITED = "its account has reached its main limit"
    LIFTED = "the backend says that its account's main limit is over"
    WORKSPACE_CLOSED = "its workspace does not serve it"
    VOUCHED = "whoami found its token healthy"
    OTHER_ACCOUNT = "whoami says its token belongs to another account"
    CONFIRMED_DEAD = "whoami says its token is dead"
    LOGIN_OVER = "the token endpoint says its login is over"
    RENEWED = "it has a new token"
    UNUSABLE = "its token has expired, and the new one cannot be used"
    UNRENEWED = "its only token was refused"
    RECALLED = "an earlier run knew the account of its token"
    TIME_UP = "its rest or limit is over"
    RESUMED = "a person says that nothing is wrong with it"


SERVING_OR_SOON: Final = (Status.READY, Status.RESTING, Status.LIMITED)
RETURNING: Final = frozenset({Status.LIMITED, Status.RESTING})  # Statuses that end by themselves.
CONDEMNED: Final = frozenset({Status.NEEDS_REPLACEMENT, Status.NEEDS_LOGIN, Status.CONFLICT})  # A person ends them.
REFUSED_FOR_GOOD: Final = frozenset({Status.NEEDS_REPLACEMENT, Status.NEEDS_LOGIN})  # Statuses the breaker counts.
IN_DOUBT: Final = frozenset({Status.UNVERIFIED, Status.SUSPECT})  # Whoami's answer or another token ends them.

JUDGED: Final = frozenset({Status.SUSPECT, Status.NEEDS_REPLACEMENT, Status.CONFLICT})
"""Statuses an answer led to: whoami's word cannot end them if it was asked before that answer."""

SHARED: Final = frozenset({Status.LIMITED, Status.PAUSED})  # Of the whole account: other processes take them over.

HELD_OVER: Final = frozenset({Status.LIMITED, Status.RESTING, Status.NEEDS_LOGIN})
"""Statuses that outlive the process until their time is up; a new process finds out all others again."""

TRANSITIONS: Final[Mapping[Event, Mapping[Status, Status]]] = {
    Event.REFUSED: {Status.READY: Status.SUSPECT},
    Event.REFUSED_WHEN_NEW: {Status.READY: Status.RESTING},
    Event.THROTTLED: {Status.READY: Status.RESTING},
    Event.DOUBTED: {Status.READY: Status.RESTING},
    Event.LIMITED: dict.fromkeys(SERVING_OR_SOON, Status.LIMITED),
    Event.LIFTED: {Status.LIMITED: Status.READY},
    Event.WORKSPACE_CLOSED: dict.fromkeys(SERVING_OR_SOON, Status.PAUSED),
    Event.VOUCHED: {
        Status.SUSPECT: Status.RESTING,  # Its token is good, and yet a request was refused.
        **dict.fromkeys((Status.UNVERIFIED, Status.NEEDS_REPLACEMENT, Status.CONFLICT), Status.READY),
    },
    Event.OTHER_ACCOUNT: dict.fromkeys(Status, Status.CONFLICT),
    Event.CONFIRMED_DEAD: dict.fromkeys(Status, Status.NEEDS_REPLACEMENT),
    Event.LOGIN_OVER: dict.fromkeys(Status, Status.NEEDS_LOGIN),
    Event.RENEWED: dict.fromkeys((Status.SUSPECT, Status.RESTING, Status.NEEDS_LOGIN), Status.READY),
    Event.UNUSABLE: dict.fromkeys((Status.UNVERIFIED, Status.READY), Status.SUSPECT),
    Event.UNRENEWED: dict.fromkeys((Status.UNVERIFIED, Status.SUSPECT, Status.RESTING), Status.RESTING),
    Event.RECALLED: {Status.UNVERIFIED: Status.READY},
    Event.TIME_UP: dict.fromkeys(RETURNING, Status.READY),
    Event.RESUMED: dict.fromkeys((*RETURNING, Status.PAUSED), Status.READY),
}
"""Event by event: the statuses it changes, and what to. For READY the identity's account must be known and not
limited; `IdentityStates.awake` says what it becomes otherwise."""


AT_LIMIT: Final = "its account has reached a limit"  # Evidence from a reading, which no request has met.


def limit_event(condition: Condition, usage: Usage, at: float) -> Event | None:
    """Return what the newest word on an account's main limit means for a condition; None if it changes nothing."""
    until = usage.limited_until(MAIN, at)
    if until is None:
        return Event.LIFTED if usage.is_lifted_since(condition.since) else None
    return Event.LIMITED if (condition.status, condition.until) != (Status.LIMITED, until) else None


class PoolListener:
    """Follows what happens in a pool; this one ignores it."""

    def status_changed(self, identity: Identity, before: Condition) -> None:
        """Follow an identity to another condition; ``before`` is the one it left."""

    def token_doubted(self, identity: Identity) -> None:
        """Have a token verified in the background: its identity goes on serving."""

    def limits_reset(self, identity: Identity) -> None:
        """Have an account's usage read: a person has spent one of its reset credits."""

    def exclusions_changed(self, subject: str) -> None:
        """Follow what is known against a subject of `codexpool.pool.exclusions`."""

    def session_bound(self, name: str, session: Session) -> None:
        """Follow a session to the identity that serves it from now on."""


NO_LISTENER: Final = PoolListener()


class IdentityStates:
    """The identities of a pool, and the condition of each."""

    def __init__(self, listener: PoolListener, ranking: Ranking) -> None:
        self.identities: dict[str, Identity] = {}
        self.breaker = Breaker()
        self.causes = Causes()
        self.confirmation = Confirmation()
        self.by_keys: dict[IdentityKey, Identity] = {}  # Who serves an account and user: the first of the file.
        self.by_account: dict[str, list[Identity]] = {}
        self.revision = 0  # Changes with the identities, their statuses and accounts.
        self._listener = listener
        self._ranking = ranking
        self._usages: dict[IdentityKey, Usage] = {}
        self.unread_until = 0.0  # Until then turns may wait for a first reading.

    def usage(self, key: IdentityKey) -> Usage:
        """Return what is known of the limits of an account and user, to be added to."""
        return self._usages.setdefault(key, Usage())

    def usage_of(self, identity: Identity) -> Usage:
        """Return the same of an identity, to be read only."""
        return self._usages.get(identity.metadata.key, NOTHING) if identity.metadata is not None else NOTHING

    # -- its token

    def refused(self, name: str, evidence: Evidence, sent_at: float, cause: Cause | None = None) -> None:
        """Handle a 401 that may mean the token is dead. The identity is suspect until whoami or a renewal tells.

        If the token was only just issued, the identity rests: the next one would be refused too. If the refusal is
        the request's own fault (see `codexpool.pool.causes`), it serves on, and its token is verified meanwhile.
        """
        identity = self.current(name, evidence.fingerprint)
        if identity is None or not self.changes(identity, Event.REFUSED):
            return
        at = evidence.at
        if sent_at < identity.vouched_at <= at:  # A time in the future says nothing: the clock was set back.
            return
        self.confirmation.request_refused(evidence.fingerprint)
        is_new = identity.kind.is_renewable and (
            identity.issued_at <= at < identity.issued_at + JUST_ISSUED
            or identity.renewed_at <= at < identity.renewed_at + RENEWED_AGAIN
        )
        if self.causes.is_own(cause, identity.fingerprint, at):
            if not is_new:
                self._listener.token_doubted(identity)
        elif is_new:
            self._rest(identity, Event.REFUSED_WHEN_NEW, at, evidence, cause=cause)
        else:
            self._apply(identity, Event.REFUSED, at, evidence, cause=cause)

    def renewed(self, name: str, stale: str, fingerprint: str, at: float, issued: bool) -> None:
        """Replace the token with the fingerprint ``stale``. ``issued``: it was made just now, not only found."""
        identity = self.current(name, stale)
        if identity is None:
            return
        self.causes.withdraw(stale)
        identity.fingerprint, identity.unsendable = fingerprint, False
        identity.issued_at = at if issued else 0.0
        identity.renewed_at = at if issued else identity.renewed_at
        self.breaker.tried()
        if identity.status is Status.NEEDS_LOGIN:
            self._close_breaker_opened_by(identity)
        self._apply(identity, Event.RENEWED, at)

    def unusable(self, name: str, fingerprint: str, evidence: Evidence) -> None:
        """Handle an expired token whose replacement cannot be used."""
        self._apply(self.current(name, fingerprint), Event.UNUSABLE, evidence.at, evidence)

    def unrenewed(self, name: str, fingerprint: str, evidence: Evidence, at: float, until: float | None) -> None:
        """Handle a failed renewal: there is only a refused token, or none. ``until`` says when that may change.

        None: the refused token is the only one, and is tried again after a rest.
        """
        identity = self.current(name, fingerprint)
        if identity is None or not self.changes(identity, Event.UNRENEWED):
            return
        if until is None:
            self._rest(identity, Event.UNRENEWED, at, evidence)
        else:
            identity.unsendable = True
            self._apply(identity, Event.UNRENEWED, at, evidence, until)

    def whoami_said(self, name: str, word: Word, evidence: Evidence, metadata: Metadata | None = None) -> None:
        """Handle whoami's word on a token.

        For an agent, the registration of a task takes whoami's place. ``evidence`` is of whoami's answer, its time
        the one at which whoami was asked. A refusal that made the identity suspect is the better reason, and is kept,
        unless it is an agent's: that may have been its task's. ``metadata`` comes with `Word.HEALTHY`. A word against
        the token changes the status once it is final (see `codexpool.pool.confirmation`).
        """
        identity = self.current(name, evidence.fingerprint)
        if identity is None:
            return
        at, since = evidence.at, identity.condition.since
        if word is Word.HEALTHY and identity.status in JUDGED and since - ASKED_FOR < at < since:
            return  # Asked before the refusal: the token may have died in between.
        if word is Word.REFUSED and identity.cleared_at - ASKED_FOR < at < identity.cleared_at:
            return  # Another proxy or a person asked later, and found it healthy.
        if word is Word.HEALTHY:
            self.confirmation.vouched(name, identity.fingerprint)
            self._vouched(identity, metadata, at)
            return
        if word is Word.UNREACHABLE or not self.confirmation.is_final(name, evidence):
            if identity.status is Status.UNVERIFIED:  # The reason why it still is.
                identity.condition = replace(identity.condition, evidence=evidence)
            return
        if identity.status is Status.SUSPECT and identity.kind is not Kind.AGENT:
            evidence = identity.condition.evidence or evidence
        evidence = replace(evidence, whoami=word.value)
        self._apply(
            identity, Event.OTHER_ACCOUNT if word is Word.OTHER_ACCOUNT else Event.CONFIRMED_DEAD, at, evidence
        )

    def login_over(self, name: str, fingerprint: str, evidence: Evidence) -> None:
        """Handle the token endpoint's word that a refresh token is dead."""
        self._apply(self.current(name, fingerprint), Event.LOGIN_OVER, evidence.at, evidence)

    def recall(self, name: str, fingerprint: str, metadata: Metadata, at: float) -> None:
        """Take an earlier run's word on the same token: enough to serve until whoami confirms it."""
        identity = self.current(name, fingerprint)
        if identity is None or not self.changes(identity, Event.RECALLED) or identity.metadata is not None:
            return
        identity.metadata = metadata
        self._settle_twins(at)
        self._apply(identity, Event.RECALLED, at)

    # -- its account

    def limited(
        self, name: str, key: IdentityKey, limit: Limit, evidence: Evidence, cause: Cause | None = None
    ) -> float:
        """Handle a limit of an account, whatever its token. Return the unix second until which it is believed."""
        until = self.usage(key).limit(limit, evidence.at)
        identity = self.identities.get(name)
        if identity is not None:
            self._ranking.change(identity)
        if identity is not None and identity.metadata is not None and identity.metadata.key == key:
            if limit.family == MAIN:
                self._apply(identity, Event.LIMITED, evidence.at, evidence, until, cause)
            self.breaker.tried()
        return until

    def usage_learned(self, key: IdentityKey, at: float) -> None:
        """Follow what a reading of wham/usage, or another proxy, says of an account: it may be limited, or not."""
        if (identity := self.by_keys.get(key)) is None:
            return
        identity.unread_since = None
        self._ranking.change(identity)
        usage = self.usage(key)
        event = limit_event(identity.condition, usage, at)
        if event is Event.LIFTED:
            self._apply(identity, event, at)
        elif event is Event.LIMITED:
            said_at = usage.said_at.get(MAIN, at)  # A later word may end it, even if that is learned first.
            evidence = Evidence(said_at, note=AT_LIMIT)
            self._apply(identity, event, said_at, evidence, usage.limited_until(MAIN, at))

    def read_failed(self, key: IdentityKey) -> None:
        """Have new sessions avoid an identity no longer: its account's usage cannot be read now."""
        if (identity := self.by_keys.get(key)) is not None and identity.unread_since is not None:
            identity.unread_since = None
            self._ranking.change(identity)

    def unread(self, name: str, at: float) -> None:
        """Have new sessions avoid an identity until its account's usage is read, or cannot be."""
        if (identity := self.identities.get(name)) is not None:
            identity.unread_since, self.unread_until = at, at + READ_WITHIN
            self._ranking.change(identity)

    def throttled(self, name: str, evidence: Evidence, retry_after: float | None, cause: Cause | None = None) -> None:
        """Handle a 429 without a limit: rest for the seconds that the answer says, else for longer each time."""
        identity = self.current(name, evidence.fingerprint)
        if identity is not None and self.changes(identity, Event.THROTTLED):
            self._rest(identity, Event.THROTTLED, evidence.at, evidence, retry_after, cause)
            self.breaker.tried()

    def doubted(self, name: str, evidence: Evidence, cause: Cause | None = None) -> None:
        """Handle a refusal that does not say whether the identity is at fault: the third in a row has it rest."""
        identity = self.current(name, evidence.fingerprint)
        if identity is None or not self.changes(identity, Event.DOUBTED):
            return
        if self.causes.is_own(cause, identity.fingerprint, evidence.at):
            return
        identity.doubts += 1
        if identity.doubts >= DOUBTS:
            self._rest(identity, Event.DOUBTED, evidence.at, evidence, cause=cause)
            self.breaker.tried()

    def workspace_closed(self, name: str, evidence: Evidence, cause: Cause | None = None) -> None:
        """Pause an identity until a person says that its workspace serves it again."""
        identity = self.current(name, evidence.fingerprint)
        if self._apply(identity, Event.WORKSPACE_CLOSED, evidence.at, evidence, cause=cause):
            self.breaker.tried()

    def resumed(self, name: str, fingerprint: str, at: float) -> None:
        """Follow a person's word that nothing was wrong then: end a limit, a rest, or a closed workspace."""
        identity = self.current(name, fingerprint)
        if identity is None or at <= identity.resumed_at:
            return
        identity.resumed_at = at
        if identity.metadata is None:
            return
        self.usage(identity.metadata.key).resume(at)
        self._ranking.change(identity)
        if not identity.is_held and identity.condition.since <= at:
            self._apply(identity, Event.RESUMED, at)

    def condition_learned(self, name: str, fingerprint: str, condition: Condition, is_refusal: bool = False) -> None:
        """Take a condition from the flag in pool.toml, an earlier run, another proxy, or a person.

        ``is_refusal``: its token was just refused for good, and the breaker counts that here, too.
        """
        identity = self.current(name, fingerprint)
        if identity is None:
            return
        if condition.status is Status.LIMITED and self.usage_of(identity).is_lifted_since(condition.since):
            return
        self.become(identity, condition, is_refusal)

    # -- the transitions

    @staticmethod
    def changes(identity: Identity, event: Event) -> bool:
        return identity.status in TRANSITIONS[event]

    def replace(self, identities: Mapping[str, Identity], at: float) -> None:
        self.identities = dict(identities)
        self._settle_twins(at)
        for identity in self.identities.values():
            self._hold_or_release(identity, at)

    def rename(self, names: Mapping[str, str]) -> None:
        for identity in self.identities.values():
            identity.name = names.get(identity.name, identity.name)
            identity.twin_of = names.get(identity.twin_of or "", identity.twin_of)
        self.identities = {identity.name: identity for identity in self.identities.values()}
        self.revision += 1

    def return_if_due(self, identity: Identity, at: float) -> None:
        """End a rest or limit that is over, or that seems to begin in the future because the clock was set back."""
        returns_at = identity.returns_at
        if returns_at is not None and (returns_at <= at or at < identity.condition.since):
            self._apply(identity, Event.TIME_UP, at)

    def awake(self, identity: Identity, at: float) -> Condition:
        """Return the condition of an identity without trouble: ready, if its account is known and not limited."""
        if identity.metadata is None or identity.unsendable:
            return Condition(Status.UNVERIFIED, at)
        until = self.usage_of(identity).limited_until(MAIN, at)
        if until is not None:
            return Condition(Status.LIMITED, at, until, Evidence(at, note="its account has reached a limit"))
        return Condition(Status.READY, at)

    def current(self, name: str, fingerprint: str) -> Identity | None:
        """Return the identity of this name if the fingerprint is that of its present token."""
        identity = self.identities.get(name)
        return identity if identity is not None and identity.fingerprint == fingerprint else None

    @staticmethod
    def longer_rest(identity: Identity) -> float:
        """Return the seconds of a rest that no answer has set: longer each time in a row."""
        seconds: float = min(SHORT_REST * 2 ** min(identity.rests, 10), LONGEST_REST)
        identity.rests += 1
        return seconds

    def become(self, identity: Identity, condition: Condition, is_refusal: bool = False) -> None:
        """Make a change, or pause the identity if it is held back. ``is_refusal``: the breaker counts it."""
        identity.is_held = bool(identity.held_back) and condition.status in SERVING_OR_SOON
        if identity.is_held:
            evidence = Evidence(condition.since, note=identity.held_back)
            condition = Condition(Status.PAUSED, condition.since, evidence=evidence)
        before, identity.condition = identity.condition, condition
        if condition.status is Status.READY:
            identity.waited.over()
            self.causes.ended(identity.fingerprint, condition.since)
        self._ranking.change(identity)
        if before.status is not condition.status:
            self.revision += 1
            if condition.status in REFUSED_FOR_GOOD:
                self.causes.withdraw(identity.fingerprint)
                is_news = before.status not in REFUSED_FOR_GOOD
                if before.status is Status.SUSPECT or (is_refusal and is_news):
                    self._count_refusal(identity, condition.since)
            self._listener.status_changed(identity, before)
            if condition.status in CONDEMNED and identity.metadata is not None:
                self._settle_twins(condition.since)
        elif before.until != condition.until and condition.status is Status.LIMITED:
            self._listener.status_changed(identity, before)

    def _apply(
        self,
        identity: Identity | None,
        event: Event,
        at: float,
        evidence: Evidence | None = None,
        until: float | None = None,
        cause: Cause | None = None,
    ) -> bool:
        """Change an identity as the table says. Return whether it does."""
        if identity is None or (status := TRANSITIONS[event].get(identity.status)) is None:
            return False
        condition = self.awake(identity, at) if status is Status.READY else Condition(status, at, until, evidence)
        self.become(identity, condition, is_refusal=event in (Event.CONFIRMED_DEAD, Event.LOGIN_OVER))
        self.causes.changed(cause, identity.fingerprint, at, until)
        return True

    def _rest(
        self,
        identity: Identity,
        event: Event,
        at: float,
        evidence: Evidence | None,
        seconds: float | None = None,
        cause: Cause | None = None,
    ) -> None:
        if seconds is None:
            seconds = self.longer_rest(identity)
        seconds = min(max(seconds, SHORTEST_REST), LONGEST_RETRY_AFTER)
        self._apply(identity, event, at, evidence, at + seconds, cause)

    def _vouched(self, identity: Identity, metadata: Metadata | None, at: float) -> None:
        identity.vouched_at = at
        was = identity.condition
        if was.status is Status.SUSPECT:
            self.breaker.tried()
        elif self.changes(identity, Event.VOUCHED):  # Asked before its twins are settled: that may pause it.
            self._close_breaker_opened_by(identity)
        if metadata is not None:
            identity.metadata = metadata
            self._settle_twins(at)
        if identity.status is Status.SUSPECT:
            self._rest(identity, Event.VOUCHED, at, was.evidence)
        else:
            self._apply(identity, Event.VOUCHED, at)

    def _settle_twins(self, at: float) -> None:
        """Settle which identity serves each account and user: the first of the file whose token is not dead.

        A second token of the same account and user is paused: the two would share every limit and session.
        """
        self.revision += 1
        self.by_keys, self.by_account = {}, {}
        # Sorting is stable: the file's order, but identities that need a person come last.
        for identity in sorted(self.identities.values(), key=lambda i: i.status in CONDEMNED or i.paused):
            if identity.metadata is None:
                continue
            first = self.by_keys.setdefault(identity.metadata.key, identity)
            if first is identity:
                self.by_account.setdefault(identity.metadata.account_id, []).append(identity)
            identity.twin_of = None if first is identity else first.name
            self._hold_or_release(identity, at)

    def _hold_or_release(self, identity: Identity, at: float) -> None:
        if identity.held_back:
            if identity.status in SERVING_OR_SOON or (identity.paused and identity.status in IN_DOUBT):
                self.become(identity, Condition(Status.READY, at))
        elif identity.is_held:
            self.become(identity, self.awake(identity, at))

    def _close_breaker_opened_by(self, identity: Identity) -> None:
        """Close a breaker that this identity has opened: a person has given it a good token."""
        if identity.name in self.breaker.names:
            self.breaker.close()

    def _count_refusal(self, identity: Identity, at: float) -> None:
        left = sum(
            i.status not in CONDEMNED and (i.status is not Status.PAUSED or i.twin_of == identity.name)
            for i in self.identities.values()
        )
        self.breaker.refused(identity.name, at, left)
