"""The pool: which identity serves which request, and what is learned from answers. Everything runs on one thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from codexpool.common.recent import Recent
from codexpool.pool.causes import Cause
from codexpool.pool.entitlements import Entitlements
from codexpool.pool.exclusions import AWAY, ENDPOINT_LASTS, MODEL_LASTS, Exclusion, Exclusions, subjects_of
from codexpool.pool.exclusions import Kind as About
from codexpool.pool.identity import (
    LONGEST_AVOIDED,
    LONGEST_UNREAD,
    READ_WITHIN,
    Asked,
    Evidence,
    Identity,
    IdentityKey,
    Status,
)
from codexpool.pool.patience import Edges
from codexpool.pool.pins import Pin, Pins, Wanted
from codexpool.pool.selection import Because, Rank, Ranking, Selection, rank
from codexpool.pool.session_names import SessionNames
from codexpool.pool.sessions import Session, Sessions
from codexpool.pool.states import (
    CONDEMNED,
    NO_LISTENER,
    SERVING_OR_SOON,
    SHORT_REST,
    IdentityStates,
    PoolListener,
)
from codexpool.pool.usage import MAIN, UNKNOWN_LIMIT
from codexpool.protocol.models import Catalogue
from codexpool.protocol.usage_report import UsageReport

FAMILIES_KEPT = 1_000  # Models whose limit is remembered.
FOR_MODEL = "the session was told to leave it for a model that its list does not have"
OTHERS_FIRST = 5.0  # Seconds that a half-open breaker waits for a request unlike those that every identity refuses.
CLIENTS_KEPT = 256  # Clients, by version and the identities they may use, whose list of models is remembered.
RESET_IS_NEWS = 60.0  # Seconds; a note of an earlier reset is found again at each start.
TROUBLES = 3  # Answers in a row that report the backend's own trouble, after which new sessions avoid an identity.


_Client = tuple[str, frozenset[str] | None, str]  # A version, and the identities that may serve: see `Asked`.


class Pool:
    """The identities, the sessions they serve, and what is known of both."""

    def __init__(self, listener: PoolListener = NO_LISTENER) -> None:
        self._listener = listener
        self._ranking = Ranking(self._rank_by_name)
        self.states = IdentityStates(listener, self._ranking)
        self.selection = Selection.HEADROOM
        self.sessions = Sessions()
        self.names = SessionNames()
        self.pins = Pins()
        self.edges = Edges()
        self.exclusions = Exclusions()
        self.entitlements = Entitlements()
        self.families: dict[str, str] = {}  # The limits of models, as answers have said; `MAIN` for all others.
        self.lists_none = False  # pool.toml has no identities at all.
        self.because = Because.NEW  # Why `choose` gave what it gave last.
        self._picks = 0
        self._listed: Recent[_Client, tuple[tuple[int, int], tuple[str, ...]]] = Recent(CLIENTS_KEPT)

    def replace_identities(self, identities: Iterable[Identity], selection: Selection, at: float) -> None:
        """Take over a configuration. The same token keeps its state; the sessions of a name stay in any case."""
        before, taken = self.identities, {}
        known = {(old.name, old.kind, old.fingerprint): old for old in before.values()}
        for order, new in enumerate(identities):
            if (was := before.get(new.name)) is not None:
                new.load, new.last_picked = was.load, was.last_picked
            identity = taken[new.name] = known.get((new.name, new.kind, new.fingerprint), new)
            identity.expires_at, identity.paused = new.expires_at, new.paused
            identity.order, identity.priority = order, new.priority
        self.selection = selection
        self._ranking.forget()
        self.states.replace(taken, at)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give identities other names, by their old ones. What is under way and what is known of them goes on."""
        self.states.rename(names)
        self.pins.rename(names)
        self._ranking.forget()

    @property
    def identities(self) -> dict[str, Identity]:
        return self.states.identities

    # -- which identity serves

    def wanted(self, asked: Asked) -> Wanted | None:
        """Return the identity that a person chose for a request; None if the pool may choose.

        What the client's terminal says comes before a pin: it was promised that no other identity serves it.
        """
        if asked.named:
            return Wanted(asked.named, Because.NAMED)
        pin = self.pins.of(asked.session, asked.parent)
        if pin is None:
            return None
        is_renamed = pin.identity in self.identities or pin.was not in self.identities
        return Wanted(pin.identity if is_renamed else pin.was, Because.PINNED)

    def may_serve(self, name: str, asked: Asked) -> bool:
        """Return whether a client may use an identity, and no person chose another one for the request."""
        if not asked.is_served_by(name):
            return False
        if not (asked.named or self.pins):  # As nearly always, and asked six times for a request.
            return True
        wanted = self.wanted(asked)
        return wanted is None or wanted.name == name

    def choose(
        self, asked: Asked, at: float, without: Iterable[str] = (), prefer: str | None = None
    ) -> Identity | None:
        """Return the identity for a request: the session's own if it can serve, else one that the session moves to.

        ``without`` names those that refused the request, ``prefer`` the one it should stay with. None if none can
        serve, or none may while the breaker is open.
        """
        excluded, wanted = frozenset(without), self.wanted(asked)
        session = self.sessions.get(asked.session)
        own_expired = None
        for own, because in self._own(asked, session, prefer):
            if own.name in excluded or not self._is_able(own, asked, at):
                continue
            if not own.has_expired(at):
                self.because = because if wanted is None else wanted.because
                return self._settled(asked, session, own, at)
            own_expired = own_expired or own
        chosen = self._next(asked, session, excluded, wanted, at)
        self.because = Because.EXPIRED
        if own_expired is not None and (chosen is None or chosen.has_expired(at)):
            return self._settled(asked, session, own_expired, at)
        if chosen is not None:
            self.because = self._because(asked, session, chosen) if wanted is None else wanted.because
        if chosen is None or not asked.is_turn:
            return chosen or own_expired
        if wanted is None and not self._may_move(asked, at):
            return own_expired
        self._picks += 1
        chosen.last_picked = self._picks
        chosen.load = chosen.load.with_session(at)
        self._ranking.change(chosen)
        return self._settled(asked, session, chosen, at)

    def pin(self, session: str, pin: Pin) -> None:
        """Have a session served by one identity only, even if it was told to leave it a moment ago."""
        self.pins.set(session, pin)
        self.exclusions.forget_session(session)

    def reads_usage(self, asked: Asked, at: float, without: Iterable[str] = ()) -> Identity | None:
        """Return an identity at its limit that can say what is left: of those, the first that serves again."""
        excluded = frozenset(without)
        able = [i for i in self.identities.values() if i.name not in excluded and self._reads_usage(i, asked, at)]
        self.because = Because.USAGE
        return min(able, key=lambda i: i.condition.until or math.inf, default=None)

    def _reads_usage(self, identity: Identity, asked: Asked, at: float) -> bool:
        return (
            asked.is_usage
            and identity.status is Status.LIMITED
            and identity.metadata is not None
            and not identity.unsendable
            and self.may_serve(identity.name, asked)
            and not self.exclusions.against(identity, asked, at)
        )

    def can_serve(self, asked: Asked, at: float) -> bool:
        return any(self._is_able(identity, asked, at) for identity in self.identities.values())

    def is_able(self, name: str, fingerprint: str, asked: Asked, at: float) -> bool:
        """Return whether an identity would serve a request now with the token of this fingerprint."""
        identity = self.states.current(name, fingerprint)
        return identity is not None and self._is_able(identity, asked, at)

    def serves_on(self, identity: Identity, asked: Asked, at: float) -> bool:
        """Return whether what an identity has served so far may go on under it."""
        if not self.may_serve(identity.name, asked):
            return False
        return self._is_able(identity, asked, at) or identity.is_in_renewal

    def may_be_tried(self, identity: Identity, asked: Asked) -> bool:
        """Return whether a request assigned to an identity may still leave under it if no other can serve."""
        never = (*CONDEMNED, Status.PAUSED, Status.UNVERIFIED)
        return (
            self.identities.get(identity.name) is identity
            and self.may_serve(identity.name, asked)
            and identity.metadata is not None
            and identity.status not in (never if asked.is_usage else (*never, Status.LIMITED))
        )

    def is_for(self, identity: Identity, asked: Asked, at: float) -> bool:
        """Return whether a client may use an identity, and only a limit is known against it for this request."""
        if not self.may_serve(identity.name, asked) or (asked.has_model and self.lacks(identity, asked)):
            return False
        return all(e.is_limit for e in self.exclusions.against(identity, asked, at))

    def lacks(self, identity: Identity, asked: Asked) -> bool:
        """Return whether an identity's account does not have the model that a request asks for, by its list."""
        if not asked.model or asked.is_side or not self.entitlements.differ:
            return False
        plan = subjects_of(identity).plan
        return self.entitlements.lacks(plan, asked.model)

    def is_unlisted(self, asked: Asked) -> bool:
        """Return whether no identity has the model that a request asks for, by the lists of all of them."""
        plans = (subjects_of(i).plan for i in self.identities.values())
        return bool(asked.model) and self.entitlements.is_unlisted(plans, asked.model)

    def catalogue(self, asked: Asked, version: str) -> Catalogue | None:
        """Return the list of models for a client of this version: all that its identities have.

        None while it is not known. A limited or resting identity counts, one that needs a person does not. A pin
        does not, either: a client asks for all its sessions.
        """
        if version not in self.entitlements.versions:
            return None
        revision, key = (self.states.revision, self.entitlements.revision), (version, asked.only, asked.named)
        made_at, plans = self._listed.get(key, (None, ()))
        if made_at != revision:
            plans = self._plans_listed(asked, version)
            self._listed[key] = (revision, plans)
        return self.entitlements.catalogue(version, plans)

    def _plans_listed(self, asked: Asked, version: str) -> tuple[str, ...]:
        """Return the accounts, with their plans, whose models a client gets; none until all of them were asked."""
        asked_for: dict[str, bool] = {}  # Whether the backend will be asked for the list.
        for i in self.identities.values():
            is_its = asked.is_served_by(i.name) and asked.named in ("", i.name)
            if is_its and i.metadata is not None and i.status not in (*CONDEMNED, Status.PAUSED):
                plan = subjects_of(i).plan
                asked_for[plan] = asked_for.get(plan, False) or i.status in SERVING_OR_SOON
        was_asked = self.entitlements.was_asked
        if any(will_be and not was_asked(plan, version) for plan, will_be in asked_for.items()):
            return ()  # The list would change in a moment, and each change makes clients fetch it.
        return tuple(asked_for)

    @property
    def knows_models(self) -> bool:
        """Whether it matters which model a request asks for."""
        return self.exclusions.knows_models or self.entitlements.differ

    def leaves_for_model(self, name: str, asked: Asked, at: float, seconds: float) -> bool:
        """Have a session leave an identity that lacks the model, if another serves it. Return whether it does."""
        identity, asked = self.identities.get(name), asked._replace(has_model=True)
        if identity is None or not self.lacks(identity, asked):
            return False
        for other in self.identities.values():
            if not self.lacks(other, asked):  # The session may have left it because that lacks another model.
                self.exclusions.may_return(asked.session, other.fingerprint, FOR_MODEL)
        return self.leaves(name, asked, at, seconds, FOR_MODEL)

    def family_of(self, asked: Asked) -> str:
        return self.families.get(asked.model, MAIN)

    def left(self, identity: Identity, asked: Asked, at: float) -> float:
        """Return what an identity has left for a request, as `codexpool.pool.usage.Usage.headroom` weighs it."""
        return self.states.usage_of(identity).headroom(self.family_of(asked), at)

    def limited_until(self, identity: Identity, asked: Asked, at: float) -> float | None:
        """Until when a limit keeps an identity from serving this request; None if none does."""
        if identity.status is Status.LIMITED:
            return identity.condition.until
        ends = [e.until for e in self.exclusions.against(identity, asked, at) if e.is_limit]
        if (until := self.states.usage_of(identity).limited_until(self.family_of(asked), at)) is not None:
            ends.append(until)
        return max(ends, default=None)

    # -- what is worth waiting for

    def unknown_sessions(self, asked: Asked) -> tuple[str, ...]:
        """Return the sessions of a turn that the state should be asked about, because they are unknown here.

        The parent's identity is only needed for a session that has none. (What is no turn uses nothing up, and does
        not bind its session: it would be looked up each time.)
        """
        if not asked.is_turn or not (unknown := self.sessions.unknown(asked.session, asked.parent)):
            return ()
        return unknown if self.sessions.can_be_looked_up() else ()

    def in_renewal(self, asked: Asked) -> Identity | None:
        """Return the identity a session belongs to, if its token is being renewed: the session waits for it."""
        session = self.sessions.get(asked.session) or self.sessions.get(asked.parent)
        own = self.states.by_keys.get(session.key) if session is not None else None
        if own is None or not (own.is_in_renewal and self.may_serve(own.name, asked)):
            return None
        return None if asked.has_model and self.lacks(own, asked) else own

    def awaited(self, asked: Asked, at: float, within: float, without: Iterable[str] = ()) -> list[Identity]:
        """Return the identities that may serve a request within so many seconds, though none does now."""
        excluded, breaker = set(without), self.states.breaker
        breaker_ends = breaker.opened_at is not None and breaker.until <= at + within
        return [
            identity
            for identity in self.identities.values()
            if identity.name not in excluded
            and self.is_for(identity, asked, at)
            and (identity.may_serve_soon(at, within) or (breaker_ends and self._is_able(identity, asked, at)))
        ]

    def worth_a_look(self, asked: Asked, at: float, without: Iterable[str] = ()) -> list[Identity]:
        """Return the identities that only a limit keeps from serving a request, and that may be asked about now.

        Those that another request is asking about are among them: this one can share the answer.
        """
        excluded = set(without)
        return [
            identity
            for identity in self.identities.values()
            if identity.name not in excluded
            and identity.status in (Status.LIMITED, Status.READY)
            and self.is_for(identity, asked, at)
            and self.limited_until(identity, asked, at) is not None
            and ((usage := self.states.usage_of(identity)).may_be_asked(at) or usage.is_being_asked(at))
        ]

    def unread_pause(self, asked: Asked, at: float) -> float:
        """Seconds that a turn waits because nothing is known yet of what the identities it could have has left."""
        if at >= self.states.unread_until or not asked.is_turn:
            return 0.0
        own = (i for i, _ in self._own(asked, self.sessions.get(asked.session), None) if self._is_able(i, asked, at))
        first = next(own, None)
        able = [first] if first else [i for i in self.identities.values() if self._is_able(i, asked, at)]
        left = [i.unread_since + READ_WITHIN - at for i in able if i.unread_since is not None and i.is_unread(at)]
        return max(0.0, min(left)) if left and len(left) == len(able) else 0.0

    def edge_pause(self, identity: Identity, at: float) -> float:
        """Seconds for which the host that an identity is served from is still left alone."""
        return self.edges.pause(identity.metadata.origin, at) if identity.metadata is not None else 0.0

    def next_return(self, at: float) -> float | None:
        """Return the next second at which an identity serves again, or the breaker lets a request through."""
        times = [returns for i in self.identities.values() if (returns := i.returns_at) is not None]
        if self.states.breaker.opened_at is not None:
            times.append(self.states.breaker.until)
        return min((then for then in times if then > at), default=None)

    # -- the choice

    def _may_move(self, asked: Asked, at: float) -> bool:
        """Return whether the breaker lets a request have another identity.

        A request that every identity refuses would be a wasted probe, so others come first. But if all are like that,
        one of them has to try.
        """
        breaker = self.states.breaker
        is_their_time = breaker.opened_at is not None and at < breaker.until + OTHERS_FIRST
        if is_their_time and self.states.causes.asks_so(asked, at):
            return False
        return breaker.lets_pass(at)

    def _own(self, asked: Asked, session: Session | None, prefer: str | None) -> Iterator[tuple[Identity, Because]]:
        """Return the identities that come before all others for a request, and why."""
        if prefer is not None and (preferred := self.identities.get(prefer)) is not None:
            yield preferred, Because.PREFERRED
        because = Because.OWN
        if session is None:
            session, because = self.sessions.get(asked.parent), Because.PARENT
        if session is not None and (own := self.states.by_keys.get(session.key)) is not None:
            yield own, because
        if asked.session is None and not asked.is_turn:
            key = self.sessions.last_of(asked.client)
            if key is not None and (last := self.states.by_keys.get(key)) is not None:
                yield last, Because.CLIENT
        if asked.session is not None:
            for what in (asked.path, self.family_of(asked)):
                key = self.sessions.aside(asked.session, what)
                if key is not None and (own := self.states.by_keys.get(key)):
                    yield own, Because.ASIDE

    @staticmethod
    def _because(asked: Asked, session: Session | None, chosen: Identity) -> Because:
        if asked.session is None:
            return Because.NO_SESSION
        is_known = session is not None and chosen.metadata is not None and session.key == chosen.metadata.key
        return Because.OWN if is_known else Because.NEW if session is None else Because.MOVED

    def _next(
        self, asked: Asked, session: Session | None, excluded: frozenset[str], wanted: Wanted | None, at: float
    ) -> Identity | None:
        """Return the identity for a session that is new, or that its own identity cannot serve."""
        if session is not None and (near := self._near(asked, session, excluded, at)) is not None:
            return near
        order = self._in_order(asked, at) if wanted is None else self._only(wanted.name)
        able = (i for i in order if i.name not in excluded and self._is_able(i, asked, at))
        return next(able, None)

    def _only(self, name: str) -> Iterator[Identity]:
        if (identity := self.identities.get(name)) is not None:
            yield identity

    def _near(self, asked: Asked, session: Session, excluded: frozenset[str], at: float) -> Identity | None:
        """Return an identity of the session's workspace, which takes its encrypted reasoning for sure."""
        near = [
            i
            for i in self.states.by_account.get(session.key.account_id, ())
            if i.name not in excluded
            and not i.is_doubtful(at)
            and self._is_able(i, asked, at)
            and self.left(i, asked, at) > 0
        ]
        return min(near, key=lambda i: self._rank(i, at, self.family_of(asked)), default=None)

    def _in_order(self, asked: Asked, at: float) -> Iterator[Identity]:
        """Return the ready identities, the one that a new session gets first."""
        family = self.family_of(asked)
        if family == MAIN:
            return (self.identities[name] for name in self._ranking.names(self.identities, at))
        ready = (identity for identity in self.identities.values() if self._is_ready(identity, at))
        return iter(sorted(ready, key=lambda identity: self._rank(identity, at, family)))

    def _settled(self, asked: Asked, session: Session | None, chosen: Identity, at: float) -> Identity:
        """Bind the request's session to the identity it is sent under, unless its own just cannot serve this."""
        assert chosen.metadata is not None
        if asked.session is None or (session is not None and session.key == chosen.metadata.key):
            return chosen
        own = self.states.by_keys.get(session.key) if session is not None else None
        if (
            own is None
            or own.status is not Status.READY
            or own.has_expired(at)
            or not self.may_serve(own.name, asked)
        ):
            self._listener.session_bound(asked.session, self.sessions.bind(asked.session, chosen.metadata.key))
        elif not self.is_for(own, asked, at):
            self.sessions.set_aside(asked.session, asked.path, chosen.metadata.key)
            self.because = Because.ASIDE
        elif self.limited_until(own, asked, at) is not None:
            self.sessions.set_aside(asked.session, self.family_of(asked), chosen.metadata.key)
            self.because = Because.ASIDE
        return chosen

    def _is_able(self, identity: Identity, asked: Asked, at: float) -> bool:
        return (
            self._is_ready(identity, at)
            and self.is_for(identity, asked, at)
            and self.limited_until(identity, asked, at) is None
        )

    def _is_ready(self, identity: Identity, at: float) -> bool:
        self.states.return_if_due(identity, at)
        if identity.status is not Status.READY or identity.metadata is None:
            return False
        if self.states.usage_of(identity).limited_until(MAIN, at) is None:
            return True
        # Another token of the same account has met the limit.
        self.states.become(identity, self.states.awake(identity, at))
        return False

    def _rank_by_name(self, name: str, at: float) -> tuple[Rank | None, float]:
        """Return the rank of an identity, None if it cannot serve, and until when time alone does not change it."""
        if (identity := self.identities.get(name)) is None:
            return None, math.inf
        rank = self._rank(identity, at, MAIN) if self._is_ready(identity, at) else None
        is_used_up = rank is not None and rank[1]
        reset_at = self.states.usage_of(identity).used_up_until(MAIN) if is_used_up else None
        read_by = identity.unread_since + LONGEST_UNREAD if identity.unread_since is not None else None
        times = (identity.returns_at, identity.avoided_until, read_by, reset_at)
        return rank, min([time for time in times if time is not None and time > at], default=math.inf)

    def _rank(self, identity: Identity, at: float, family: str) -> Rank:
        return rank(self.selection, identity, self.states.usage_of(identity).headroom(family, at), at)

    # -- what is learned from answers

    def not_for_endpoint(
        self,
        name: str,
        path: str,
        evidence: Evidence,
        *,
        until: float | None = None,
        is_limit: bool = False,
        cause: Cause | None = None,
    ) -> bool:
        """Exclude a token from an endpoint, unless the cause is the request's own. Return whether that is news."""
        identity, at = self.states.current(name, evidence.fingerprint), evidence.at
        if identity is None or self.states.causes.is_own(cause, identity.fingerprint, at):
            return False
        ends = at + ENDPOINT_LASTS if until is None else until
        self.states.causes.changed(cause, identity.fingerprint, at, ends)
        passes = evidence.status == 429
        return self._exclude(
            Exclusion(About.ENDPOINT, identity.fingerprint, path, at, ends, str(evidence), is_limit, passes)
        )

    def not_for_model(self, name: str, model: str, evidence: Evidence) -> bool:
        """Exclude an account from a model that it does not have. Return whether that is news."""
        identity, at = self.states.current(name, evidence.fingerprint), evidence.at
        if identity is None:
            return False
        plan = subjects_of(identity).plan
        return self._exclude(Exclusion(About.MODEL, plan, model, at, at + MODEL_LASTS, str(evidence)))

    def limited_for_model(
        self, name: str, model: str, evidence: Evidence, until: float | None, *, is_limit: bool
    ) -> bool:
        """Limit an account for one model, if the cause is the request's own. Return whether that is news."""
        identity, at = self.states.current(name, evidence.fingerprint), evidence.at
        if identity is None:
            return False
        if until is None:
            until = at + (UNKNOWN_LIMIT if is_limit else self.states.longer_rest(identity))
        self.states.breaker.tried()
        owner = subjects_of(identity).owner
        return self._exclude(Exclusion(About.LIMIT, owner, model, at, until, str(evidence), is_limit, True))

    def _exclude(self, new: Exclusion) -> bool:
        is_news = self.exclusions.add(new)
        if is_news:
            self._listener.exclusions_changed(new.subject)
        return is_news

    def leaves(
        self,
        name: str,
        asked: Asked,
        at: float,
        seconds: float = AWAY,
        why: str = "the session was told to leave it",
    ) -> bool:
        """Have a session leave an identity for a while. Return False if it has no name, or no other serves it."""
        identity = self.identities.get(name)
        others = any(i is not identity and self._is_able(i, asked, at) for i in self.identities.values())
        if identity is None or asked.session is None or not others:
            return False
        self.exclusions.add(Exclusion(About.SESSION, identity.fingerprint, asked.session, at, at + seconds, why))
        return True

    def resumed(self, name: str, fingerprint: str, at: float) -> None:
        """Follow a person's word that nothing was wrong with an identity then: end its limits, rests and refusals.

        The state says so to each proxy, perhaps late or twice: what was met since then stays.
        """
        identity = self.states.current(name, fingerprint)
        if identity is not None and identity.metadata is not None and at > identity.resumed_at:
            self.states.causes.withdraw(fingerprint)
            for subject in self.exclusions.forget(identity, at):
                self._listener.exclusions_changed(subject)
        self.states.resumed(name, fingerprint, at)

    def troubled(self, name: str, at: float) -> None:
        """Count trouble of the backend's own: after several in a row new sessions avoid the identity for a while."""
        identity = self.identities.get(name)
        if identity is None:
            return
        identity.troubles += 1
        if identity.troubles >= TROUBLES:
            pause = min(SHORT_REST * 2 ** min(identity.troubles - TROUBLES, 10), LONGEST_AVOIDED)
            identity.avoided_until = at + pause
            self._ranking.change(identity)

    def succeeded(self, name: str, sent_at: float, is_turn: bool) -> bool:
        """Count a good answer, which ends a row of rests. Return whether it closes the breaker.

        What is no turn (see `Asked`) says nothing about calls of a model; nor does the handshake of a WebSocket.
        """
        identity = self.identities.get(name)
        if identity is not None:
            identity.issued_at = 0.0
            identity.served_at = max(identity.served_at, sent_at)
            if is_turn:
                identity.rests = identity.doubts = 0
            if identity.troubles:
                identity.troubles, identity.avoided_until = 0, 0.0
                self._ranking.change(identity)
            if identity.metadata is not None:
                self.edges.let_pass(identity.metadata.origin)
        return is_turn and self.states.breaker.succeeded(sent_at)

    def usage_read(self, key: IdentityKey, report: UsageReport, sent_at: float, at: float) -> None:
        """Learn what wham/usage says of an account, asked at ``sent_at``: what is left, what is limited."""
        self.states.usage(key).read(report, sent_at, at)
        self._usage_learned(key, at)

    def usage_noted(self, key: IdentityKey, note: Mapping[str, Any], at: float) -> None:
        """Learn what another process has read. Raises TypeError or ValueError if the note has something else."""
        self.states.usage(key).take(note, at)
        self._usage_learned(key, at)

    def _usage_learned(self, key: IdentityKey, at: float) -> None:
        """Follow the newest word on an account: its status, and its limits for single models."""
        self.states.usage_learned(key, at)
        usage = self.states.usage(key)

        def is_lifted(limit: Exclusion) -> bool:
            own = self.families.get(limit.what, MAIN)
            family = own if usage.said_at.get(own, 0.0) > limit.since else MAIN
            return usage.said_at.get(family, 0.0) > limit.since and usage.limited_until(family, at) is None

        self._lift(key, is_lifted)

    def _lift(self, key: IdentityKey, is_lifted: Callable[[Exclusion], bool]) -> None:
        if (identity := self.states.by_keys.get(key)) is not None:
            owner = subjects_of(identity).owner
            if self.exclusions.lift(owner, is_lifted):
                self._listener.exclusions_changed(owner)

    def was_reset(self, key: IdentityKey, reset_at: float, at: float) -> None:
        """Follow a person who spent a reset credit of an account: what was limited before then is not any more."""
        self.states.usage(key).was_reset(reset_at)
        self.states.usage_learned(key, at)
        if (identity := self.states.by_keys.get(key)) is None:
            return
        self._lift(key, lambda limit: limit.since < reset_at)
        if at < reset_at + RESET_IS_NEWS:
            self._listener.limits_reset(identity)

    def saw_usage(self, key: IdentityKey) -> None:
        """Rank an account's identity again: something new is known of its limits."""
        if (identity := self.states.by_keys.get(key)) is not None:
            self._ranking.change(identity)

    def learn_family(self, model: str, family: str) -> bool:
        """Remember which family's limit counts for a model. Return whether that is news."""
        is_known = self.families.get(model, MAIN) == family
        if not model or is_known or len(self.families) >= FAMILIES_KEPT:
            return False
        self.families[model] = family
        return True
