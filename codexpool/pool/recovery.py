"""What happens to one request, from its first attempt to the answer the client gets.

One generator per request: attempts and waits come out, verdicts go in, and its return value says what the client
gets. It does no I/O and knows no time but what it is given, so the whole of "a 401 goes unseen" can be read, and
tested, here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from codexpool.pool.identity import Status
from codexpool.pool.pool import Identity, Pool
from codexpool.pool.verdict import Next, Verdict

PATIENCE = 10.0
"""Seconds that a request waits in all for an identity to become ready, while one may."""


MOST_TRIES = 2
"""Attempts of one request with one token."""


@dataclass(frozen=True, slots=True)
class Try:
    """Send the request under this identity, and come back with the verdict."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody is ready yet: come back when the pool has changed, or after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Relay:
    """The client gets the answer of the last attempt."""


@dataclass(frozen=True, slots=True)
class NobodyServes:
    """The client gets one clear answer of ours."""


Outcome = Relay | NobodyServes
Steps = Generator[Try | Wait, Verdict | None, Outcome]


def attempts(pool: Pool, session: str | None, path: str, clock: Callable[[], float]) -> Steps:
    """The attempts of one request. ``clock`` gives unix seconds.

    An identity is tried once per token. A second time it is tried only if whoami has vouched for the token since
    it was refused, and nobody else is left. None in place of a verdict says that the attempt was not sent, because
    its identity has changed meanwhile: another one comes out, if there is any.
    """
    patience = PATIENCE
    tries = _Tries()
    prefer: str | None = None
    while True:
        now = clock()
        identity = pool.choose(session, path, now, tries.refused(pool), prefer)
        if identity is None:
            identity = pool.choose(session, path, now, tries.spent(pool))
        if identity is not None:
            while (verdict := (yield Try(identity))) is None:
                identity = pool.choose(session, path, clock(), tries.refused(pool)) or identity
            tries.add(identity, now)
            if verdict.next is Next.RELAY:
                return Relay()
            prefer = identity.name if verdict.next is Next.SAME else None
        else:
            if patience <= 0 or not pool.may_serve_soon(path, now, patience, without=tries.spent(pool)):
                return NobodyServes()
            yield Wait(patience)
            patience -= max(0.0, clock() - now)


class _Tries:
    """The tokens a request went out with, by fingerprint: when last, and how often."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[float, int]] = {}

    def add(self, identity: Identity, at: float) -> None:
        _, times = self._tries.get(identity.fingerprint, (at, 0))
        self._tries[identity.fingerprint] = (at, times + 1)

    def refused(self, pool: Pool) -> set[str]:
        """Who is not tried while there is anybody else."""
        if not self._tries:
            return set()
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries}

    def spent(self, pool: Pool) -> set[str]:
        """Who is not tried at all any more: ready, but not because whoami has vouched for the token since."""
        return {i.name for i in pool.identities.values() if i.fingerprint in self._tries and self._is_spent(i)}

    def _is_spent(self, identity: Identity) -> bool:
        last, times = self._tries[identity.fingerprint]
        return times >= MOST_TRIES or (identity.status is Status.READY and identity.vouched_at < last)
