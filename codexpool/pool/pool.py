"""The live state of the pool, and every transition it knows.

Plain data and plain methods: no clock of its own (``at`` is the unix second of now, always given), no I/O, no
waiting. Whoever must act on a change (ask whoami, write a flag, tell a person) gives a listener.

A word about races. Everything here runs on one thread, so a method is atomic; what arrives late is recognised by
its fingerprint and its time:

- a refusal or whoami's word that was reached with another token than the identity's present one changes nothing;
- a refusal of an attempt that was sent before whoami last vouched for the same token is older evidence than
  whoami's word, and changes nothing either. However many requests are refused at once, one confirmation follows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from codexpool.pool.identity import Condition, Evidence, Identity, IdentityKey, Kind, Metadata, Status, Word
from codexpool.pool.selection import Candidate, Selection, select

SESSIONS_KEPT = 100_000
"""Sessions whose identity is remembered; beyond that the one that was used longest ago is forgotten."""

PATHS_KEPT = 1_000
"""Refused (kind, path) pairs that are remembered at most."""

REFUSAL_HOLDS = 900.0
"""Seconds for which an endpoint that refused a kind of credential is not tried with it: a rule may change."""

SHORT_REST = 2.0
"""Seconds an identity rests when there is nothing better than a token that was just refused; doubles up to..."""

LONGEST_REST = 60.0

RENEWAL_HOLDS = 300.0
"""Seconds for which a token that was just issued is not renewed because it is refused: it would not be the last."""

LEADS_TO_SERVING = frozenset({Status.READY, Status.RESTING, Status.LIMITED})
"""Conditions that serve, or will when their time has come, without another word from anybody."""

CONDEMNED = frozenset({Status.NEEDS_REPLACEMENT, Status.NEEDS_LOGIN, Status.CONFLICT})
"""Conditions that only a person ends."""

IN_DOUBT = frozenset({Status.UNVERIFIED, Status.SUSPECT})
"""Conditions that end when somebody has said whose token it is, or given another one."""

JUDGED = frozenset({Status.SUSPECT, Status.NEEDS_REPLACEMENT, Status.CONFLICT})
"""Conditions that an answer brought about: what whoami was asked before that cannot mend them."""


RENEWAL_MENDS = frozenset({Status.SUSPECT, Status.RESTING, Status.NEEDS_LOGIN})
"""Conditions that a new token ends."""


Listener = Callable[[Identity, Condition], None]
"""Told of every change: the identity as it is now, and the condition it had before."""


class Pool:
    """The identities, the sessions they serve, and what is known of both."""

    def __init__(self, listener: Listener = lambda identity, before: None) -> None:
        self.identities: dict[str, Identity] = {}
        self.selection = Selection.HEADROOM
        self._listener = listener
        self._by_key: dict[IdentityKey, Identity] = {}
        self._sessions: OrderedDict[str, IdentityKey] = OrderedDict()
        self._not_for: OrderedDict[tuple[Kind, str], float] = OrderedDict()
        self._picks = 0

    # -- who is in the pool

    def replace_identities(self, identities: Iterable[Identity], selection: Selection, at: float) -> None:
        """Take over what the configuration says now.

        An identity whose token is the same as before keeps its state; a new token is a new beginning for the
        credential, while the sessions stay (they belong to the account and user, not to the token).
        """
        known = {(old.name, old.kind, old.fingerprint): old for old in self.identities.values()}
        self.identities = {}
        for new in identities:
            identity = self.identities[new.name] = known.get((new.name, new.kind, new.fingerprint), new)
            identity.expires_at, identity.paused = new.expires_at, new.paused
        self.selection = selection
        self._find_twins(at)
        for identity in self.identities.values():
            self._hold_back_or_let_go(identity, at)

    def by_key(self, key: IdentityKey) -> Identity | None:
        """The identity that speaks for an account and user. The first of the file, should there be two."""
        return self._by_key.get(key)

    # -- who serves

    def serving(self, path: str, at: float) -> list[Identity]:
        """The identities that may serve a path now, in the order of the file."""
        return [i for i in self.identities.values() if self._serves(i, path, at)]

    def can_serve(self, path: str, at: float) -> bool:
        """Whether there is anybody who may serve a path now."""
        return any(self._serves(identity, path, at) for identity in self.identities.values())

    def choose(
        self, session: str | None, path: str, at: float, without: Iterable[str] = (), prefer: str | None = None
    ) -> Identity | None:
        """The identity for a request: the session's own if it can serve, else one that the session moves to.

        ``without`` names those the request was refused under, ``prefer`` the one it shall stay with if that can
        serve. None where nobody can.
        """
        excluded = set(without)
        for own in self._own(session, prefer):
            if own.name not in excluded and self._serves(own, path, at) and not own.has_expired(at):
                return own
        able = [i for i in self.serving(path, at) if i.name not in excluded]
        able = [i for i in able if not i.has_expired(at)] or able
        if not able:
            return None
        if own_expired := next((own for own in self._own(session, prefer) if own in able), None):
            return own_expired
        candidates = [Candidate(i.name, i.load, i.last_picked) for i in able]
        chosen = self.identities[select(self.selection, candidates, at)]
        self._picks += 1
        chosen.last_picked = self._picks
        if session is not None:
            chosen.load = chosen.load.with_session(at)
            assert chosen.metadata is not None
            self.bind(session, chosen.metadata.key)
        return chosen

    def in_renewal(self, session: str | None) -> Identity | None:
        """The identity a session belongs to, if that is about to have another token: the session waits for it."""
        own = next(self._own(session, None), None)
        return own if own is not None and own.is_in_renewal else None

    def may_be_tried(self, identity: Identity) -> bool:
        """Whether a request that was assigned to an identity may still be sent under it, were there nobody else."""
        return (
            self.identities.get(identity.name) is identity
            and identity.metadata is not None
            and identity.status not in (*CONDEMNED, Status.PAUSED, Status.UNVERIFIED)
        )

    def may_serve_soon(self, path: str, at: float, within: float, without: Iterable[str] = ()) -> bool:
        """Whether waiting ``within`` seconds for somebody to become ready may be worth it."""
        excluded = set(without)
        return any(
            identity.name not in excluded
            and self.is_for(identity.kind, path, at)
            and identity.may_serve_soon(at, within)
            for identity in self.identities.values()
        )

    def is_for(self, kind: Kind, path: str, at: float) -> bool:
        """Whether credentials of a kind may be tried on an endpoint: no answer has lately said the contrary."""
        refused_at = self._not_for.get((kind, path))
        return refused_at is None or not refused_at <= at < refused_at + REFUSAL_HOLDS

    def bind(self, session: str, key: IdentityKey) -> None:
        """Have a session served by an identity from now on."""
        self._sessions[session] = key
        self._sessions.move_to_end(session)
        if len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)

    def bound(self, session: str) -> IdentityKey | None:
        """The identity a session belongs to."""
        return self._sessions.get(session)

    def restore_sessions(self, sessions: Mapping[str, IdentityKey]) -> None:
        """Take over the sessions of an earlier run or of another proxy; those in use here stay as they are."""
        for session, key in sessions.items():
            if session not in self._sessions:
                self.bind(session, key)

    def _own(self, session: str | None, prefer: str | None) -> Iterator[Identity]:
        """Whom a request would rather be sent under than under anybody else."""
        if prefer is not None and (preferred := self.identities.get(prefer)) is not None:
            yield preferred
        key = self._sessions.get(session) if session is not None else None
        if key is not None and session is not None and (own := self.by_key(key)) is not None:
            self._sessions.move_to_end(session)
            yield own

    def _serves(self, identity: Identity, path: str, at: float) -> bool:
        condition = identity.condition
        if condition.status is Status.RESTING and condition.until is not None and not identity.unsendable:
            clock_was_set_back = at < condition.since
            if condition.until <= at or clock_was_set_back:
                known = identity.metadata is not None
                self._become(identity, Condition(Status.READY if known else Status.UNVERIFIED, at))
        return (
            identity.status is Status.READY and identity.metadata is not None and self.is_for(identity.kind, path, at)
        )

    # -- what is learned of them

    def refused(self, name: str, evidence: Evidence, sent_at: float, at: float) -> None:
        """A 401 that may mean the token is dead: suspect until whoami has spoken, or another token is there.

        One that was only just issued rests instead: yet another one would be refused like it.
        """
        identity = self._current(name, evidence.fingerprint)
        if identity is None or identity.status is not Status.READY:
            return
        if sent_at < identity.vouched_at <= at:  # A time to come says nothing: the clock was set back.
            return
        if identity.kind.is_renewable and identity.issued_at <= at < identity.issued_at + RENEWAL_HOLDS:
            self._rest(identity, at, evidence)
        else:
            self._become(identity, Condition(Status.SUSPECT, at, evidence=evidence))

    def renewed(self, name: str, stale: str, fingerprint: str, at: float, issued: bool) -> None:
        """An identity has another token in place of the one with the fingerprint ``stale``.

        ``issued`` says that it was made just now, and not only found.
        """
        identity = self._current(name, stale)
        if identity is None:
            return
        identity.fingerprint, identity.unsendable = fingerprint, False
        identity.issued_at = at if issued else 0.0
        if identity.status in RENEWAL_MENDS:
            known = identity.metadata is not None
            self._become(identity, Condition(Status.READY if known else Status.UNVERIFIED, at))

    def unrenewed(self, name: str, fingerprint: str, evidence: Evidence, at: float, until: float | None) -> None:
        """There is no other token than one that was refused, or none at all; ``until`` says when that may change.

        None: the refused token is the one that there is, and is tried again after a rest.
        """
        identity = self._current(name, fingerprint)
        if identity is None or identity.status not in (Status.UNVERIFIED, Status.SUSPECT, Status.RESTING):
            return
        if until is None:
            self._rest(identity, at, evidence)
        else:
            identity.unsendable = True
            self._become(identity, Condition(Status.RESTING, at, until, evidence))

    def not_for_kind(self, name: str, path: str, at: float) -> bool:
        """A 401 that speaks of the endpoint. True where this is news."""
        identity = self.identities.get(name)
        if identity is None or not self.is_for(identity.kind, path, at):
            return False
        self._not_for[(identity.kind, path)] = at
        if len(self._not_for) > PATHS_KEPT:
            self._not_for.popitem(last=False)
        return True

    def succeeded(self, name: str) -> None:
        """A good answer ends a row of rests."""
        identity = self.identities.get(name)
        if identity is not None:
            identity.rests, identity.issued_at = 0, 0.0

    def whoami_said(self, name: str, word: Word, evidence: Evidence, metadata: Metadata | None = None) -> None:
        """Whoami's word on a token, asked because the identity was unverified or suspect, or to be sure.

        ``evidence`` is of whoami's own answer, its time the one at which whoami was asked. A refusal that made
        the identity suspect is the better reason, and is kept. ``metadata`` comes with `Word.HEALTHY`.
        """
        identity = self._current(name, evidence.fingerprint)
        if identity is None:
            return
        at = evidence.at
        if word is Word.HEALTHY and identity.status in JUDGED and at < identity.condition.since:
            return  # Asked before the refusal: the token may have died in between.
        if identity.status is Status.SUSPECT:
            evidence = identity.condition.evidence or evidence
        evidence = replace(evidence, whoami=word.value)
        match word:
            case Word.HEALTHY:
                self._vouched(identity, metadata, at)
            case Word.REFUSED:
                self._become(identity, Condition(Status.NEEDS_REPLACEMENT, at, evidence=evidence))
            case Word.OTHER_ACCOUNT:
                self._become(identity, Condition(Status.CONFLICT, at, evidence=evidence))
            case Word.UNREACHABLE:
                pass  # Says nothing about the token: what was known stays, and whoami is asked again later.

    def recall(self, name: str, fingerprint: str, metadata: Metadata, at: float) -> None:
        """What an earlier run found out about the same token: enough to serve until whoami has confirmed it."""
        identity = self._current(name, fingerprint)
        if identity is None or identity.status is not Status.UNVERIFIED or identity.metadata is not None:
            return
        identity.metadata = metadata
        self._find_twins(at)
        self._become(identity, Condition(Status.READY, at))

    def condition_learned(self, name: str, fingerprint: str, condition: Condition) -> None:
        """A condition that another source holds: the flag of pool.toml, an earlier run, another proxy, a person."""
        identity = self._current(name, fingerprint)
        if identity is not None:
            self._become(identity, condition)

    def _vouched(self, identity: Identity, metadata: Metadata | None, at: float) -> None:
        identity.vouched_at = at
        was = identity.condition
        if metadata is not None:
            identity.metadata = metadata
            self._find_twins(at)
        if was.status is Status.SUSPECT:
            self._rest(identity, at, was.evidence)
        elif was.status in (Status.UNVERIFIED, Status.NEEDS_REPLACEMENT, Status.CONFLICT):
            self._become(identity, Condition(Status.READY, at))

    def _rest(self, identity: Identity, at: float, evidence: Evidence | None) -> None:
        rest = min(SHORT_REST * 2 ** min(identity.rests, 10), LONGEST_REST)
        identity.rests += 1
        self._become(identity, Condition(Status.RESTING, at, at + rest, evidence))

    def _find_twins(self, at: float) -> None:
        """Settle who speaks for each account and user: the first of the file whose token is not dead.

        Of two tokens for one (account, user) the later one is paused: they would share every limit and session.
        """
        self._by_key = {}
        # Sorting is stable: the file's order, but those who cannot serve without a person after all others.
        for identity in sorted(self.identities.values(), key=lambda i: i.status in CONDEMNED or i.paused):
            if identity.metadata is None:
                continue
            first = self._by_key.setdefault(identity.metadata.key, identity)
            identity.twin_of = None if first is identity else first.name
            self._hold_back_or_let_go(identity, at)

    def _hold_back_or_let_go(self, identity: Identity, at: float) -> None:
        """Pause whoever may not serve, and end the pause of whoever may again."""
        if identity.held_back:
            if identity.status in LEADS_TO_SERVING or (identity.paused and identity.status in IN_DOUBT):
                self._become(identity, Condition(Status.READY, at))
        elif identity.is_held:
            known = identity.metadata is not None and not identity.unsendable
            self._become(identity, Condition(Status.READY if known else Status.UNVERIFIED, at))

    def _current(self, name: str, fingerprint: str) -> Identity | None:
        identity = self.identities.get(name)
        return identity if identity is not None and identity.fingerprint == fingerprint else None

    def _become(self, identity: Identity, condition: Condition) -> None:
        """Every transition comes by here. Who is held back does not serve: it is paused instead."""
        identity.is_held = bool(identity.held_back) and condition.status in LEADS_TO_SERVING
        if identity.is_held:
            evidence = Evidence(condition.since, note=identity.held_back)
            condition = Condition(Status.PAUSED, condition.since, evidence=evidence)
        before, identity.condition = identity.condition, condition
        if before.status is not condition.status:
            self._listener(identity, before)
            if condition.status in CONDEMNED and identity.metadata is not None:
                self._find_twins(condition.since)
