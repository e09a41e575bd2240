"""What ``GET wham/usage`` says of an account. Pure.

The fields are those of rate_limit_status_payload.rs of openai/codex (docs/protocol.md, section 7). A field that is
missing or odd says nothing; only a document without any limits is refused.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from codexpool.protocol.endpoints import MAIN_LIMIT
from codexpool.protocol.rate_limits import Gauge, limit_id, number

MOST_CREDITS: Final = 1_000  # Reset credits; more is a mistake.
MOST_FAMILIES: Final = 30  # Families beside the main one that are read.
LONGEST_PLAN: Final = 100  # Characters.
WINDOWS: Final = ("primary_window", "secondary_window")


class FamilyReport(NamedTuple):
    """One limit: its windows, and whether the backend lets it be used now; None if it does not say."""

    family: str
    gauges: tuple[Gauge, ...]
    is_open: bool | None


class UsageReport(NamedTuple):
    """``plan`` is empty and ``reset_credits`` None if the backend does not say."""

    families: tuple[FamilyReport, ...]
    plan: str = ""
    reset_credits: int | None = None


def usage_report(document: Any, at: float) -> UsageReport:
    """Read a parsed answer, which was asked for at the unix second ``at``. Raise ValueError if it is none."""
    if not isinstance(document, dict) or not {"rate_limit", "additional_rate_limits"} & document.keys():
        raise ValueError("wham/usage answers without any limits")
    main = _family(MAIN_LIMIT, document.get("rate_limit"), at)
    if main is not None and main.is_open is False and _has_credits(document.get("credits")):
        main = main._replace(is_open=None)  # What the credits are worth, only a turn can tell.
    families = {} if main is None else {MAIN_LIMIT: main}
    more = document.get("additional_rate_limits")
    for entry in more[:MOST_FAMILIES] if isinstance(more, list) else ():
        if not isinstance(entry, dict):
            continue
        named = entry.get("metered_feature") or entry.get("limit_name")
        if not isinstance(named, str) or (name := limit_id(named)) == MAIN_LIMIT:
            continue
        if (family := _family(name, entry.get("rate_limit"), at)) is not None:
            families.setdefault(name, family)
    return UsageReport(tuple(families.values()), _plan(document.get("plan_type")), _reset_credits(document))


def _family(name: str, limit: Any, at: float) -> FamilyReport | None:
    if not isinstance(limit, dict):
        return None
    gauges = [gauge for key in WINDOWS if (gauge := _gauge(name, limit.get(key), at)) is not None]
    allowed, reached = limit.get("allowed"), limit.get("limit_reached")
    is_open = allowed if isinstance(allowed, bool) else not reached if isinstance(reached, bool) else None
    return FamilyReport(name, tuple(gauges), is_open)


def _gauge(family: str, window: Any, at: float) -> Gauge | None:
    if not isinstance(window, dict) or (used := number(window.get("used_percent"))) is None:
        return None
    seconds, resets_at = number(window.get("limit_window_seconds")), number(window.get("reset_at"))
    if not resets_at:
        after = number(window.get("reset_after_seconds"))
        resets_at = at + after if after is not None else None
    return Gauge(family, math.ceil((seconds or 0) / 60), used, resets_at)


def _has_credits(credits: Any) -> bool:
    return isinstance(credits, dict) and (credits.get("unlimited") is True or credits.get("has_credits") is True)


def _plan(plan: Any) -> str:
    return plan if isinstance(plan, str) and len(plan) <= LONGEST_PLAN and plan.isprintable() else ""


def _reset_credits(document: dict[str, Any]) -> int | None:
    credits = document.get("rate_limit_reset_credits")
    count = credits.get("available_count") if isinstance(credits, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_CREDITS else None
