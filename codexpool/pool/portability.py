"""Whose encrypted reasoning is of no use to whom: learned from refusals, so that each costs one round trip only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

SESSIONS_KEPT = 1_000
"""Sessions of which it is remembered what is foreign in their history."""

DIGESTS_KEPT = 10_000
"""Items of one session that are remembered; a history that is longer is refused once more."""


class Portability:
    """Pairs of accounts, and for each session that has moved the digests of what its account did not take.

    What an account has issued itself is kept: only what was in the history when that was refused is left out.
    """

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self._foreign: OrderedDict[tuple[str, str], set[bytes] | None] = OrderedDict()
        """By session and account; None for all that is in the next request."""

    def refused(self, session: str | None, before: Collection[str], account: str) -> None:
        """An account did not take the encrypted reasoning of a session that was served by others ``before``."""
        self._pairs |= {(other, account) for other in before if other != account}
        if session is not None:
            self._keep(session, account, None)

    def left_out(self, session: str | None, account: str, digests: Collection[bytes]) -> None:
        """This was left out of a request of a session."""
        if session is None:
            return
        known = self._foreign.get((session, account)) or set()
        if len(known) + len(digests) <= DIGESTS_KEPT:
            known.update(digests)
        self._keep(session, account, known)

    def foreign(self, session: str | None, before: Collection[str], account: str) -> Collection[bytes] | None:
        """The digests of what is to be left out of a session's next request: empty for nothing, None for all."""
        if not self._foreign:
            return ()
        if session is not None and (session, account) in self._foreign:
            return self._foreign[(session, account)]
        return None if any((other, account) in self._pairs for other in before) else ()

    def _keep(self, session: str, account: str, digests: set[bytes] | None) -> None:
        self._foreign[(session, account)] = digests
        self._foreign.move_to_end((session, account))
        if len(self._foreign) > SESSIONS_KEPT:
            self._foreign.popitem(last=False)
