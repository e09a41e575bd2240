"""Email addresses that come from outside."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 254  # characters (RFC 5321)


def email_of(value: object) -> str:
    """Return an address that can be shown; empty if it is none."""
    if not isinstance(value, str) or not 3 <= len(value) <= LONGEST:
        return ""
    return value if "@" in value and value.isprintable() and " " not in value else ""
