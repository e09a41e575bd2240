"""Logins for a real client, as its auth.json."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def jwt(claims: dict[str, Any]) -> str:
    """Return a JWT with these claims. Its signature is made up; these tests do not check it."""

    def part(document: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.{part('test-signature')}"


def oauth_login(home: Path, account_id: str, expires_in: float, refreshed_days_ago: float = 0.0) -> str:
    """Write an OAuth login as ``codex login`` does, and return its access token. ``expires_in`` is in seconds."""
    now = time.time()
    auth = {
        "chatgpt_plan_type": "plus",
        "chatgpt_user_id": "user-made-up",
        "chatgpt_account_id": account_id,
        "chatgpt_account_is_fedramp": False,
    }
    claims = {"exp": int(now + expires_in), "email": "nobody@example.invalid", "https://api.openai.com/auth": auth}
    access_token = jwt({**claims, "aud": "api"})
    document = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": jwt(claims),
            "access_token": access_token,
            "refresh_token": "rt_test-client-refresh-0123456789",
            "account_id": account_id,
        },
        "last_refresh": datetime.fromtimestamp(now - refreshed_days_ago * 86400, UTC)
        .isoformat()
        .replace("+00:00", "Z"),
    }
    path = home / "auth.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=2))
    return access_token
