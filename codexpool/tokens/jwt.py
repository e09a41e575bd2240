"""What a JSON Web Token says of its bearer. Read, never verified: it is the backend's to believe it.

The claims are those that Codex itself reads (openai/codex, token_data.rs).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from codexpool.common.clock_skew import LATEST

AUTH = "https://api.openai.com/auth"  # The claim with the account, the user and the plan.


class Claims(NamedTuple):
    """Whose token it is; empty where it does not say. ``expires_at`` is in unix seconds, None if it has no end."""

    account_id: str
    user_id: str
    plan: str
    fedramp: bool
    expires_at: float | None


def claims_of(token: str) -> Claims:
    """The claims of a token. Raises ValueError for what is no JWT."""
    document = payload_of(token)
    auth = document.get(AUTH)
    auth = auth if isinstance(auth, dict) else {}
    return Claims(
        _text(auth.get("chatgpt_account_id")),
        _text(auth.get("chatgpt_user_id")) or _text(auth.get("user_id")),
        _text(auth.get("chatgpt_plan_type")),
        auth.get("chatgpt_account_is_fedramp") is True,
        _time(document.get("exp")),
    )


def is_jwt(token: str) -> bool:
    """Whether a token can be read at all; most others are opaque."""
    try:
        payload_of(token)
    except ValueError:
        return False
    return True


def payload_of(token: str) -> dict[str, Any]:
    """Everything that a token says. Raises ValueError for what is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts with dots between them")
    payload = parts[1].encode()
    try:
        document = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError):
        raise ValueError("its second part is no JSON in base64") from None
    if not isinstance(document, dict):
        raise ValueError("its second part is no JSON object")
    return document


def _text(value: object) -> str:
    """A text that can be sent in a header."""
    return value if isinstance(value, str) and value.isprintable() else ""


def _time(value: object) -> float | None:
    """A time that there is: JSON has numbers that no float holds, and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LATEST else None
