"""The states of the identities, and what moves an identity from one to another.

Rule 1: `TRANSITIONS` has every status an event may lead to. An event that is not listed for a status leaves it alone.
Rule 2: a method handles one event. It adds what a table cannot say: evidence, times, and the conditions on them.
Rule 3: `IdentityStates.become` makes every change. It pauses an identity that is held back (paused in pool.toml, or a
second token of the same account and user) instead of letting it serve, counts refusals, and tells the listener.

Everything runs on one thread, so a method is atomic. What arrives late is recognised by its fingerprint and its time:
a refusal, or whoami's word, about another token than the present one changes nothing; neither does the refusal of an
attempt that was sent before whoami last vouched for the same token. However many requests are refused at once, one
confirmation follows.

No clock, no I/O, no waiting: ``at`` is the unix second of now, always given. A listener acts on a change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from codexpool.pool.breaker import Breaker
from codexpool.pool.causes import Cause, Causes
from codexpool.pool.confirmation import Confirmation
from codexpool.pool.identity import (
    Condition,
    Evidence,
    Identity,
    IdentityKey,
    Metadata,
    Status,
    Word,
)
from codexpool.pool.usage import MAIN, NOTHING, Limit, Usage

SHORT_REST = 2.0
"""Seconds an identity rests when there is nothing better than a token that was just refused; doubles up to..."""

LONGEST_REST = 60.0

SHORTEST_REST = 0.1

LONGEST_RETRY_AFTER = 3600.0
"""Seconds that an answer may send an identity to rest for at most; what takes longer is a limit."""

ASKED_FOR = 120.0
"""Seconds after which no answer of whoami is on its way any more. (What seems older was asked after the clock was set
back.)"""

RENEWAL_HOLDS = 300.0
"""Seconds for which a token that was just issued is not renewed because it is refused: it would not be the last."""

RENEWED_AGAIN = 15.0
"""Seconds after which a token that was just issued is renewed because it is refused, though it was good for others: a
client whose requests are always refused must not have each login renewed each time."""

DOUBTS = 3
"""Refusals in a row that do not say whose fault they are, after which an identity rests."""


class Event(StrEnum):
    """What happens to an identity."""

    REFUSED = "a request was refused with a 401"
    REFUSED_WHEN_NEW = "a request was refused with a 401, and the token was only just issued"
    THROTTLED = "a request was answered with a 429 that names no limit"
    DOUBTED = "several refusals in a row did not say whose fault they are"
    LIMITED = "its account has reached its main limit"
    WORKSPACE_CLOSED = "its workspace does not serve it"
    VOUCHED = "whoami found its token healthy"
    OTHER_ACCOUNT = "whoami says its token belongs to another account"
    CONFIRMED_DEAD = "whoami or the token endpoint says its token is dead"
    RENEWED = "it has a new token"
    UNUSABLE = "its token is worth nothing, and what came in its place cannot be used"
    UNRENEWED = "there is no other token than a refused one"
    RECALLED = "an earlier run knew the account of its token"
    TIME_UP = "its rest or limit is over"
    RESUMED = "a person says that nothing is wrong with it"


class Awake:
    """READY; or LIMITED if its account is limited, or UNVERIFIED if its account is unknown or it has no token."""


class Dead:
    """NEEDS_REPLACEMENT or NEEDS_LOGIN, by the kind of credential."""


Next = Status | type[Awake] | type[Dead]

SERVING_OR_SOON: Final = (Status.READY, Status.RESTING, Status.LIMITED)

TRANSITIONS: Final[Mapping[Event, Mapping[Status, Next]]] = {
    Event.REFUSED: {Status.READY: Status.SUSPECT},
    Event.REFUSED_WHEN_NEW: {Status.READY: Status.RESTING},
    Event.THROTTLED: {Status.READY: Status.RESTING},
    Event.DOUBTED: {Status.READY: Status.RESTING},
    Event.LIMITED: dict.fromkeys(SERVING_OR_SOON, Status.LIMITED),
    Event.WORKSPACE_CLOSED: dict.fromkeys(SERVING_OR_SOON, Status.PAUSED),
    Event.VOUCHED: {
        Status.SUSPECT: Status.RESTING,
        Status.UNVERIFIED: Awake,
        Status.NEEDS_REPLACEMENT: Awake,
        Status.CONFLICT: Awake,
    },
    Event.OTHER_ACCOUNT: dict.fromkeys(Status, Status.CONFLICT),
    Event.CONFIRMED_DEAD: dict.fromkeys(Status, Dead),
    Event.RENEWED: dict.fromkeys((Status.SUSPECT, Status.RESTING, Status.NEEDS_LOGIN), Awake),
    Event.UNUSABLE: dict.fromkeys((Status.UNVERIFIED, Status.READY), Status.SUSPECT),
    Event.UNRENEWED: dict.fromkeys((Status.UNVERIFIED, Status.SUSPECT, Status.RESTING), Status.RESTING),
    Event.RECALLED: {Status.UNVERIFIED: Awake},
    Event.TIME_UP: dict.fromkeys((Status.LIMITED, Status.RESTING), Awake),
    Event.RESUMED: dict.fromkeys((Status.LIMITED, Status.RESTING, Status.PAUSED), Awake),
}
"""Event by event: the statuses it changes, and what to."""

CONDEMNED: Final = frozenset({Status.NEEDS_REPLACEMENT, Status.NEEDS_LOGIN, Status.CONFLICT})
"""Statuses that only a person ends."""

REFUSED_FOR_GOOD: Final = frozenset({Status.NEEDS_REPLACEMENT, Status.NEEDS_LOGIN})
"""Statuses the breaker counts, whatever the identity was before."""

IN_DOUBT: Final = frozenset({Status.UNVERIFIED, Status.SUSPECT})
"""Statuses that end when whoami has spoken, or with another token."""

JUDGED: Final = frozenset({Status.SUSPECT, Status.NEEDS_REPLACEMENT, Status.CONFLICT})
"""Statuses an answer led to: what whoami was asked before that answer cannot end them."""

Listener = Callable[[Identity, Condition], None]
"""Told of every change: the identity as it is now, and the condition it had before."""


class IdentityStates:
    """The identities of a pool, and the state of each."""

    def __init__(self, listener: Listener = lambda identity, before: None) -> None:
        self.identities: dict[str, Identity] = {}
        self.breaker = Breaker()
        self.causes = Causes()
        self.on_doubt: Callable[[Identity], None] = lambda identity: None
        """Called with an identity whose token is to be looked at in the background while it goes on serving."""
        self.confirmation = Confirmation()
        self.on_rank: Callable[[Identity], None] = lambda identity: None
        """Called with an identity whose rank among the others may have changed."""
        self._listener = listener
        self.by_keys: dict[IdentityKey, Identity] = {}
        self.by_account: dict[str, list[Identity]] = {}
        self._usages: dict[IdentityKey, Usage] = {}

    def by_key(self, key: IdentityKey) -> Identity | None:
        """The identity that speaks for an account and user. The first of the file, should there be two."""
        return self.by_keys.get(key)

    def usage(self, key: IdentityKey) -> Usage:
        """What is known of the limits of an account and user, to be added to."""
        return self._usages.setdefault(key, Usage())

    # -- of its token

    def refused(self, name: str, evidence: Evidence, sent_at: float, at: float, cause: Cause | None = None) -> None:
        """A 401 that may mean the token is dead: suspect until whoami has spoken, or another token is there.

        One that was only just issued rests instead: yet another one would be refused like it. Where the refusal is
        the request's own (see `codexpool.pool.causes`) the identity serves on, and its token is looked at meanwhile.
        """
        identity = self.current(name, evidence.fingerprint)
        if identity is None or not self.changes(identity, Event.REFUSED):
            return
        if sent_at < identity.vouched_at <= at:  # A time to come says nothing: the clock was set back.
            return
        self.confirmation.request_refused(evidence.fingerprint)
        is_new = identity.kind.is_renewable and (
            identity.issued_at <= at < identity.issued_at + RENEWAL_HOLDS
            or identity.renewed_at <= at < identity.renewed_at + RENEWED_AGAIN
        )
        if self.causes.is_own(cause, identity.fingerprint, at):
            if not is_new:
                self.on_doubt(identity)
        elif is_new:
            self._rest(identity, at, evidence, cause=cause)
        else:
            self.become(identity, Condition(Status.SUSPECT, at, evidence=evidence))
            self.causes.changed(cause, identity.fingerprint, at, None)

    def renewed(self, name: str, stale: str, fingerprint: str, at: float, issued: bool) -> None:
        """An identity has another token in place of the one with the fingerprint ``stale``.

        ``issued`` says that it was made just now, and not only found.
        """
        identity = self.current(name, stale)
        if identity is None:
            return
        self.causes.withdraw(stale)
        identity.fingerprint, identity.unsendable = fingerprint, False
        identity.issued_at = at if issued else 0.0
        identity.renewed_at = at if issued else identity.renewed_at
        self.breaker.tried()
        if identity.status is Status.NEEDS_LOGIN:
            self._person_has_brought_another(identity)
        if self.changes(identity, Event.RENEWED):
            self.become(identity, self.awake(identity, at))

    def unusable(self, name: str, fingerprint: str, evidence: Evidence) -> None:
        """Its token is worth nothing, and what came in its place cannot be used: suspect until another one comes."""
        identity = self.current(name, fingerprint)
        if identity is not None and self.changes(identity, Event.UNUSABLE):
            self.become(identity, Condition(Status.SUSPECT, evidence.at, evidence=evidence))

    def unrenewed(self, name: str, fingerprint: str, evidence: Evidence, at: float, until: float | None) -> None:
        """There is no other token than one that was refused, or none at all; ``until`` says when that may change.

        None: the refused token is the one that there is, and is tried again after a rest.
        """
        identity = self.current(name, fingerprint)
        if identity is None or not self.changes(identity, Event.UNRENEWED):
            return
        if until is None:
            self._rest(identity, at, evidence)
        else:
            identity.unsendable = True
            self.become(identity, Condition(Status.RESTING, at, until, evidence))

    def whoami_said(self, name: str, word: Word, evidence: Evidence, metadata: Metadata | None = None) -> None:
        """Whoami's word on a token, asked because the identity was unverified or suspect, or to be sure.

        ``evidence`` is of whoami's own answer, its time the one at which whoami was asked. A refusal that made
        the identity suspect is the better reason, and is kept. ``metadata`` comes with `Word.HEALTHY`. A word against
        the token changes the status once it is final (see `codexpool.pool.confirmation`).
        """
        identity = self.current(name, evidence.fingerprint)
        if identity is None:
            return
        at = evidence.at
        since = identity.condition.since
        if word is Word.HEALTHY and identity.status in JUDGED and since - ASKED_FOR < at < since:
            return  # Asked before the refusal: the token may have died in between.
        if word is Word.HEALTHY:
            self.confirmation.vouched(name, identity.fingerprint)
            self._vouched(identity, metadata, at)
            return
        if word is Word.UNREACHABLE or not self.confirmation.is_final(name, evidence):
            if identity.status is Status.UNVERIFIED:  # Why it still is. Asked again later.
                identity.condition = replace(identity.condition, evidence=evidence)
            return
        if identity.status is Status.SUSPECT:
            evidence = identity.condition.evidence or evidence
        evidence = replace(evidence, whoami=word.value)
        if word is Word.OTHER_ACCOUNT:
            self.become(identity, Condition(Status.CONFLICT, at, evidence=evidence))
        else:
            self.refused_for_good(name, identity.fingerprint, Status.NEEDS_REPLACEMENT, evidence, at)

    def refused_for_good(self, name: str, fingerprint: str, status: Status, evidence: Evidence, at: float) -> None:
        """A token, or the refresh token behind it, is dead: ``status`` says what a person has to do.

        The breaker counts that, whatever the identity was before.
        """
        identity = self.current(name, fingerprint)
        if identity is not None:
            is_news = identity.status not in REFUSED_FOR_GOOD
            self.become(identity, Condition(status, at, evidence=evidence), counts=is_news)

    def recall(self, name: str, fingerprint: str, metadata: Metadata, at: float) -> None:
        """What an earlier run found out about the same token: enough to serve until whoami has confirmed it."""
        identity = self.current(name, fingerprint)
        if identity is None or not self.changes(identity, Event.RECALLED) or identity.metadata is not None:
            return
        identity.metadata = metadata
        self._find_twins(at)
        self.become(identity, self.awake(identity, at))

    # -- of its account

    def limited(
        self,
        name: str,
        key: IdentityKey,
        limit: Limit,
        evidence: Evidence,
        at: float,
        cause: Cause | None = None,
    ) -> float:
        """A limit of an account is reached; until when it is taken to be. It is the account's, whatever its token."""
        usage = self.usage(key)
        until = usage.limit(limit, at)
        identity = self.identities.get(name)
        if identity is not None:
            self.on_rank(identity)
        if identity is not None and identity.metadata is not None and identity.metadata.key == key:
            if limit.family == MAIN and self.changes(identity, Event.LIMITED):
                self.become(identity, Condition(Status.LIMITED, at, until, evidence))
                self.causes.changed(cause, identity.fingerprint, at, until)
            self.breaker.tried()
        return until

    def throttled(
        self, name: str, evidence: Evidence, at: float, retry_after: float | None, cause: Cause | None = None
    ) -> None:
        """Too many requests for now: a rest of so many seconds, where the answer says it, else a growing pause."""
        identity = self.current(name, evidence.fingerprint)
        if identity is not None and self.changes(identity, Event.THROTTLED):
            self._rest(identity, at, evidence, retry_after, cause)
            self.breaker.tried()

    def doubted(self, name: str, evidence: Evidence, at: float, cause: Cause | None = None) -> None:
        """A refusal that may be its fault and does not say so: the third in a row has it rest."""
        identity = self.current(name, evidence.fingerprint)
        if identity is None or not self.changes(identity, Event.DOUBTED):
            return
        if self.causes.is_own(cause, identity.fingerprint, at):
            return
        identity.doubts += 1
        if identity.doubts >= DOUBTS:
            self._rest(identity, at, evidence, cause=cause)
            self.breaker.tried()

    def workspace_closed(self, name: str, evidence: Evidence, at: float, cause: Cause | None = None) -> None:
        """Its workspace does not serve it: paused, until a person says that this is mended."""
        identity = self.current(name, evidence.fingerprint)
        if identity is not None and self.changes(identity, Event.WORKSPACE_CLOSED):
            self.become(identity, Condition(Status.PAUSED, at, evidence=evidence))
            self.causes.changed(cause, identity.fingerprint, at, None)
            self.breaker.tried()

    def resumed(self, name: str, fingerprint: str, at: float) -> None:
        """A person says that nothing is the matter with an identity: no limit, no rest, no closed workspace."""
        identity = self.current(name, fingerprint)
        if identity is None or identity.metadata is None:
            return
        self.usage(identity.metadata.key).limited.clear()
        self.on_rank(identity)
        if self.changes(identity, Event.RESUMED) and not identity.is_held:
            self.become(identity, self.awake(identity, at))

    # -- from elsewhere

    def condition_learned(self, name: str, fingerprint: str, condition: Condition) -> None:
        """A condition that another source holds: the flag of pool.toml, an earlier run, another proxy, a person."""
        identity = self.current(name, fingerprint)
        if identity is not None:
            self.become(identity, condition)

    # -- the transitions

    @staticmethod
    def changes(identity: Identity, event: Event) -> bool:
        """Tell whether an event changes the status an identity has now."""
        return identity.status in TRANSITIONS[event]

    def replace(self, identities: Mapping[str, Identity], at: float) -> None:
        """Take these identities in place of the present ones."""
        self.identities = dict(identities)
        self._find_twins(at)
        for identity in self.identities.values():
            self._hold_back_or_let_go(identity, at)

    def return_if_due(self, identity: Identity, at: float) -> None:
        """End a rest or limit whose time is up, or whose beginning lies ahead because the clock was set back."""
        if not self.changes(identity, Event.TIME_UP) or (returns_at := identity.returns_at) is None:
            return
        if returns_at <= at or at < identity.condition.since:
            self.become(identity, self.awake(identity, at))

    def _vouched(self, identity: Identity, metadata: Metadata | None, at: float) -> None:
        identity.vouched_at = at
        was = identity.condition
        if metadata is not None:
            identity.metadata = metadata
            self._find_twins(at)
        match TRANSITIONS[Event.VOUCHED].get(was.status):  # Its twins may have changed its status since.
            case Status.RESTING:
                self._rest(identity, at, was.evidence)
                self.breaker.tried()
            case known if known is Awake:
                self._person_has_brought_another(identity)
                self.become(identity, self.awake(identity, at))

    def awake(self, identity: Identity, at: float) -> Condition:
        """What an identity is that nothing is the matter with: ready, if it is known and its account not limited."""
        if identity.metadata is None or identity.unsendable:
            return Condition(Status.UNVERIFIED, at)
        until = self.usage_of(identity).limited_until(MAIN, at)
        if until is not None:
            return Condition(Status.LIMITED, at, until, Evidence(at, note="its account has reached a limit"))
        return Condition(Status.READY, at)

    def _rest(
        self,
        identity: Identity,
        at: float,
        evidence: Evidence | None,
        seconds: float | None = None,
        cause: Cause | None = None,
    ) -> None:
        if seconds is None:
            seconds = self.longer_rest(identity)
        seconds = min(max(seconds, SHORTEST_REST), LONGEST_RETRY_AFTER)
        self.become(identity, Condition(Status.RESTING, at, at + seconds, evidence))
        self.causes.changed(cause, identity.fingerprint, at, at + seconds)

    @staticmethod
    def longer_rest(identity: Identity) -> float:
        """The seconds of a rest that nobody has set a time for: longer each time in a row."""
        seconds: float = min(SHORT_REST * 2 ** min(identity.rests, 10), LONGEST_REST)
        identity.rests += 1
        return seconds

    def _find_twins(self, at: float) -> None:
        """Settle who speaks for each account and user: the first of the file whose token is not dead.

        Of two tokens for one (account, user) the later one is paused: they would share every limit and session.
        """
        self.by_keys, self.by_account = {}, {}
        # Sorting is stable: the file's order, but those who cannot serve without a person after all others.
        for identity in sorted(self.identities.values(), key=lambda i: i.status in CONDEMNED or i.paused):
            if identity.metadata is None:
                continue
            first = self.by_keys.setdefault(identity.metadata.key, identity)
            if first is identity:
                self.by_account.setdefault(identity.metadata.account_id, []).append(identity)
            identity.twin_of = None if first is identity else first.name
            self._hold_back_or_let_go(identity, at)

    def _hold_back_or_let_go(self, identity: Identity, at: float) -> None:
        """Pause whoever may not serve, and end the pause of whoever may again."""
        if identity.held_back:
            if identity.status in SERVING_OR_SOON or (identity.paused and identity.status in IN_DOUBT):
                self.become(identity, Condition(Status.READY, at))
        elif identity.is_held:
            self.become(identity, self.awake(identity, at))

    def current(self, name: str, fingerprint: str) -> Identity | None:
        identity = self.identities.get(name)
        return identity if identity is not None and identity.fingerprint == fingerprint else None

    def become(self, identity: Identity, condition: Condition, counts: bool = False) -> None:
        """Every transition comes by here. Who is held back does not serve: it is paused instead.

        ``counts``: it is a refusal for the breaker to know of.
        """
        identity.is_held = bool(identity.held_back) and condition.status in SERVING_OR_SOON
        if identity.is_held:
            evidence = Evidence(condition.since, note=identity.held_back)
            condition = Condition(Status.PAUSED, condition.since, evidence=evidence)
        before, identity.condition = identity.condition, condition
        if condition.status is Status.READY:
            identity.waited.over()
            self.causes.ended(identity.fingerprint, condition.since)
        self.on_rank(identity)
        if before.status is not condition.status:
            if condition.status in REFUSED_FOR_GOOD:
                self.causes.withdraw(identity.fingerprint)
            if counts or (before.status is Status.SUSPECT and condition.status in REFUSED_FOR_GOOD):
                self._count_refusal(identity, condition.since)
            self._listener(identity, before)
            if condition.status in CONDEMNED and identity.metadata is not None:
                self._find_twins(condition.since)
        elif before.until != condition.until and condition.status is Status.LIMITED:
            self._listener(identity, before)

    def _person_has_brought_another(self, identity: Identity) -> None:
        """A good token is there for an identity that had none: that ends a breaker that was opened on it."""
        if identity.name in self.breaker.names:
            self.breaker.close()

    def _count_refusal(self, identity: Identity, at: float) -> None:
        left = sum(
            i.status not in CONDEMNED and (i.status is not Status.PAUSED or i.twin_of == identity.name)
            for i in self.identities.values()
        )
        self.breaker.refused(identity.name, at, left)

    def usage_of(self, identity: Identity) -> Usage:
        return self._usages.get(identity.metadata.key, NOTHING) if identity.metadata is not None else NOTHING
