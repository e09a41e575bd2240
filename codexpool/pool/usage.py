"""What an identity has left of its limits, as far as the backend has said so. Pure: times are unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from codexpool.protocol.endpoints import MAIN_LIMIT

MAIN = MAIN_LIMIT

USED_UP = 100.0  # Percent.
LONGEST_LIMIT = 8 * 86_400.0  # Seconds that a limit is believed at most: the longest window is a week.
UNKNOWN_LIMIT = 900.0  # Seconds that a limit is taken to last where nobody says how long.

SHORTEST_LIMIT = 1.0

ENDED_LIMIT = 5.0
"""Seconds that a limit is taken to last which has ended by the answer's own word: it ended while the answer came."""

JUST_ENDED = 60.0
"""Seconds since the end of a limit within which that end is believed, and not taken for a clock that is wrong."""

WINDOWS_KEPT = 64
"""Windows of one account that are told apart, besides the main ones: the backend knows two for each family."""

URGENCY = 4.0  # How much a window that is about to be reset may count for: what it has left is lost by then.


class Window(NamedTuple):
    """How much of one window is used, and when it begins anew. ``minutes`` is its length, and what it goes by."""

    family: str
    minutes: int
    used_percent: float
    resets_at: float | None
    seen_at: float

    @property
    def ends(self) -> float:
        """When it begins anew. No window is longer than it is, whatever an answer says."""
        longest = self.seen_at + (self.minutes * 60 if self.minutes > 0 else LONGEST_LIMIT)
        return longest if self.resets_at is None or self.resets_at > longest else self.resets_at

    def has_passed(self, at: float) -> bool:
        """Whether it has begun anew since it was seen."""
        return self.ends <= at

    def left(self, at: float) -> float:
        """The share that is left, from 0 to 1. A window that has passed is free."""
        if self.used_percent <= 0 or self.ends <= at:
            return 1.0
        return 1.0 - self.used_percent / USED_UP if self.used_percent < USED_UP else 0.0

    def headroom(self, at: float) -> float:
        """What is left, weighted by the time to its reset: 1 is a window used as evenly as its time goes by.

        Half of it left with a tenth of its time to go is much; half of it left right at its beginning is little.
        """
        time_left = self.ends - at
        if time_left <= 0 or self.resets_at is None or self.minutes <= 0:
            return self.left(at)
        share = time_left / (self.minutes * 60)
        return self.left(at) * (URGENCY if share * URGENCY < 1 else 1 / share)


class Limit(NamedTuple):
    """That a limit is reached, as an answer says it; seconds, and unix seconds, where they are known."""

    family: str = MAIN
    resets_at: float | None = None
    resets_in: float | None = None

    def ends(self, at: float) -> float | None:
        """Return when the limit ends by the answer's word, in unix seconds; None if the answer does not say."""
        resets_at, resets_in = self.resets_at, self.resets_in
        if resets_at is not None and resets_at > at:
            until = resets_at
        elif resets_in is not None:
            until = at + (resets_in if resets_in > 0 else ENDED_LIMIT)
        elif resets_at is not None and resets_at > at - JUST_ENDED:
            until = at + ENDED_LIMIT
        else:
            return None
        return _bounded(until, at)


def _bounded(until: float, at: float) -> float:
    return min(max(until, at + SHORTEST_LIMIT), at + LONGEST_LIMIT)


class Usage:
    """The windows of one account and user, and until when it is limited, by the family of models they count for."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, int], Window] = {}
        self.limited: dict[str, float] = {}

    def see(self, window: Window) -> None:
        """Take over what an answer says of a window now."""
        at = (window.family, window.minutes)
        if at in self.windows or len(self.windows) < WINDOWS_KEPT or window.family == MAIN:
            self.windows[at] = window

    def limit(self, limit: Limit, at: float) -> float:
        """A limit was reached; until when. Said by the answer, else by the window that is used up, else a guess."""
        until = limit.ends(at)
        if until is None:  # A guess does not shorten what was said before.
            guess = self._used_up_until(limit.family, at) or at + UNKNOWN_LIMIT
            until = _bounded(max(guess, self.limited_until(limit.family, at) or at), at)
        self.limited[limit.family] = until
        return until

    def limited_until(self, family: str, at: float) -> float | None:
        """When a family can be used again; None where it can be."""
        until = self.limited.get(family)
        if until is None:
            return None
        if not at < until <= at + LONGEST_LIMIT:  # It has passed; or it is further off than any: the clock was set.
            del self.limited[family]
            return None
        return until

    def headroom(self, family: str, at: float) -> float:
        """The least of what the windows of a family have left: 1 where none has begun, 0 if used up."""
        if self.limited and self.limited_until(family, at) is not None:
            return 0.0
        left = [w.headroom(at) for w in self.windows.values() if w.family == family and not w.has_passed(at)]
        return min(left, default=1.0)

    def document(self) -> dict[str, Any]:
        """What outlives the process, as JSON can hold it."""
        return {"windows": [list(window) for window in self.windows.values()], "limited": dict(self.limited)}

    def take(self, document: Mapping[str, Any], at: float) -> None:
        """Take over what an earlier run or another proxy has written, as far as it is newer than what is known."""
        for row in document.get("windows", ()):
            window = Window(*row)
            known = self.windows.get((window.family, window.minutes))
            if not window.has_passed(at) and (known is None or known.seen_at < window.seen_at <= at):
                self.see(window)
        for family, until in document.get("limited", {}).items():
            if at < until <= at + LONGEST_LIMIT and family not in self.limited:
                self.limited[family] = until

    def _used_up_until(self, family: str, at: float) -> float | None:
        """When the last of the windows that are used up begins anew; the others do not count."""
        ends = [
            window.ends
            for window in self.windows.values()
            if window.family == family and window.resets_at is not None and window.left(at) <= 0
        ]
        return max(ends, default=None)


NOTHING = Usage()  # What is known of whom nothing is known. Never written to.
