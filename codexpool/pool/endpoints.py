"""What is remembered of endpoints and hosts, and says nothing about an identity."""

from __future__ import annotations

from collections import OrderedDict

from codexpool.pool.identity import Kind

PATHS_KEPT = 1_000
"""Refused (kind, path) pairs that are remembered at most."""

REFUSAL_HOLDS = 900.0
"""Seconds for which an endpoint that refused a kind of credential is not tried with it: a rule may change."""

FIRST_PAUSE = 1.0
"""Seconds for which a host is left alone after a page of the content network; doubles up to..."""

LONGEST_PAUSE = 8.0
"""... less than what a request waits in all: it comes late, and is never given up for that."""

FORGIVEN_AFTER = 60.0
"""Seconds after which such a page counts as the first one again."""


class NotFor:
    """Which kinds of credential which endpoint does not take."""

    def __init__(self) -> None:
        self._refused: OrderedDict[tuple[Kind, str], float] = OrderedDict()

    def concerns(self, path: str, at: float) -> bool:
        """Whether there is any kind that an endpoint does not take."""
        return bool(self._refused) and not all(self.allows(kind, path, at) for kind in Kind)

    def allows(self, kind: Kind, path: str, at: float) -> bool:
        """Whether credentials of a kind may be tried on an endpoint: no answer has lately said the contrary."""
        if not self._refused:
            return True
        refused_at = self._refused.get((kind, path))
        return refused_at is None or not refused_at <= at < refused_at + REFUSAL_HOLDS

    def learn(self, kind: Kind, path: str, at: float) -> bool:
        """A refusal that spoke of the endpoint. True where this is news."""
        if not self.allows(kind, path, at):
            return False
        self._refused[(kind, path)] = at
        if len(self._refused) > PATHS_KEPT:
            self._refused.popitem(last=False)
        return True


class Edges:
    """Hosts in front of which the content network turns requests away: they are asked more slowly, by whomever."""

    def __init__(self) -> None:
        self._paused: dict[str, tuple[float, float, float]] = {}
        """By origin: since, until, and how long the pause was."""

    def turned_away(self, origin: str, at: float) -> float:
        """A page of the content network has come; the seconds for which the origin is left alone."""
        _, until, pause = self._paused.get(origin, (at, at, 0.0))
        if self.pause(origin, at) > 0:
            return until - at
        is_old = not until <= at < until + FORGIVEN_AFTER
        pause = FIRST_PAUSE if is_old or not pause else min(2 * pause, LONGEST_PAUSE)
        self._paused[origin] = (at, at + pause, pause)
        return pause

    def pause(self, origin: str, at: float) -> float:
        """Seconds for which an origin is still left alone."""
        if not self._paused:
            return 0.0
        since, until, _ = self._paused.get(origin, (at, at, 0.0))
        return until - at if since <= at < until else 0.0

    def let_pass(self, origin: str) -> None:
        """An answer of the backend has come from an origin."""
        if self._paused:
            self._paused.pop(origin, None)
