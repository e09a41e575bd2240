"""What answers say about limits: in headers, in frames, in the bodies of refusals. Pure.

The names are those of rate_limits.rs of openai/codex (docs/protocol.md, section 7). Windows are told apart by their
length in minutes: which of them is called "primary" is up to the backend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple

from codexpool.common.clock_skew import LATEST
from codexpool.protocol.endpoints import MAIN_LIMIT

USED: bytes = b"-used-percent"
ACTIVE: bytes = b"x-codex-active-limit"
ALSO_MAIN = frozenset({MAIN_LIMIT, "premium"})  # The limits whose windows are the plain ``x-codex-…``.

_NUMERIC = (int, float, bytes, str)
_TRY_AGAIN = re.compile(r"try again in\s*(\d+(?:\.\d+)?)\s*(ms|s|seconds?|m|minutes?)\b", re.IGNORECASE)


class Gauge(NamedTuple):
    """One window of one limit: ``family`` is the limit's id, ``minutes`` the length of the window."""

    family: str
    minutes: int
    used_percent: float
    resets_at: float | None


def of_headers(values: Mapping[bytes, bytes], at: float) -> list[Gauge]:
    """Return the windows in an answer's headers; ``values`` by lower-case name, ``at`` unix seconds.

    Beside a family's windows the plain ones repeat its numbers, and say nothing about the main limit.
    """
    if not (names := [name for name in values if name.endswith(USED) and name.startswith(b"x-")]):
        return []
    family_only = active(values)
    gauges = []
    for name in names:
        window, value = name[: -len(USED)], values[name]
        minutes, used = number(values.get(window + b"-window-minutes")), number(value)
        resets_at = number(values.get(window + b"-reset-at"))
        if resets_at is None and (after := number(values.get(window + b"-reset-after-seconds"))) is not None:
            resets_at = at + after
        family = _family(window)
        if used is not None and family_only in (None, family):
            gauges.append(Gauge(family, int(minutes or 0), used, resets_at))
    return gauges


def of_frame(frame: Mapping[str, Any]) -> list[Gauge]:
    named = frame.get("metered_limit_name") or frame.get("limit_name")
    family = limit_id(named) if isinstance(named, str) else MAIN_LIMIT
    limits = frame.get("rate_limits")
    gauges = []
    for window in limits.values() if isinstance(limits, dict) else ():
        if not isinstance(window, dict) or (used := number(window.get("used_percent"))) is None:
            continue
        minutes, resets_at = number(window.get("window_minutes")), number(window.get("reset_at"))
        gauges.append(Gauge(family, int(minutes or 0), used, resets_at))
    return gauges


def active(values: Mapping[bytes, bytes]) -> str | None:
    """Return the family whose limit counted for the request; None for the main one.

    Every answer names a limit in this header. It counts only if the answer has that family's windows as well.
    """
    if ACTIVE not in values or (named := limit_id(values[ACTIVE].decode("latin-1"))) == MAIN_LIMIT:
        return None
    prefix = b"x-" + named.replace("_", "-").encode("latin-1", "replace")
    return named if any(name.startswith(prefix) for name in values) else None


@lru_cache(maxsize=256)
def _family(window: bytes) -> str:
    """Return the limit that a window is of, from the beginning of its headers' names."""
    return limit_id(window[2:].removesuffix(b"-primary").removesuffix(b"-secondary").decode("latin-1"))


@lru_cache(maxsize=256)
def limit_id(name: str) -> str:
    """Normalise the id of a limit (``codex-spark``, ``codex_spark``)."""
    made = name.strip().lower().replace("-", "_")[:100]
    return MAIN_LIMIT if made in ALSO_MAIN or not made else made


def reset_of(error: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return what a refusal says about the end of a limit: the unix second, and the seconds until then."""
    return number(error.get("resets_at")), number(error.get("resets_in_seconds"))


def retry_after(values: Mapping[bytes, bytes], message: str, at: float) -> float | None:
    """Return the seconds after which to try again.

    From ``retry-after-ms``, ``Retry-After`` (RFC 9110, 10.2.3), or the message ("try again in 1.2s"), which is all
    that an event of a stream has.
    """
    if (milliseconds := number(values.get(b"retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (text := values.get(b"retry-after")) is not None:
        seconds = number(text)
        return seconds if seconds is not None else _until(text.decode("latin-1"), at)
    if (match := _TRY_AGAIN.search(message)) is not None:
        unit = match[2].lower()
        return float(match[1]) * (0.001 if unit == "ms" else 60 if unit.startswith("m") else 1)
    return None


def _until(date: str, at: float) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - at)
    except (ValueError, TypeError, OverflowError):
        return None


def number(value: Any) -> float | None:
    """Return a number that makes sense here, not negative; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, _NUMERIC):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and 0 <= found <= LATEST else None
