"""Reset credits: those an account has, and what became of one that was to be spent (docs/protocol.md, 7a). Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

MOST: Final = 1_000  # Credits of one account; more is a mistake.
LONGEST_ID: Final = 200  # Characters of a credit's id, which is sent back.
LONGEST_TITLE: Final = 80
CODEX: Final = "codex_rate_limits"
"""The only type of credit whose effect is known."""


class Credit(NamedTuple):
    """A credit that can be spent now. ``expires_at`` is a unix second; None if it does not expire."""

    id: str
    expires_at: float | None
    title: str


class Credits(NamedTuple):
    """How many credits an account has, and those of them that can be spent: the first to expire comes first."""

    available: int
    spendable: tuple[Credit, ...]

    @property
    def expires_at(self) -> float | None:
        """When the first of them expires; None if none does."""
        return self.spendable[0].expires_at if self.spendable else None


class Outcome(StrEnum):
    """What became of a request to spend a credit. The first four are the backend's words."""

    RESET = "reset"
    ALREADY_REDEEMED = "already_redeemed"
    NOTHING_TO_RESET = "nothing_to_reset"
    NO_CREDIT = "no_credit"
    REFUSED = "refused"
    UNCLEAR = "unclear"

    @property
    def is_reset(self) -> bool:
        """Whether the limits were reset: now, or by an earlier sending of the same request."""
        return self in (Outcome.RESET, Outcome.ALREADY_REDEEMED)


SAID: Final = {
    o.value: o for o in (Outcome.RESET, Outcome.ALREADY_REDEEMED, Outcome.NOTHING_TO_RESET, Outcome.NO_CREDIT)
}
MAY_HAVE_ACTED: Final = frozenset({408, 409, 425, 429})
"""Refusals that do not say whether the request had an effect."""


def listed(document: Any, at: float) -> Credits:
    """Return the credits of an account from the document that lists them. Raise ValueError if it does not."""
    rows = document.get("credits") if isinstance(document, dict) else None
    if not isinstance(rows, list) or len(rows) > MOST:
        raise ValueError("the answer does not list reset credits")
    found = [credit for row in rows if (credit := _credit(row, at)) is not None]
    found.sort(key=lambda credit: math.inf if credit.expires_at is None else credit.expires_at)
    available = _count(document.get("available_count"))
    return Credits(len(found) if available is None else available, tuple(found))


def outcome(status: int, document: Any, is_from_edge: bool) -> tuple[Outcome, int]:
    """Return what an answer says of a request to spend a credit, and how many windows it has reset.

    What is not known to be a refusal is unclear: the credit may have been spent.
    """
    is_json = isinstance(document, dict) and not is_from_edge
    if is_json and 200 <= status < 300 and isinstance(code := document.get("code"), str) and code in SAID:
        return SAID[code], _count(document.get("windows_reset")) or 0
    if is_json and 400 <= status < 500 and status not in MAY_HAVE_ACTED:
        return Outcome.REFUSED, 0
    return Outcome.UNCLEAR, 0


def _credit(row: Any, at: float) -> Credit | None:
    if not isinstance(row, dict) or row.get("status") != "available" or row.get("reset_type") != CODEX:
        return None
    id_, title, expires = row.get("id"), row.get("title"), row.get("expires_at")
    if not isinstance(id_, str) or not 0 < len(id_) <= LONGEST_ID or not id_.isprintable():
        return None
    expires_at = None if expires is None else _unix(expires)
    if expires is not None and (expires_at is None or expires_at <= at):
        return None
    shown = "".join(c for c in title[:LONGEST_TITLE] if c.isprintable()) if isinstance(title, str) else ""
    return Credit(id_, expires_at, shown)


def _unix(text: object) -> float | None:
    """Return the unix second of an RFC 3339 time; None if it is none."""
    try:
        parsed = datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if parsed is None else (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None
