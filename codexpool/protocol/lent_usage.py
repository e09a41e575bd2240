"""An identity's answer to ``GET wham/usage``, as the client of another person may see it. Pure.

The limits, credits and plan stay: they are what the client's next turn is served with. What names the person behind
the identity does not (docs/protocol.md, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PERSONAL: Final = frozenset({"user_id", "email"})
ACCOUNT: Final = "account_id"
RESET_CREDITS: Final = "rate_limit_reset_credits"
"""How many resets the account may spend. The client would offer them, and then spend one of its own login."""

NOTHING_KNOWN: Final[Mapping[str, Any]] = {"plan_type": "unknown", "rate_limit": None}
"""An answer without any limits: the client shows none, and no error."""


def seen_by_client(document: Any, client_id: str) -> dict[str, Any]:
    """Return the answer for a client with this account id, empty if it sends none."""
    if not isinstance(document, dict):
        return dict(NOTHING_KNOWN)
    shown = {key: value for key, value in document.items() if key not in PERSONAL}
    if ACCOUNT in shown:
        shown[ACCOUNT] = client_id or None
    if RESET_CREDITS in shown:
        shown[RESET_CREDITS] = None
    return shown
