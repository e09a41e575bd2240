"""When to stop trying: several identities refused for good within a minute mean something that more tries make worse.

While it is open, nobody is moved to another identity and no new session gets one; whoever has an identity that
serves goes on under it, and its first good answer closes the breaker. After a pause one request is let through to
find out; the pause doubles each time that costs another identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MOST = 3
"""Identities that may be refused for good within a minute, all of them if there are fewer."""

WITHIN = 60.0
"""Seconds."""

FIRST_PAUSE = 5.0
"""Seconds until one request is let through; doubles up to..."""

LONGEST_PAUSE = 300.0

LATE = 600.0
"""Seconds for which an answer may be on its way that was asked for before the breaker opened. (What seems to be older
than that was asked for since: the clock was set back.)"""

PROBE_LASTS = 10.0
"""Seconds after which a probe of which nothing was heard counts for nothing."""


class Opening(StrEnum):
    """The states of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Times are unix seconds. A clock that is set back closes nothing early, and holds nothing up for long."""

    most: int = MOST
    opened_at: float | None = None
    until: float = 0.0
    names: tuple[str, ...] = ()
    """Whose refusals have opened it."""
    _pause: float = 0.0
    _probe_at: float | None = None
    _refused: dict[str, float] = field(default_factory=dict)

    def state(self, at: float) -> Opening:
        """What it is now."""
        if self.opened_at is None:
            return Opening.CLOSED
        return Opening.HALF_OPEN if self._is_over(at) else Opening.OPEN

    def refused(self, name: str, at: float, left: int) -> bool:
        """An identity was refused for good, and ``left`` are left. Whether that opens the breaker (once more)."""
        self._refused = {n: then for n, then in self._refused.items() if abs(at - then) < WITHIN}
        self._refused[name] = at
        if self.opened_at is None and len(self._refused) < min(self.most, len(self._refused) + left):
            return False
        if self.opened_at is not None and not self._is_over(at):
            self.names = (*self.names, name) if name not in self.names else self.names
            return False  # What was under way when it opened.
        self._pause = FIRST_PAUSE if self.opened_at is None else min(2 * self._pause, LONGEST_PAUSE)
        self.names = tuple(dict.fromkeys((*self.names, *self._refused)))
        self.opened_at, self.until, self._probe_at = at, at + self._pause, None
        return True

    def lets_pass(self, at: float) -> bool:
        """Whether a request may be given another identity now; while half-open one is, until that has come to
        something."""
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
        """The probe has come to nothing that says anything: the next request may be one."""
        self._probe_at = None

    def succeeded(self, sent_at: float) -> bool:
        """A request that was sent then was served. Whether that closes the breaker."""
        if self.opened_at is None or self.opened_at - LATE < sent_at < self.opened_at:
            return False
        return self.close()

    def close(self) -> bool:
        """Whatever it was, it is over. Whether the breaker was open."""
        was_open = self.opened_at is not None
        self.opened_at, self.until, self.names = None, 0.0, ()
        self._pause, self._probe_at = 0.0, None
        self._refused.clear()
        return was_open

    def document(self) -> dict[str, Any]:
        """What outlives the process, and what a person sees of it, as JSON can hold it."""
        return {"opened_at": self.opened_at, "until": self.until, "names": list(self.names)}

    def take(self, document: Mapping[str, Any]) -> None:
        """Be as a document says."""
        opened_at, until = document.get("opened_at"), document.get("until")
        if isinstance(opened_at, int | float) and isinstance(until, int | float):
            self.opened_at, self.until, self._probe_at = float(opened_at), float(until), None
            self._pause = max(FIRST_PAUSE, self.until - self.opened_at)
            names = document.get("names")
            self.names = tuple(map(str, names)) if isinstance(names, list) else ()

    def _is_over(self, at: float) -> bool:
        assert self.opened_at is not None
        return not self.opened_at <= at < self.until
