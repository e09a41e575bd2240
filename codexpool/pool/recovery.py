"""What happens to one request, from its first attempt to the answer the client gets.

One generator per request: attempts and waits come out, verdicts go in, and its return value says what the client
gets. It does no I/O and knows no time but what it is given, so the whole of "a 401 goes unseen" can be read, and
tested, here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

from codexpool.pool.identity import Identity, Status
from codexpool.pool.pool import Pool
from codexpool.pool.verdict import Next, Verdict

PATIENCE = 10.0
"""Seconds that a request waits in all for an identity to become ready, or to have another token, while one may."""

MOST_TRIES = 2
"""Attempts of one request with one token."""

MOST_RENEWALS = 2
"""Renewals of one identity that a request waits for: one may find a token on the disk, another one has it issued."""


@dataclass(frozen=True, slots=True)
class Try:
    """Send the request under this identity, and come back with the verdict."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody is ready yet: come back when the pool has changed, or after this many seconds."""

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
Step = Try | Wait | Renew
Steps = Generator[Step, Verdict | None, Outcome]


def attempts(pool: Pool, session: str | None, path: str, clock: Callable[[], float]) -> Steps:
    """The attempts of one request. ``clock`` gives unix seconds.

    The stages after a refusal, in this order: the identity has another token by now, so that is sent; its credential
    is renewed (the token on the disk if that is another one, else one from the token endpoint or the command), and
    that is sent; the next identity. A PAT skips the middle.

    An identity is tried once per token. A second time it is tried only if whoami has vouched for the token since
    it was refused, and nobody else is left. None in place of a verdict says that the attempt was not sent, because
    its identity has changed meanwhile: another one comes out, if there is any.
    """
    patience = PATIENCE
    tries = _Tries()
    renewals: Counter[str] = Counter()
    prefer: str | None = None
    while True:
        now = clock()
        own = pool.in_renewal(session)
        if own is not None and renewals[own.name] < MOST_RENEWALS and patience > 0:
            renewals[own.name] += 1
            yield Renew(own, patience)
            patience -= max(0.0, clock() - now)
            continue
        identity = pool.choose(session, path, now, tries.refused(pool), prefer)
        if identity is None:
            identity = pool.choose(session, path, now, tries.spent(pool))
        if identity is not None:
            sent = identity.fingerprint
            while (verdict := (yield Try(identity))) is None:
                identity = pool.choose(session, path, clock(), tries.refused(pool)) or identity
                sent = identity.fingerprint
            tries.add(sent, now)
            if verdict.next is Next.RELAY:
                return Relay()
            prefer = identity.name if verdict.next in (Next.SAME, Next.RENEWED) else None
            if verdict.next is Next.RENEWED and renewals[identity.name] < MOST_RENEWALS and patience > 0:
                renewals[identity.name] += 1
                now = clock()
                yield Renew(identity, patience)
                patience -= max(0.0, clock() - now)
        else:
            if patience <= 0 or not pool.may_serve_soon(path, now, patience, without=tries.spent(pool)):
                return NobodyServes()
            yield Wait(patience)
            patience -= max(0.0, clock() - now)


class _Tries:
    """The tokens a request went out with, by fingerprint: when last, and how often."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[float, int]] = {}

    def add(self, fingerprint: str, at: float) -> None:
        _, times = self._tries.get(fingerprint, (at, 0))
        self._tries[fingerprint] = (at, times + 1)

    def refused(self, pool: Pool) -> set[str]:
        """Who is not tried while there is anybody else."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries}

    def spent(self, pool: Pool) -> set[str]:
        """Who is not tried at all any more: whoami has not vouched for the token since, and nobody will."""
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries and self._is_spent(i)}

    def _is_spent(self, identity: Identity) -> bool:
        last, times = self._tries[identity.fingerprint]
        serves_unchanged = identity.status in (Status.READY, Status.RESTING) and identity.vouched_at < last
        return times >= MOST_TRIES or serves_unchanged
