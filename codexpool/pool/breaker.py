"""Stop trying when several identities are refused for good within a minute: more tries would make it worse.

While the breaker is open, no session moves to another identity and no new session gets one. A session whose identity
serves goes on, and its first good answer closes the breaker. After a pause one request is let through as a probe; the
pause doubles each time that costs another identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MOST = 3  # Identities refused for good within a minute that open it; all of them if there are fewer.
WITHIN = 60.0  # Seconds.
FIRST_PAUSE = 5.0  # Seconds until one request is let through; doubles up to...
LONGEST_PAUSE = 300.0
LATE = 600.0
"""Seconds for which the answer to a request from before the breaker opened may be on its way. (What seems older was
sent since: the clock was set back.)"""

PROBE_LASTS = 10.0  # Seconds after which a probe without an answer no longer counts.


class Opening(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Times are unix seconds. A clock that is set back closes nothing early, and keeps nothing open for long."""

    most: int = MOST
    opened_at: float | None = None
    until: float = 0.0
    names: tuple[str, ...] = ()  # The identities whose refusals opened it.
    _pause: float = 0.0
    _probe_at: float | None = None
    _refused: dict[str, float] = field(default_factory=dict)

    def state(self, at: float) -> Opening:
        if self.opened_at is None:
            return Opening.CLOSED
        return Opening.HALF_OPEN if self._is_over(at) else Opening.OPEN

    def refused(self, name: str, at: float, left: int) -> bool:
        """Count an identity refused for good; ``left`` can still serve. Return whether that opens the breaker."""
        self._refused = {n: then for n, then in self._refused.items() if abs(at - then) < WITHIN}
        self._refused[name] = at
        if self.opened_at is None and len(self._refused) < min(self.most, len(self._refused) + left):
            return False
        if self.opened_at is not None and not self._is_over(at):
            self.names = (*self.names, name) if name not in self.names else self.names
            return False  # It was under way when the breaker opened.
        self._pause = FIRST_PAUSE if self.opened_at is None else min(2 * self._pause, LONGEST_PAUSE)
        self.names = tuple(dict.fromkeys((*self.names, *self._refused)))
        self.opened_at, self.until, self._probe_at = at, at + self._pause, None
        return True

    def lets_pass(self, at: float) -> bool:
        """Return whether a request may get another identity now. While half-open one does: the probe."""
        match self.state(at):
            case Opening.CLOSED:
                return True
            case Opening.OPEN:
                return False
            case Opening.HALF_OPEN:
                if self._probe_at is not None and self._probe_at <= at < self._probe_at + PROBE_LASTS:
                    return False
                self._probe_at = at
                return True

    def tried(self) -> None:
        """Forget the probe, whose answer says nothing: the next request may be one."""
        self._probe_at = None

    def succeeded(self, sent_at: float) -> bool:
        """Close it if a request that was served was sent since it opened. Return whether it was open."""
        if self.opened_at is None or self.opened_at - LATE < sent_at < self.opened_at:
            return False
        return self.close()

    def close(self) -> bool:
        """Close it. Return whether it was open."""
        was_open = self.opened_at is not None
        self.opened_at, self.until, self.names = None, 0.0, ()
        self._pause, self._probe_at = 0.0, None
        self._refused.clear()
        return was_open

    def document(self) -> dict[str, Any]:
        return {"opened_at": self.opened_at, "until": self.until, "names": list(self.names)}

    def take(self, document: Mapping[str, Any]) -> None:
        opened_at, until = document.get("opened_at"), document.get("until")
        if isinstance(opened_at, int | float) and isinstance(until, int | float):
            self._pause = min(max(FIRST_PAUSE, until - opened_at), LONGEST_PAUSE)
            self.opened_at, self.until = float(opened_at), min(float(until), opened_at + self._pause)
            self._probe_at = None
            names = document.get("names")
            self.names = tuple(map(str, names)) if isinstance(names, list) else ()

    def _is_over(self, at: float) -> bool:
        assert self.opened_at is not None
        return not self.opened_at <= at < self.until
