"""What one identity issued and another cannot use: turn states, and encrypted reasoning."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from codexpool.common.recent import Recent
from codexpool.pool.identity import IdentityKey
from codexpool.protocol.headers import TURN_STATE, Fields

TURN_STATES_KEPT = 10_000  # Turn states that are remembered; one is of use for the length of a turn.
SESSIONS_KEPT = 1_000  # Sessions whose foreign encrypted reasoning is remembered.
DIGESTS_KEPT = 10_000  # Items of one session that are remembered; a history that is longer is refused once more.


class TurnStates:
    """Which identity issued a turn state, by digest: it must not be sent under another one."""

    def __init__(self) -> None:
        self._issuers: Recent[bytes, IdentityKey] = Recent(TURN_STATES_KEPT)

    def issued(self, value: bytes, key: IdentityKey) -> None:
        self._issuers[_digest(value)] = key

    def is_of(self, value: bytes, key: IdentityKey) -> bool:
        return self._issuers.get(_digest(value)) == key

    def fit(self, fields: Fields, key: IdentityKey) -> bool:
        """Return whether an identity issued all the turn states among a request's headers."""
        values = [value for name, value in fields if len(name) == len(TURN_STATE) and name.lower() == TURN_STATE]
        return all(self.is_of(value, key) for value in values)  # Of none at all, as for nearly every request.


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:16]


class Portability:
    """Which encrypted reasoning which account refuses, learned from refusals so that each costs one round trip.

    What an account has issued itself is kept: only what was in the history when it was refused is left out.
    """

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()  # The issuing account, and the one that refused.
        self._foreign: Recent[tuple[str, str], set[bytes] | None] = Recent(SESSIONS_KEPT)
        """Digests by session and account; None for all that the next request has."""

    def refused(self, session: str | None, before: Collection[str], account: str) -> None:
        """Remember that an account refused the encrypted reasoning of a session that others had served ``before``."""
        self._pairs |= {(other, account) for other in before if other != account}
        if session is not None:
            self._foreign[session, account] = None

    def left_out(self, session: str | None, account: str, digests: Collection[bytes]) -> None:
        if session is None:
            return
        known = self._foreign.get((session, account)) or set()
        if len(known) + len(digests) <= DIGESTS_KEPT:
            known.update(digests)
        self._foreign[session, account] = known

    def foreign(self, session: str | None, before: Collection[str], account: str) -> Collection[bytes] | None:
        """Return the digests to leave out of a session's next request: empty for nothing, None for all."""
        if not self._foreign:
            return ()
        if session is not None and (session, account) in self._foreign:
            return self._foreign[(session, account)]
        return None if any((other, account) in self._pairs for other in before) else ()
