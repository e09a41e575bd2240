"""What happens to one request, from its first attempt to the answer the client gets.

One generator per request: attempts and waits come out, verdicts go in, and its return value says what the client
gets. It does no I/O and knows no time but what it is given, so the whole of "a 401 goes unseen" can be read, and
tested, here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from codexpool.pool.identity import Asked, Identity, Status
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.states import IN_DOUBT
from codexpool.pool.verdict import MAY_BE_ITS_OWN, Finding, Next, Verdict

MOST_TRIES = 2
"""Attempts of one request with one token."""

MOST_RENEWALS = 2
"""Renewals of one identity that a request waits for: one may find a token on the disk, another one has it issued."""

BEFORE_AGAIN = 0.25
"""Seconds before a request goes out again after trouble of the backend's own."""


@dataclass(frozen=True, slots=True)
class Try:
    """Send the request under this identity, and come back with the verdict.

    ``lighter``: without its encrypted reasoning, which another account has issued.
    """

    identity: Identity
    lighter: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody is ready yet: come back when the pool has changed, or after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Come back after this many seconds, whatever happens meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """The token of this identity was refused, and another one is being got for it.

    Come back when that has come to something or to nothing, or after this many seconds.
    """

    identity: Identity
    seconds: float


@dataclass(frozen=True, slots=True)
class Relay:
    """The client gets the answer of the last attempt."""


@dataclass(frozen=True, slots=True)
class NobodyServes:
    """The client gets one clear answer of ours."""


Outcome = Relay | NobodyServes
Step = Try | Wait | Pause | Renew
Steps = Generator[Step, Verdict | None, Outcome]


def attempts(pool: Pool, asked: Asked, clock: Callable[[], float], timer: Callable[[], float]) -> Steps:
    """The attempts of one request. ``clock`` gives unix seconds, ``timer`` seconds that never jump.

    The stages after a refused credential, in this order: the identity has another token by now, so that is sent; its
    credential is renewed (the token on the disk if that is another one, else one from the token endpoint or the
    command), and that is sent; the next identity. A PAT skips the middle. A limit leads to the next identity at once.

    An identity is tried once per token. A second time it is tried only if whoami has vouched for the token since it
    was refused, or a rest is over that it was sent to, and nobody else is left. Apart from that a request goes out
    once more without its encrypted reasoning, and once more after trouble of the backend's own. An answer that may be
    the request's own (`Next.ONCE`, `Next.ELSEWHERE`) is relayed where nobody else is left to try.

    None in place of a verdict says that the attempt was not sent, because its identity has changed meanwhile: another
    one comes out, if there is any.
    """
    patience = _Patience(timer)
    tries = _Tries()
    renewals: Counter[str] = Counter()
    extra = {Next.LIGHTER, Next.AGAIN, Next.ONCE}
    lighter = may_relay = False
    prefer: str | None = None
    while True:
        now = clock()
        own = pool.in_renewal(asked)
        if own is not None and renewals[own.name] < MOST_RENEWALS and (seconds := patience.for_one_of([own])) > 0:
            renewals[own.name] += 1
            yield from patience.spent_on(Renew(own, seconds), [own])
            continue
        identity = pool.choose(asked, now, tries.refused(pool), prefer)
        if identity is None and may_relay:
            return Relay()
        if identity is None:
            identity = pool.choose(asked, now, tries.spent(pool))
        if identity is None:
            awaited = pool.awaited(asked, now, patience.left, tries.spent(pool))
            if (seconds := patience.for_one_of(awaited)) <= 0:
                return NobodyServes()
            yield from patience.spent_on(Wait(seconds), awaited)
            continue
        if (pause := min(pool.edge_pause(identity, now), patience.left)) > 0:
            yield from patience.spent_on(Pause(pause))
            prefer = identity.name
            continue
        sent = identity.fingerprint
        while (verdict := (yield Try(identity, lighter))) is None:
            identity = pool.choose(asked, clock(), tries.refused(pool)) or identity
            sent = identity.fingerprint
        prefer = identity.name if verdict.next in STAYS else None
        if verdict.next in (Next.LIGHTER, Next.AGAIN):
            if verdict.next not in extra:
                return Relay()
            extra.remove(verdict.next)
            lighter = lighter or verdict.next is Next.LIGHTER
            if verdict.next is Next.AGAIN:
                yield from patience.spent_on(Pause(BEFORE_AGAIN))
            continue
        tries.add(sent, now, verdict)
        may_relay = verdict.next in MAY_BE_ITS_OWN
        if verdict.next is Next.RELAY or (verdict.next is Next.ONCE and Next.ONCE not in extra):
            return Relay()
        if verdict.next is Next.ONCE:
            extra.remove(Next.ONCE)
        seconds = patience.for_one_of([identity])
        if verdict.next is Next.RENEWED and renewals[identity.name] < MOST_RENEWALS and seconds > 0:
            renewals[identity.name] += 1
            yield from patience.spent_on(Renew(identity, seconds), [identity])


STAYS = frozenset({Next.SAME, Next.RENEWED, Next.LIGHTER, Next.AGAIN})
"""What becomes of a request that shall stay with the identity it was sent under."""


LEAST = 0.001
"""Seconds that are worth waiting for: the rest of a float is none."""


class _Patience:
    """The seconds that a request waits in all."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self.left = PATIENCE

    def for_one_of(self, awaited: Sequence[Identity]) -> float:
        """The seconds there are to wait for one of these identities; 0 where there is none.

        Others have waited for those that are in doubt; when a rest ends is known.
        """
        now = self._timer()
        shares = (i.waited.left(now) if i.status in IN_DOUBT else PATIENCE for i in awaited)
        return min(self.left, max(shares, default=0.0))

    def spent_on(
        self, step: Wait | Pause | Renew, awaited: Sequence[Identity] = ()
    ) -> Generator[Step, Verdict | None, None]:
        """Wait, and take off what that took, here and for whoever waits for the same identities."""
        begun = self._timer()
        for identity in awaited:
            if identity.status in IN_DOUBT:
                identity.waited.begins(begun, step.seconds)
        yield step
        granted = min(self.left, step.seconds) if awaited else self.left  # What others have waited is gone for good.
        left = granted - max(0.0, self._timer() - begun)
        self.left = left if left > LEAST else 0.0


class _Tries:
    """The tokens a request went out with, by fingerprint: when last, how often, and what came of it."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[float, int, Finding]] = {}

    def add(self, fingerprint: str, at: float, verdict: Verdict) -> None:
        _, times, _ = self._tries.get(fingerprint, (at, 0, verdict.finding))
        self._tries[fingerprint] = (at, times + 1, verdict.finding)

    def refused(self, pool: Pool) -> set[str]:
        """Who is not tried while there is anybody else."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries}

    def spent(self, pool: Pool) -> set[str]:
        """Who is not tried at all any more: whoami has not vouched for the token since, and nobody will."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries and self._is_spent(i)}

    def _is_spent(self, identity: Identity) -> bool:
        last, times, finding = self._tries[identity.fingerprint]
        if times >= MOST_TRIES:
            return True
        if finding in (Finding.THROTTLED, Finding.LIMITED):
            return False  # A matter of time only.
        if finding is Finding.EDGE:  # That too, but it is the same for everybody: once more is enough.
            return any(times > 1 for _, times, _ in self._tries.values())
        return identity.status in (Status.READY, Status.RESTING) and identity.vouched_at < last
