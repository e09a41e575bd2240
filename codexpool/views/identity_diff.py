"""Compares two identities, as the status document or `codexpool list --json` has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from codexpool.common.clock_skew import LATEST
from codexpool.redaction import redact_text, relative_time
from codexpool.views.request_diff import Comparison, Part, plain_difference

NOTHING: Final = "-"

TIMES: Final = frozenset({"since", "until"})
"""Members with a time, besides those that end in ``_at``."""


def compare_identities(a: Mapping[str, Any], b: Mapping[str, Any], at: float) -> Comparison:
    """Return the differences; times are shown relative to ``at`` (unix seconds)."""
    one, other = _identity(a, at), _identity(b, at)
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    return Comparison([plain_difference(Part.IDENTITY, name, one.get(name), other.get(name)) for name in names], [])


def _identity(identity: Mapping[str, Any], at: float) -> dict[str, str]:
    told: dict[str, str] = {}
    for key, value in identity.items():
        if key == "limits":
            for limit in value or ():
                told[f"limit {limit.get('family')}, {limit.get('minutes')} min"] = _limit(limit, at)
        elif key == "limited":
            told.update({f"limited, {family}": _said("until", until, at) for family, until in (value or {}).items()})
        elif key != "name":
            told[key.replace("_", " ")] = _said(key, value, at)
    return {redact_text(name): value for name, value in told.items()}


def _limit(limit: Mapping[str, Any], at: float) -> str:
    resets = limit.get("resets_at")
    used = f"{limit.get('used_percent')} % used"
    return used if resets is None else f"{used}, resets {_said('resets_at', resets, at)}"


def _said(key: str, value: Any, at: float) -> str:
    match value:
        case None | "":
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int() | float() if key in TIMES or key.endswith("_at"):
            return relative_time(value, at) if 0 <= value <= LATEST else NOTHING
        case float() if key == "headroom":
            return f"{value:.0%} left"
        case str():
            return redact_text(value)
        case _:
            return redact_text(json.dumps(value, ensure_ascii=False))
