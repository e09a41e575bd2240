"""The limits of accounts, and the answers once they are used up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.standin.exchange import Headers, Reply, Request, error_body
from tests.standin.tokens import Token

MAIN = ""
"""The limit that counts for every model request, as opposed to that of one model family."""

SHORT, WEEK = 300, 10080
"""The windows, in minutes; each account has one of both."""

USED_UP = 100.0
UNTOLD_RESET = 3600.0
"""Seconds to the next reset, unless a token sets it."""


def usage_limit_body(
    resets_at: float, plan: str = "business", *, code: str = "usage_limit_reached"
) -> dict[str, Any]:
    """Return a body for a 429: the quota is used up until ``resets_at`` (unix seconds)."""
    return error_body(
        code,
        "The usage limit has been reached",
        code,
        plan_type=plan,
        resets_at=int(resets_at),
        resets_in_seconds=max(0, int(resets_at - time.time())),
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """Return the headers for a window that is used up until ``resets_at`` (unix seconds)."""

    resets_at: int
    window: int
    code: str


class Window(NamedTuple):
    """A window: minutes, percent used, and reset time."""

    used_percent: float
    window_minutes: int
    reset_at: int


class Limits:
    """The reached limits, by account and user, so that a new login of the same account does not avoid them.

    Args:
        families: the limit id of each model that has one of its own.
    """

    def __init__(self, families: Mapping[str, str]) -> None:
        self.families = dict(families)
        self._reached: dict[tuple[str, str], dict[str, Limit]] = {}

    def reach(self, token: Token, resets_at: float, *, family: str, window: int, code: str) -> None:
        """Start a limit. As in the backend, times are whole seconds.

        Raises ValueError for a family that no model belongs to.
        """
        if family != MAIN and family not in self.families.values():
            raise ValueError(f"no model is of the family {family!r}")
        limit = Limit(math.ceil(resets_at), window, code)
        reached = self._reached.get(account_of(token), {})
        self._reached[account_of(token)] = {**reached, family: limit}

    def lift(self, token: Token) -> None:
        """Undo `reach`, for the main limit and all families."""
        self._reached.pop(account_of(token), None)

    def refusal(self, token: Token, model: str) -> Reply | None:
        """Return the 429 for this model, if its own limit or the main one is reached."""
        for family in (self._family(model), MAIN):
            if limit := self._limit(token, family):
                body = usage_limit_body(limit.resets_at, token.plan, code=limit.code)
                return Reply.of_json(body, 429, self._headers(token, family))
        return None

    def headers(self, token: Token, model: str) -> Headers:
        """Return the headers with the limits of a token's account for this model."""
        return self._headers(token, self._family(model))

    def frames(self, token: Token, model: str) -> list[dict[str, Any]]:
        """Return the same as WebSocket frames."""
        frames = [_frame(token, self._windows(token))]
        if family := self._family(model):
            frames.append({**_frame(token, self._family_windows(token, family)), "metered_limit_name": family})
        return frames

    def usage(self, token: Token, reset_credits: int) -> dict[str, Any]:
        """Return the same as ``wham/usage`` says it, with the number of reset credits."""
        main = self._status(token, MAIN, self._windows(token))
        families = [
            {
                "limit_name": model,
                "metered_feature": family,
                "rate_limit": self._status(token, family, self._family_windows(token, family)),
            }
            for model, family in self.families.items()
        ]
        return {
            "user_id": token.user_id,
            "account_id": token.account_id,
            "email": token.email,
            "plan_type": token.plan,
            "rate_limit": main,
            "code_review_rate_limit": None,
            "additional_rate_limits": families or None,
            "credits": {"has_credits": False, "unlimited": False, "overage_limit_reached": False, "balance": "0"},
            "spend_control": {"reached": False, "individual_limit": None},
            "rate_limit_reached_type": {"type": "rate_limit_reached"} if main["limit_reached"] else None,
            "rate_limit_reset_credits": {"available_count": reset_credits},
        }

    def spend(self, token: Token) -> None:
        """Count one turn: its part of the primary window, and the limit once that is used up."""
        if not token.turn_percent:
            return
        token.used_percent = min(USED_UP, token.used_percent + token.turn_percent)
        if token.used_percent == USED_UP:
            self.reach(token, _reset(token), family=MAIN, window=SHORT, code="usage_limit_reached")

    def used_windows(self, token: Token) -> int:
        """Return how many of the main windows are used."""
        return sum(window.used_percent > 0 for window in self._windows(token).values())

    def reset(self, token: Token) -> None:
        """Empty the windows of a token, and lift the limits of its account."""
        token.used_percent = token.weekly_percent = token.family_percent = 0.0
        self.lift(token)

    def _status(self, token: Token, family: str, windows: Mapping[str, Window]) -> dict[str, Any]:
        limited = self._limit(token, family) is not None
        return {
            "allowed": not limited,
            "limit_reached": limited,
            "primary_window": None,
            "secondary_window": None,
            **{f"{name}_window": _polled(window) for name, window in windows.items()},
        }

    def _family(self, model: str) -> str:
        return self.families.get(model, MAIN)

    def _limit(self, token: Token, family: str) -> Limit | None:
        if not self._reached:
            return None
        limit = self._reached.get(account_of(token), {}).get(family)
        return limit if limit is not None and limit.resets_at > time.time() else None

    def _headers(self, token: Token, family: str) -> Headers:
        # The live backend names a limit in every answer: "premium" is no family, its windows are the plain ones.
        if family == MAIN:
            return [("x-codex-active-limit", "premium"), *_headers("codex", self._windows(token))]
        # And with a family's it repeats that one's numbers as the plain ones.
        windows = self._family_windows(token, family)
        return [
            ("x-codex-active-limit", family),
            *_headers("codex", windows),
            *_headers(family.replace("_", "-"), windows),
        ]

    def _windows(self, token: Token) -> dict[str, Window]:
        reset = _reset(token)
        windows = {
            "primary": Window(token.used_percent, SHORT, reset),
            "secondary": Window(token.weekly_percent, WEEK, reset),
        }
        if limit := self._limit(token, MAIN):
            name = "secondary" if limit.window == WEEK else "primary"
            windows[name] = Window(USED_UP, limit.window, limit.resets_at)
        return windows

    def _family_windows(self, token: Token, family: str) -> dict[str, Window]:
        if limit := self._limit(token, family):
            return {"primary": Window(USED_UP, limit.window, limit.resets_at)}
        return {"primary": Window(token.family_percent, SHORT, _reset(token))}


