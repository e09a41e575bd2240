"""How long requests wait for an identity that may become ready, and that waiting in vain is not done over and over.

A client asks one thing after the other: routing discovery, then a WebSocket, then the same over HTTP. Each would wait
its full time for an identity that nobody can vouch for, and the person would see nothing for half a minute. So what
one request has waited for an identity counts for the next one, until the identity is ready or nobody has waited for a
while.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 5.5
"""Seconds that a request waits in all for an identity to become ready, or to have another token, while one may. With
what the client asks before and after it, each `LEAST_PATIENCE`, its person is told within 8 s. (Codex gives its first
requests 5 s each, and asks once more.)"""

LEAST_PATIENCE = 0.25
"""Seconds that a request waits at least: whoami is asked because somebody waits, and may answer at once."""

FORGOTTEN_AFTER = 10.0
"""Seconds after which waiting in vain is forgotten: whoever comes then is another client, or another try."""


@dataclass(slots=True)
class Waited:
    """Since when requests have waited for one identity in vain. Times are of a clock that never jumps."""

    since: float | None = None
    until: float = 0.0
    """The end of the last wait, or when it is to end: a client may give up before."""

    def left(self, now: float) -> float:
        """The seconds that a request has which begins to wait now."""
        if self.since is None or not self.since <= now <= self.until + FORGOTTEN_AFTER:
            return PATIENCE
        return max(PATIENCE - (now - self.since), LEAST_PATIENCE)

    def begins(self, now: float, seconds: float) -> None:
        """A request waits from now on, for so many seconds at most."""
        if self.since is None or not self.since <= now <= self.until + FORGOTTEN_AFTER:
            self.since = now
            self.until = now + seconds
        self.until = max(self.until, now + seconds)

    def over(self) -> None:
        """The identity is ready."""
        self.since = None
