"""Which identity serves which session, and how often each one had to move."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from codexpool.pool.identity import IdentityKey

KEPT = 100_000  # Sessions whose identity is remembered; beyond that the one that was used longest ago is forgotten.
ASIDES_KEPT = 10_000  # Sessions of which it is remembered who serves what their own identity cannot.


@dataclass(slots=True)
class Session:
    """Who serves a session, how often that has changed, and whose accounts it was served by before."""

    key: IdentityKey
    moves: int = 0
    accounts: frozenset[str] = frozenset()


class Sessions:
    """The sessions in use. They belong to an account and user, not to a token or a name."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._asides: OrderedDict[tuple[str, str], IdentityKey] = OrderedDict()

    def get(self, session: str | None) -> Session | None:
        """A session that is known. Looking at it makes it the one used last."""
        if session is None or (found := self._sessions.get(session)) is None:
            return None
        self._sessions.move_to_end(session)
        return found

    def bind(self, session: str, key: IdentityKey) -> Session:
        """Have a session served by an identity from now on."""
        known = self._sessions.get(session)
        if known is None:
            known = self._sessions[session] = Session(key)
            if len(self._sessions) > KEPT:
                self._sessions.popitem(last=False)
        elif known.key != key:
            known.accounts |= {known.key.account_id}
            known.key = key
            known.moves += 1
        self._sessions.move_to_end(session)
        return known

    def restore(self, sessions: Mapping[str, tuple[IdentityKey, int]]) -> None:
        """Take over, with their moves, those of an earlier run or another proxy; those in use stay as they are."""
        for session, (key, moves) in sessions.items():
            if session not in self._sessions:
                self.bind(session, key).moves = moves

    # What its own identity cannot serve (one endpoint, one family of models) somebody else serves, always the same;
    # the session itself does not move for that.

    @property
    def has_asides(self) -> bool:
        """Whether anything is served by somebody else for any session."""
        return bool(self._asides)

    def aside(self, session: str | None, what: str) -> IdentityKey | None:
        """Who serves this for a session in place of its own identity."""
        return self._asides.get((session, what)) if session is not None else None

    def set_aside(self, session: str, what: str, key: IdentityKey) -> None:
        """Have somebody else serve this for a session."""
        self._asides[(session, what)] = key
        if len(self._asides) > ASIDES_KEPT:
            self._asides.popitem(last=False)
