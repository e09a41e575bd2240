"""Which identity serves which session, and how often each session moved.

Several proxies may serve one session, and the state arbitrates between them. It keeps, for each session, the identity
with the most moves; of two with as many, the one that was stored first. So whatever it says counts here, unless this
proxy has moved the session since:

| the session here | what the state says | here from now on |
|---|---|---|
| unknown | an answer to a look-up | that |
| unknown | news | unknown still: it is looked up when a request needs it |
| has moved more often | anything | unchanged: our own move is still being written |
| has moved as often, or less | anything | what the state says |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codexpool.common.recent import Recent
from codexpool.pool.identity import IdentityKey

KEPT = 100_000  # Sessions that are remembered; beyond that the one used longest ago is forgotten.
ASIDES_KEPT = 10_000  # Endpoints and families of sessions that another identity serves.
CLIENTS_KEPT = 10_000  # Clients whose last identity is remembered.


@dataclass(slots=True)
class Session:
    """Who serves a session, how often that changed, and the accounts that served it before.

    ``stored_at`` is the unix second at which this was last put into the state, 0 if it was not.
    """

    key: IdentityKey
    moves: int = 0
    accounts: frozenset[str] = frozenset()
    stored_at: float = 0.0


class Sessions:
    """The sessions in use. They belong to an account and user, not to a token or a name.

    ``can_be_looked_up`` returns whether the state can be asked now about sessions that are unknown here.
    """

    def __init__(self) -> None:
        self.can_be_looked_up: Callable[[], bool] = lambda: False
        self._sessions: Recent[str, Session] = Recent(KEPT)
        self._asides: Recent[tuple[str, str], IdentityKey] = Recent(ASIDES_KEPT)
        self._clients: Recent[str, IdentityKey] = Recent(CLIENTS_KEPT)

    def get(self, session: str | None) -> Session | None:
        """Return a known session, which counts as used."""
        if session is None or (found := self._sessions.get(session)) is None:
            return None
        self._sessions.move_to_end(session)
        return found

    def bind(self, session: str, key: IdentityKey) -> Session:
        known = self._sessions[session] = self._sessions.get(session) or Session(key)
        if known.key != key:
            known.accounts |= {known.key.account_id}
            known.key = key
            known.moves += 1
            known.stored_at = 0.0
        return known

    def unknown(self, session: str | None, parent: str | None) -> tuple[str, ...]:
        """Return a session that is unknown here, with its parent if that is, too."""
        if session in self._sessions:
            return ()
        return tuple(name for name in (session, parent) if name and name not in self._sessions)

    def found(self, stored: Mapping[str, tuple[IdentityKey, int]]) -> dict[str, IdentityKey]:
        """Take over what a look-up found: identities and moves. Return what `follow` does."""
        for session, (key, moves) in stored.items():
            if session not in self._sessions:
                self._sessions[session] = Session(key, moves)
        return self.follow(stored)

    def follow(self, stored: Mapping[str, tuple[IdentityKey, int]]) -> dict[str, IdentityKey]:
        """Take over what the state says about known sessions. Return those that moved, with their last identity."""
        moved = {}
        for session, (key, moves) in stored.items():
            if (known := self._sessions.get(session)) is None or moves < known.moves:
                continue
            if known.key != key:
                moved[session] = known.key
                self.bind(session, key)
            known.moves = moves
        return moved

    # If a session's own identity cannot serve one endpoint or family of models, another one does, always the same;
    # the session itself does not move for that.

    def aside(self, session: str, what: str) -> IdentityKey | None:
        """Return the identity that serves an endpoint or family for a session in place of its own."""
        return self._asides.get((session, what))

    def set_aside(self, session: str, what: str, key: IdentityKey) -> None:
        self._asides[(session, what)] = key

    # What a client asks without naming a session goes to the identity that served its last turn.

    def last_of(self, client: str) -> IdentityKey | None:
        return self._clients.get(client)

    def note_served(self, client: str, key: IdentityKey) -> None:
        if client:
            self._clients[client] = key
