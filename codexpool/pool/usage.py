"""What an identity has left of its limits, as far as the backend has said so. Pure: times are unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from codexpool.protocol.endpoints import MAIN_LIMIT

MAIN = MAIN_LIMIT
USED_UP = 100.0  # Percent.
LONGEST_LIMIT = 8 * 86_400.0  # Seconds that a limit is believed: the longest window is a week.
UNKNOWN_LIMIT = 900.0  # Seconds of a limit whose end is not known.
SHORTEST_LIMIT = 1.0
ENDED_LIMIT = 5.0  # Seconds of a limit that has ended by the answer's own word: it ended while the answer came.
JUST_ENDED = 60.0  # Seconds since such an end; what ended earlier is the mistake of a clock.
WINDOWS_KEPT = 64  # Windows of one account besides the main ones: the backend has two for each family.
URGENCY = 4.0  # Highest weight of a window that is about to reset: what is left then is lost.


class Window(NamedTuple):
    """How much of a window is used, and when it is reset. ``minutes`` is its length, and what it goes by."""

    family: str
    minutes: int
    used_percent: float
    resets_at: float | None
    seen_at: float

    @property
    def ends(self) -> float:
        """When it is reset; no later than its length allows, whatever an answer says."""
        longest = self.seen_at + (self.minutes * 60 if self.minutes > 0 else LONGEST_LIMIT)
        return longest if self.resets_at is None or self.resets_at > longest else self.resets_at

    def has_passed(self, at: float) -> bool:
        return self.ends <= at

    def left(self, at: float) -> float:
        """Return the share that is left, from 0 to 1. A window that was reset is free."""
        if self.used_percent <= 0 or self.ends <= at:
            return 1.0
        return 1.0 - self.used_percent / USED_UP if self.used_percent < USED_UP else 0.0

    def headroom(self, at: float) -> float:
        """Return what is left, weighted by the time to its reset: 1 means that usage keeps pace with time.

        Half of it left with a tenth of its time to go is much; half of it left right at its beginning is little.
        """
        time_left = self.ends - at
        if time_left <= 0 or self.resets_at is None or self.minutes <= 0:
            return self.left(at)
        share = time_left / (self.minutes * 60)
        return self.left(at) * (URGENCY if share * URGENCY < 1 else 1 / share)


class Limit(NamedTuple):
    """A limit that is reached, as an answer says; unix seconds, and seconds from now, if they are known."""

    family: str = MAIN
    resets_at: float | None = None
    resets_in: float | None = None

    def ends(self, at: float) -> float | None:
        """Return when the limit ends by the answer's word; None if the answer does not say."""
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


class ResetCredits(NamedTuple):
    """How many reset credits there are, and when the first expires. ``is_listed``: the expiry has been read."""

    available: int
    expires_at: float | None
    seen_at: float
    is_listed: bool = False


class Usage:
    """The windows of one account and user, and until when it is limited, by the family of models they count for.

    ``credits`` are the account's reset credits, None as long as nothing is known of them; ``reset_at`` is when a
    person last spent one.
    """

    def __init__(self) -> None:
        self.windows: dict[tuple[str, int], Window] = {}
        self.limited: dict[str, float] = {}
        self.credits: ResetCredits | None = None
        self.reset_at = 0.0

    def see(self, window: Window) -> None:
        key = (window.family, window.minutes)
        if key in self.windows or len(self.windows) < WINDOWS_KEPT or window.family == MAIN:
            self.windows[key] = window

    def limit(self, limit: Limit, at: float) -> float:
        """Remember a limit. Return its end: the answer's word, else the end of a used-up window, else a guess."""
        until = limit.ends(at)
        if until is None:  # A guess does not shorten what was said before.
            reset_at = self.used_up_until(limit.family)
            guess = reset_at if reset_at is not None and reset_at > at else at + UNKNOWN_LIMIT
            until = _bounded(max(guess, self.limited_until(limit.family, at) or at), at)
        self.limited[limit.family] = until
        return until

    def limited_until(self, family: str, at: float) -> float | None:
        """When a family can be used again; None if it can be."""
        until = self.limited.get(family)
        if until is None:
            return None
        if not at < until <= at + LONGEST_LIMIT:  # It has passed; or the clock was set back.
            del self.limited[family]
            return None
        return until

    def headroom(self, family: str, at: float) -> float:
        """Return the least that any window of a family has left: 1 if none has begun, 0 if one is used up."""
        if self.limited and self.limited_until(family, at) is not None:
            return 0.0
        left = [w.headroom(at) for w in self.windows.values() if w.family == family and not w.has_passed(at)]
        return min(left, default=1.0)

    def count_credits(self, available: int, at: float) -> bool:
        """Remember the number of reset credits. Return whether they have to be listed to know when they expire."""
        known = self.credits
        if known is None or known.available != available or (known.expires_at is not None and known.expires_at <= at):
            self.credits = ResetCredits(available, None, at, is_listed=available == 0)
        else:
            self.credits = known._replace(seen_at=at)
        return not self.credits.is_listed

    def was_reset(self, at: float) -> None:
        """Forget what was used before a person spent a reset credit."""
        if at > self.reset_at:
            self.reset_at = at
            self.windows = {key: window for key, window in self.windows.items() if window.seen_at > at}
            self.limited.clear()

    def document(self) -> dict[str, Any]:
        windows = [list(window) for window in self.windows.values()]
        document = {"windows": windows, "limited": dict(self.limited), "reset_at": self.reset_at}
        return document if self.credits is None else {**document, "credits": list(self.credits)}

    def take(self, document: Mapping[str, Any], at: float) -> None:
        """Take over what an earlier run or another proxy has written, as far as it is newer."""
        if self.reset_at < document.get("reset_at", 0.0) <= at:
            self.was_reset(document["reset_at"])
        for row in document.get("windows", ()):
            window = Window(*row)
            known = self.windows.get((window.family, window.minutes))
            if not window.has_passed(at) and (known is None or known.seen_at < window.seen_at <= at):
                self.see(window)
        for family, until in document.get("limited", {}).items():
            if at < until <= at + LONGEST_LIMIT and family not in self.limited:
                self.limited[family] = until
        if document.get("credits") is not None:
            credits = ResetCredits(*document["credits"])
            if (self.credits.seen_at if self.credits is not None else 0.0) < credits.seen_at <= at:
                self.credits = credits

    def used_up_until(self, family: str) -> float | None:
        """Return when the last of the used-up windows is reset, even if that has passed; None if none is used up."""
        windows = (w for w in self.windows.values() if w.family == family and w.resets_at is not None)
        return max((window.ends for window in windows if window.used_percent >= USED_UP), default=None)


NOTHING = Usage()  # Of an identity without a known account. Never written to.
