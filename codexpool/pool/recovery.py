"""Decide what happens to a request, from its first attempt to the answer the client gets.

One generator per request: it yields attempts and waits, takes verdicts, and returns what the client gets. It does no
I/O and reads no clock of its own, so "the client never sees a 401" can be read, and tested, in this one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from codexpool.pool.identity import Asked, Identity, Status
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.states import IN_DOUBT
from codexpool.pool.verdict import MAY_BE_ITS_OWN, Finding, Next, Verdict

MOST_TRIES = 2  # Attempts of one request with one token.
MOST_RENEWALS = 2  # Of one identity that a request waits for: the first may be read from disk, the second is issued.
LONGEST_LOOK = 3.0  # Seconds to find out whether limited identities are limited still.
LONGEST_LOOK_UP = 0.25  # Seconds to find out whether another proxy serves a session.
MOST_UNLISTED = 3  # Identities asked for a model that is in no list: it may be new, but is more likely misspelt.
BEFORE_AGAIN = 0.25  # Seconds before a request is sent again after an error of the backend.


@dataclass(frozen=True, slots=True)
class Try:
    """Send the request under this identity, and return with the verdict.

    ``lighter``: without its encrypted reasoning, which another account issued.
    """

    identity: Identity
    lighter: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """No identity is ready yet: return when the pool has changed, or after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Return after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """This identity's token was refused and is being renewed: return when that ended, or after this many seconds."""

    identity: Identity
    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the backend about these identities, which are limited as far as is known.

    Return when one of them can serve, when all have answered, or after this many seconds.
    """

    identities: Sequence[Identity]
    seconds: float


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the state which identities serve these sessions, which are unknown to this proxy.

    Return when it has answered, or after this many seconds.
    """

    sessions: Sequence[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Relay:
    """The client gets the answer of the last attempt."""


@dataclass(frozen=True, slots=True)
class NobodyServes:
    """The client gets an error from the proxy that says why no identity can serve."""


Outcome = Relay | NobodyServes
Step = Try | Wait | Pause | Renew | Look | LookUp
Steps = Generator[Step, Verdict | None, Outcome]


def attempts(pool: Pool, asked: Asked, clock: Callable[[], float], timer: Callable[[], float]) -> Steps:
    """Yield the attempts and waits of one request.

    ``clock`` returns unix seconds, ``timer`` monotonic seconds.

    After a refused credential: if the identity has another token by now, send that; else renew the credential (from
    disk if the token there is another one, else from the token endpoint or the command) and send the new one; else
    take the next identity. A PAT cannot be renewed. A limit goes to the next identity at once. When none is left,
    those that are limited are looked at again: limits are lifted early.

    A session that is unknown here is looked up once, before an identity is chosen: another proxy may serve it.

    An identity is tried once per token. It gets a second try only when no other identity is left, and whoami vouched
    for the token since the refusal, or the rest it was sent to is over. Besides, a request is sent once more without
    its encrypted reasoning, and once more after an error of the backend. An answer that may be the request's
    own fault (`Next.ONCE`, `Next.ELSEWHERE`) is relayed if no other identity is left.

    Identities whose list lacks the model are tried only when no other one serves, not even after a wait. If the model
    is in no list, the third refusal is relayed.

    Send None instead of a verdict if the attempt was not sent because its identity changed meanwhile: the generator
    yields another one, if there is one.
    """
    search = _Search(pool, asked, clock, _Patience(timer))
    extra = {Next.LIGHTER, Next.AGAIN, Next.ONCE}
    lighter = False
    while True:
        found = yield from search.identity()
        if not isinstance(found, Identity):
            return found
        identity, sent, at = found, found.fingerprint, clock()
        while (verdict := (yield Try(identity, lighter))) is None:
            identity = search.another() or identity
            sent = identity.fingerprint
        search.prefer = identity.name if verdict.next in STAYS else None
        if verdict.next in (Next.LIGHTER, Next.AGAIN):
            if verdict.next not in extra:
                return Relay()
            extra.remove(verdict.next)
            lighter = lighter or verdict.next is Next.LIGHTER
            if verdict.next is Next.AGAIN:
                yield from search.patience.spent_on(Pause(BEFORE_AGAIN))
            continue
        search.tries.add(sent, at, verdict)
        search.may_relay = verdict.next in MAY_BE_ITS_OWN
        if verdict.next is Next.RELAY or (verdict.next is Next.ONCE and Next.ONCE not in extra):
            return Relay()
        if search.tries.count(Finding.NOT_FOR_THIS_MODEL) >= MOST_UNLISTED and pool.is_unlisted(asked):
            return Relay()
        if verdict.next is Next.ONCE:
            extra.remove(Next.ONCE)
        if verdict.next is Next.RENEWED:
            yield from search.renewal(identity)


def advance(steps: Steps, verdict: Verdict | None) -> Step | Outcome:
    """Return what comes after a verdict: the next step, or the outcome."""
    try:
        return steps.send(verdict)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


STAYS = frozenset({Next.SAME, Next.RENEWED, Next.LIGHTER, Next.AGAIN})  # The request stays with its identity.


LEAST = 0.001  # Shortest wait, in seconds: less is a rounding error.


class _Patience:
    """How long a request may still wait, over all its waits."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self.left = PATIENCE

    def for_one_of(self, awaited: Sequence[Identity]) -> float:
        """Return the seconds to wait for one of these identities; 0 for none.

        An identity in doubt is waited for once, by all requests together; a rest has a known end.
        """
        now = self._timer()
        shares = (i.waited.left(now) if i.status in IN_DOUBT else PATIENCE for i in awaited)
        return min(self.left, max(shares, default=0.0))

    def spent_on(
        self, step: Wait | Pause | Renew | Look, awaited: Sequence[Identity] = ()
    ) -> Generator[Step, Verdict | None, None]:
        """Wait, and deduct the time taken, here and for other requests that wait for the same identities."""
        begun = self._timer()
        for identity in awaited:
            if identity.status in IN_DOUBT:
                identity.waited.begins(begun, step.seconds)
        yield step
        granted = min(self.left, step.seconds) if awaited else self.left  # Time others waited counts.
        left = granted - max(0.0, self._timer() - begun)
        self.left = left if left > LEAST else 0.0


class _Tries:
    """The tokens a request was sent with, by fingerprint: when last, how often, and the last finding."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[float, int, Finding]] = {}

    def add(self, fingerprint: str, at: float, verdict: Verdict) -> None:
        _, times, _ = self._tries.get(fingerprint, (at, 0, verdict.finding))
        self._tries[fingerprint] = (at, times + 1, verdict.finding)

    def count(self, finding: Finding) -> int:
        """Return how many tokens were last answered like that."""
        return sum(last == finding for _, _, last in self._tries.values())

    def refused(self, pool: Pool) -> set[str]:
        """Return the identities to avoid while another one is left."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries}

    def spent(self, pool: Pool) -> set[str]:
        """Return the identities not to try again: no whoami vouched for their token since it was refused."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries and self._is_spent(i)}

    def _is_spent(self, identity: Identity) -> bool:
        last, times, finding = self._tries[identity.fingerprint]
        if times >= MOST_TRIES:
            return True
        if finding in (Finding.THROTTLED, Finding.LIMITED):
            return False  # It only takes time.
        if finding is Finding.EDGE:  # The same for all identities: one more try is enough.
            return any(times > 1 for _, times, _ in self._tries.values())
        return identity.status in (Status.READY, Status.RESTING) and identity.vouched_at < last


@dataclass(slots=True)
class _Search:
    """Finds the identity of each attempt of one request, and waits as long as none can serve it.

    ``prefer`` names the identity to stay with. ``may_relay``: the last answer is relayed if no other one is left.
    """

    pool: Pool
    asked: Asked
    clock: Callable[[], float]
    patience: _Patience
    tries: _Tries = field(default_factory=_Tries)
    renewals: Counter[str] = field(default_factory=Counter)
    prefer: str | None = None
    may_relay: bool = False
    has_looked: bool = False
    has_looked_up: bool = False

    def __post_init__(self) -> None:
        if self.pool.entitlements.differ:
            self.asked = self.asked._replace(has_model=True)

    def identity(self) -> Generator[Step, Verdict | None, Identity | Outcome]:
        """Return the identity of the next attempt, or the outcome if there is none."""
        while True:
            if not self.has_looked_up and (unknown := self.pool.unknown_sessions(self.asked)):
                self.has_looked_up = True
                yield LookUp(unknown, LONGEST_LOOK_UP)
            now = self.clock()
            own = self.pool.in_renewal(self.asked)
            if own is not None and (yield from self.renewal(own)):
                continue
            if (seconds := min(self.pool.unread_pause(self.asked, now), self.patience.left)) > 0:
                yield from self.patience.spent_on(Wait(seconds))
                continue
            identity = self.pool.choose(self.asked, now, self.tries.refused(self.pool), self.prefer)
            if identity is None and self.may_relay:
                return Relay()
            identity = identity or self._last_resort(now)
            if identity is not None:
                if (pause := min(self.pool.edge_pause(identity, now), self.patience.left)) <= 0:
                    return identity
                yield from self.patience.spent_on(Pause(pause))
                self.prefer = identity.name
            elif (wait := self._wait(now)) is not None:
                yield from self.patience.spent_on(*wait)
            elif self.asked.has_model:
                self.asked = self.asked._replace(has_model=False)  # A list may be wrong: only a refusal excludes.
            else:
                return NobodyServes()

    def another(self) -> Identity | None:
        """Return the identity for an attempt that was not sent; None if there is no other."""
        return self.pool.choose(self.asked, self.clock(), self.tries.refused(self.pool))

    def renewal(self, identity: Identity) -> Generator[Step, Verdict | None, bool]:
        """Wait for the renewal of an identity's token. Return False if that is not worth it any more."""
        seconds = self.patience.for_one_of([identity])
        if self.renewals[identity.name] >= MOST_RENEWALS or seconds <= 0:
            return False
        self.renewals[identity.name] += 1
        yield from self.patience.spent_on(Renew(identity, seconds), [identity])
        return True

    def _last_resort(self, now: float) -> Identity | None:
        """Return an identity that has refused the request before, or that only tells what it has left."""
        identity = self.pool.choose(self.asked, now, self.tries.spent(self.pool))
        if identity is None and self.asked.is_usage:
            return self.pool.reads_usage(self.asked, now, self.tries.refused(self.pool))
        return identity

    def _wait(self, now: float) -> tuple[Look | Wait, Sequence[Identity]] | None:
        """Return what to wait for if no identity can serve now, and those that may serve then; None for nothing."""
        if not self.has_looked and self.patience.left > 0:
            limited = self.pool.worth_a_look(self.asked, now, self.tries.refused(self.pool))
            if limited:
                self.has_looked = True
                return Look(limited, min(LONGEST_LOOK, self.patience.left)), ()
        awaited = self.pool.awaited(self.asked, now, self.patience.left, self.tries.spent(self.pool))
        seconds = self.patience.for_one_of(awaited)
        return (Wait(seconds), awaited) if seconds > 0 else None
