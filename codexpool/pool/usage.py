"""What an identity has left of its limits, as far as the backend has said so. Pure: times are unix seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from codexpool.common.recent import Recent
from codexpool.protocol.endpoints import MAIN_LIMIT
from codexpool.protocol.usage_report import FamilyReport, UsageReport

MAIN = MAIN_LIMIT
USED_UP = 100.0  # Percent.
LONGEST_LIMIT = 8 * 86_400.0  # Seconds that a limit is believed: the longest window is a week.
UNKNOWN_LIMIT = 900.0  # Seconds of a limit whose end is not known.
SHORTEST_LIMIT = 1.0
ENDED_LIMIT = 5.0  # Seconds of a limit that has ended by the answer's own word: it ended while the answer came.
JUST_ENDED = 60.0  # Seconds since such an end; what ended earlier is the mistake of a clock.
RELAPSE = 900.0  # Seconds after a lift within which the next limit says that lifting was a mistake.
DOUBTED = 60.0  # Seconds for which the next limit is believed after such a mistake; doubles with each one, up to...
DOUBTED_MOST = 1800.0
ASKED_EVERY = 60.0  # Seconds from one reading of an account to the next, at least.
SAME_END = 60.0  # Seconds by which two words about the end of one limit may differ.
SAME_WORD = 1.0  # Seconds by which the times of one word may differ, if it says the same...
SAME_TIME = 0.001  # ... and if it says something else.
SETTLES = 1200.0
"""Seconds after a reset credit was spent for which a reading that still calls the account limited may be older than
that: the backend was seen to serve the numbers of before for 18 minutes. A refused turn is believed at once."""
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


class Lift(NamedTuple):
    """When a limit was lifted before its time, and how often in a row the backend then refused all the same."""

    at: float
    mistakes: int = 0


class Usage:
    """The windows of one account and user, and until when it is limited, by the family of models they count for.

    Answers of the model and readings of wham/usage fill both, and the newest word counts. ``said_at`` has the time
    of the newest word on whether a family is limited, ``read_at`` that of the newest reading. ``asked_at`` is this
    proxy's last attempt to read that keeps clients from asking again, ``answered_at`` the end of its last one.
    ``credits`` are the account's reset credits, None as long as nothing is known of them; ``reset_at`` is when a
    person last spent one. ``plan`` is empty until a reading has it.
    """

    def __init__(self) -> None:
        self.windows: dict[tuple[str, int], Window] = {}
        self.limited: dict[str, float] = {}
        self.said_at: Recent[str, float] = Recent(WINDOWS_KEPT)
        self.read_at = self.asked_at = self.answered_at = 0.0
        self.credits: ResetCredits | None = None
        self.reset_at = 0.0
        self.plan = ""
        self._lifts: Recent[str, Lift] = Recent(WINDOWS_KEPT)

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
        self._say(limit.family, until, at)
        return until

    def read(self, report: UsageReport, sent_at: float, at: float) -> None:
        """Take over a reading that was asked for at ``sent_at``. What answers have said since then stays."""
        self.read_at, self.plan = sent_at, report.plan or self.plan
        if report.reset_credits is not None:
            self.count_credits(report.reset_credits, at)
        for told in report.families:
            if told.is_open is False and self.reset_at <= sent_at < self.reset_at + SETTLES:
                continue
            self._forget_windows(told.family, sent_at, at)
            for gauge in told.gauges:
                if (gauge.family, gauge.minutes) not in self.windows:
                    self.see(Window(*gauge, sent_at))
            if told.is_open is not None and not sent_at <= self.said_at.get(told.family, 0.0) <= at:
                self._follow(told, sent_at)

    def _follow(self, told: FamilyReport, at: float) -> None:
        """Follow a reading's word on whether a family is limited."""
        known = self.limited_until(told.family, at)
        if told.is_open:
            if known is None or self._may_lift(told.family, at):
                self._say(told.family, None, at)
            return
        reset_at = self.used_up_until(told.family)
        if known is None or reset_at is None or abs(known - reset_at) > SAME_END:
            self.limit(Limit(told.family, reset_at), at)
        else:
            self._say(told.family, known, at)

    def _may_lift(self, family: str, at: float) -> bool:
        """Return whether a limit can be lifted; remember it as lifted if so.

        A backend may lift a limit in its report and refuse requests all the same. So after each such mistake the next
        limit is believed for longer.
        """
        lift, limited_at = self._lifts.get(family), self.said_at.get(family, 0.0)
        mistakes = 0
        if lift is not None and lift.at <= limited_at < lift.at + RELAPSE:
            mistakes = lift.mistakes + 1
            if at < limited_at + min(DOUBTED * 2**mistakes, DOUBTED_MOST):
                return False
        self._lifts[family] = Lift(at, min(mistakes, 10))
        return True

    def _say(self, family: str, until: float | None, at: float) -> None:
        """Remember the newest word on a family: limited until then, or not limited."""
        self.said_at[family] = at
        if until is not None:
            self.limited[family] = until
        else:
            self.limited.pop(family, None)

    def resume(self, at: float) -> None:
        """Follow a person's word that nothing was limited then."""
        for family in {MAIN, *self.limited}:
            if self.said_at.get(family, 0.0) <= at:
                self._say(family, None, at)

    def is_lifted_since(self, since: float) -> bool:
        """Return whether a newer word says that the main limit of ``since`` is over."""
        return MAIN not in self.limited and since < self.said_at.get(MAIN, 0.0)

    def may_be_asked(self, at: float) -> bool:
        """Return whether this proxy's last attempt is long enough ago. (In the future: the clock was set back.)"""
        return not self.asked_at <= at < self.asked_at + ASKED_EVERY

    def is_fresh(self, at: float) -> bool:
        """Return whether a reading, perhaps another proxy's, is so new that another one would say the same."""
        return self.read_at <= at < self.read_at + ASKED_EVERY

    def is_being_asked(self, at: float) -> bool:
        return self.answered_at < self.asked_at <= at < self.asked_at + ASKED_EVERY

    def _forget_windows(self, family: str, before: float, at: float) -> None:
        """Forget the windows of a family that were seen before then, or in the future: the clock was set back."""
        for key, window in list(self.windows.items()):
            if window.family == family and not before <= window.seen_at <= at:
                del self.windows[key]

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
            self.resume(at)

    def document(self) -> dict[str, Any]:
        document = {
            "windows": [list(window) for window in self.windows.values()],
            "limited": dict(self.limited),
            "said_at": dict(self.said_at),
            "read_at": self.read_at,
            "reset_at": self.reset_at,
            "plan": self.plan,
        }
        return document if self.credits is None else {**document, "credits": list(self.credits)}

    def take(self, document: Mapping[str, Any], at: float) -> None:
        """Take over what an earlier run or another proxy has written, as far as it is newer.

        Raise TypeError or ValueError if it is not such a document.
        """
        windows = [_window_of(row) for row in document.get("windows", ())]
        if self.reset_at < document.get("reset_at", 0.0) <= at:
            self.was_reset(document["reset_at"])
        read_at = float(document.get("read_at", 0.0))
        if self.read_at < read_at <= at:
            self.read_at, self.plan = read_at, str(document.get("plan", ""))
            said = {family for family, said_at in document.get("said_at", {}).items() if said_at == read_at}
            for family in said | {window.family for window in windows if window.seen_at == read_at}:
                self._forget_windows(family, read_at, at)
        for window in windows:
            known = self.windows.get((window.family, window.minutes))
            if (
                window.seen_at > self.reset_at
                and not window.has_passed(at)
                and (known is None or known.seen_at < window.seen_at <= at)
            ):
                self.see(window)
        self._take_words(document.get("limited", {}), document.get("said_at", {}), at)
        if document.get("credits") is not None:
            credits = ResetCredits(*document["credits"])
            if (self.credits.seen_at if self.credits is not None else 0.0) < credits.seen_at <= at:
                self.credits = credits

    def is_ahead_of(self, document: Mapping[str, Any]) -> bool:
        """Return whether this has a newer word than a document, which then has to be written again.

        Of two proxies that write at the same time, the one with the older word may be the last. Times return from the
        state a little different, because the clocks of machines are compared: that alone must not have two proxies
        write the same word in turn.
        """
        said_at, limited = document.get("said_at", {}), document.get("limited", {})

        def is_ahead(family: str, at: float) -> bool:
            is_same = (family in self.limited) == (family in limited)
            return at > float(said_at.get(family, 0.0)) + (SAME_WORD if is_same else SAME_TIME)

        is_newer = any(is_ahead(family, at) for family, at in self.said_at.items())
        return is_newer or self.read_at > float(document.get("read_at", 0.0)) + SAME_WORD

    def _take_words(self, limited: Mapping[str, float], said_at: Mapping[str, float], at: float) -> None:
        for family in limited.keys() | said_at.keys():
            said, until = said_at.get(family), limited.get(family)
            known_at = self.said_at.get(family, 0.0)
            known_at = known_at if known_at <= at else 0.0
            # (An earlier version wrote limits without their time.)
            is_newer = known_at < said <= at if said is not None else not known_at
            if is_newer and (until is None or at < until <= at + LONGEST_LIMIT):
                self._say(family, until, said if said is not None else at)

    def used_up_until(self, family: str) -> float | None:
        """Return when the last of the used-up windows is reset, even if that has passed; None if none is used up."""
        windows = (w for w in self.windows.values() if w.family == family and w.resets_at is not None)
        return max((window.ends for window in windows if window.used_percent >= USED_UP), default=None)


def _window_of(row: Any) -> Window:
    """Return a window from a note: choosing an identity for a request calculates with its numbers."""
    family, minutes, used_percent, resets_at, seen_at = row
    end = None if resets_at is None else _finite(resets_at)
    return Window(str(family), int(_finite(minutes)), _finite(used_percent), end, _finite(seen_at))


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return value


NOTHING = Usage()  # Of an identity without a known account. Never written to.
