"""What is left of an account's limits, as people and programs are shown it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from codexpool.pool.usage import LONGEST_LIMIT, MAIN, Usage, Window
from codexpool.redaction import redact_text

WINDOWS_SHOWN: Final = 20  # of one identity: the backend names the families of models, and could name many

safe = lru_cache(maxsize=8192)(redact_text)
"""Redact a text. Cached: the same names and reasons appear in each document, and redacting is slow."""


def windows(usage: Usage) -> list[Window]:
    """Return the windows of an identity: the main limit's first, short ones before long ones."""
    ordered = sorted(usage.windows.values(), key=lambda w: (w.family != MAIN, w.family, w.minutes))
    return ordered[:WINDOWS_SHOWN]


def limits(usage: Usage, now: float) -> list[dict[str, Any]]:
    """Return the windows of an identity as documents; times are unix seconds."""
    return [_limit(window, now) for window in windows(usage)]


def limited(usage: Usage, now: float) -> dict[str, float]:
    """Return the families of models that are limited, and until when each is."""
    ends = sorted(usage.limited.items())[:WINDOWS_SHOWN] if usage.limited else ()
    return {safe(family): until for family, until in ends if now < until <= now + LONGEST_LIMIT}


def share_left(usage: Usage, now: float) -> float | None:
    """Return what is left of the most used window of the main limit, from 0 to 1; None if no window is known.

    New sessions are assigned by another number, which includes the time to the reset: `Usage.headroom`.
    """
    if MAIN in limited(usage, now):
        return 0.0
    shares = [window.left(now) for window in usage.windows.values() if window.family == MAIN]
    return round(min(shares), 3) if shares else None


def reset_credits(usage: Usage) -> dict[str, Any] | None:
    """Return the number of reset credits, and when the first one expires; None if nothing is known of them."""
    if (credits := usage.credits) is None:
        return None
    return {"available": credits.available, "expires_at": credits.expires_at}


def _limit(window: Window, now: float) -> dict[str, Any]:
    has_passed = window.has_passed(now)
    return {
        "family": safe(window.family),
        "minutes": window.minutes,
        "used_percent": 0.0 if has_passed else window.used_percent,
        "resets_at": None if has_passed or window.resets_at is None else window.ends,
    }
