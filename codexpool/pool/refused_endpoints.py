"""Hosts that the content network guards, and how slowly they are asked."""

from __future__ import annotations

FIRST_PAUSE = 1.0
"""Seconds for which a host is left alone after a page of the content network; doubles up to..."""

LONGEST_PAUSE = 8.0
"""... less than what a request waits in all: it comes late, and is never given up for that."""

FORGIVEN_AFTER = 60.0
"""Seconds after which such a page counts as the first one again."""


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
