"""How long requests wait: for an identity that may become ready, and for a host that the content network guards."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 5.5
"""Seconds that a request waits in all for an identity to become ready. With what the client asks before and after it,
each `LEAST_PATIENCE`, its user is told within 8 s. (Codex gives its first requests 5 s each, and asks once more.)"""

LEAST_PATIENCE = 0.25  # Seconds that each request waits: whoami is asked because it does, and may answer at once.
FORGOTTEN_AFTER = 10.0  # Seconds after which a wait in vain is forgotten: a later request is another client or try.
FIRST_PAUSE = 1.0  # Seconds for which a host is left alone after a page of the content network; doubles up to...
LONGEST_PAUSE = 8.0  # ... this. A request waits for it as long as its `PATIENCE` lasts, and is sent then.
FORGIVEN_AFTER = 60.0  # Seconds after which such a page counts as the first one again.


@dataclass(slots=True)
class Waited:
    """How long requests have waited for one identity in vain. Times are of a clock that never jumps.

    A client asks several things in a row (discovery, a WebSocket, the same over HTTP). What one request has waited
    counts for the next; otherwise its user would see nothing for half a minute.
    """

    since: float | None = None
    until: float = 0.0  # When the last wait ended, or will end: a client may give up before.

    def left(self, now: float) -> float:
        """Return the seconds that a request may wait from now on."""
        if self.since is None or not self.since <= now <= self.until + FORGOTTEN_AFTER:
            return PATIENCE
        return max(PATIENCE - (now - self.since), LEAST_PATIENCE)

    def begins(self, now: float, seconds: float) -> None:
        if self.since is None or not self.since <= now <= self.until + FORGOTTEN_AFTER:
            self.since = now
            self.until = now + seconds
        self.until = max(self.until, now + seconds)

    def over(self) -> None:
        self.since = None


class Edges:
    """Hosts whose content network has turned a request away: all requests for them are slowed down."""

    def __init__(self) -> None:
        self._paused: dict[str, tuple[float, float, float]] = {}  # By origin: since, until, for how long.

    def turned_away(self, origin: str, at: float) -> float:
        """Pause an origin after a page of the content network. Return the seconds."""
        _, until, pause = self._paused.get(origin, (at, at, 0.0))
        if self.pause(origin, at) > 0:
            return until - at
        is_old = not until <= at < until + FORGIVEN_AFTER
        pause = FIRST_PAUSE if is_old or not pause else min(2 * pause, LONGEST_PAUSE)
        self._paused[origin] = (at, at + pause, pause)
        return pause

    def pause(self, origin: str, at: float) -> float:
        since, until, _ = self._paused.get(origin, (at, at, 0.0))
        return until - at if since <= at < until else 0.0

    def let_pass(self, origin: str) -> None:
        self._paused.pop(origin, None)