def hinted_model(request: Request) -> str:
    """Return the model in a routing hint, ``model=<slug>[;…]``, or an empty string."""
    hints = (request.header("x-codex-routing-hint") or "").split(";")
    return next((hint.strip()[6:] for hint in hints if hint.strip().startswith("model=")), "")


def account_of(token: Token) -> tuple[str, str]:
    """Return what limits belong to: one user of one account."""
    return token.account_id, token.user_id


def _reset(token: Token) -> int:
    return int(time.time() + UNTOLD_RESET if token.resets_at is None else token.resets_at)


def _polled(window: Window) -> dict[str, int]:
    # The client takes whole numbers only (rate_limit_window_snapshot.rs).
    return {
        "used_percent": round(window.used_percent),
        "limit_window_seconds": window.window_minutes * 60,
        "reset_after_seconds": max(0, int(window.reset_at - time.time())),
        "reset_at": window.reset_at,
    }


def _headers(prefix: str, windows: Mapping[str, Window]) -> Headers:
    headers = []
    for name, (used, minutes, reset) in windows.items():
        start = f"x-{prefix}-{name}"
        headers += [
            (f"{start}-used-percent", str(used)),
            (f"{start}-window-minutes", str(minutes)),
            (f"{start}-reset-at", str(reset)),
        ]
    return headers


def _frame(token: Token, windows: Mapping[str, Window]) -> dict[str, Any]:
    limits = {name: window._asdict() for name, window in windows.items()}
    return {"type": "codex.rate_limits", "plan_type": token.plan, "rate_limits": limits}
