"""Reads the claims of a JWT that Codex reads too (openai/codex, token_data.rs). The backend verifies it, not we."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from codexpool.common.clock_skew import LATEST
from codexpool.common.emails import email_of

AUTH = "https://api.openai.com/auth"  # The claim with the account, the user and the plan.

PROFILE = "https://api.openai.com/profile"  # The claim with the email address, if that is not at the top.


class Claims(NamedTuple):
    """Whose token it is; empty if it does not say. ``expires_at`` is in unix seconds, None if it has no end."""

    account_id: str
    user_id: str
    plan: str
    fedramp: bool
    expires_at: float | None
    email: str = ""


def claims_of(token: str) -> Claims:
    """Return the claims of a token. Raise ValueError if it is no JWT."""
    document = payload_of(token)
    auth = document.get(AUTH)
    auth = auth if isinstance(auth, dict) else {}
    profile = document.get(PROFILE)
    profile = profile if isinstance(profile, dict) else {}
    return Claims(
        _text(auth.get("chatgpt_account_id")),
        _text(auth.get("chatgpt_user_id")) or _text(auth.get("user_id")),
        _text(auth.get("chatgpt_plan_type")),
        auth.get("chatgpt_account_is_fedramp") is True,
        _time(document.get("exp")),
        email_of(document.get("email")) or email_of(profile.get("email")),
    )


def is_jwt(token: str) -> bool:
    try:
        payload_of(token)
    except ValueError:
        return False
    return True


def payload_of(token: str) -> dict[str, Any]:
    """Return the whole payload of a token. Raise ValueError if it is no JWT."""
    return _part(token, 1, "second")


def header_of(token: str) -> dict[str, Any]:
    """Return the header of a token. Raise ValueError if it is no JWT."""
    return _part(token, 0, "first")


def _part(token: str, index: int, which: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts with dots between them")
    part = parts[index].encode()
    try:
        document = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError):
        raise ValueError(f"its {which} part is no JSON in base64") from None
    if not isinstance(document, dict):
        raise ValueError(f"its {which} part is no JSON object")
    return document


def _text(value: object) -> str:
    """Return a string that can be sent in a header."""
    return value if isinstance(value, str) and value.isprintable() else ""


def _time(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LATEST else None
