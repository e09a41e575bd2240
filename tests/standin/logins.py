"""OAuth logins: unsigned but well-formed JWTs, refresh tokens that can be used once, and ``auth.json``."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tests.standin.tokens import Token

ACCESS_LIFETIME = 10 * 86400.0
"""Lifetime of an access token, in seconds."""

CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
"""Codex' client id at the token endpoint."""

REFRESH_REASONS = ("unauthorized_recovery", "proactive_expiry", "scheduled")
"""Why it asks."""


def make_jwt(claims: dict[str, Any]) -> str:
    """Return a JWT with an invalid signature."""
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    head, body = (_b64(json.dumps(part).encode()) for part in parts)
    return f"{head}.{body}.{_b64(b'unsigned')}"


def access_token(owner: Token, *, lifetime: float = ACCESS_LIFETIME) -> str:
    """A new access token for ``owner``, with the claims Codex reads; ``lifetime`` in seconds."""
    now = time.time()
    auth = {
        "chatgpt_plan_type": owner.plan,
        "chatgpt_user_id": owner.user_id,
        "chatgpt_account_id": owner.account_id,
        "chatgpt_account_is_fedramp": owner.fedramp,
    }
    return make_jwt(
        {
            "iss": "https://auth.openai.com",
            "iat": int(now),
            "exp": int(now + lifetime),
            "jti": secrets.token_hex(8),
            "email": owner.email,
            "https://api.openai.com/profile": {"email": owner.email},
            "https://api.openai.com/auth": auth,
        }
    )


def auth_json(login: Token, refresh_token: str) -> dict[str, Any]:
    """The content of an ``auth.json`` as ``codex login`` writes it; ``login.token`` is the access token."""
    return {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": access_token(login),
            "access_token": login.token,
            "refresh_token": refresh_token,
            "account_id": login.account_id,
        },
        "last_refresh": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }


@dataclass(frozen=True, slots=True)
class Renewal:
    """Return a new login that replaces the old one, or the code of a permanent failure."""

    code: str = ""
    old: Token | None = None
    login: Token | None = None
    refresh_token: str = ""


class RefreshTokens:
    """The refresh tokens in circulation. Each one works once and is replaced by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logins: dict[str, Token] = {}
        self._used: set[str] = set()

    def issue(self, login: Token) -> str:
        """A new refresh token for a login."""
        token = f"rt_test-{secrets.token_hex(12)}"
        with self._lock:
            self._logins[token] = login
        return token

    def revoke(self, refresh_token: str) -> None:
        """From now on it is invalid."""
        with self._lock:
            self._logins.pop(refresh_token, None)

    def hand_over(self, refresh_token: str, owner: Token) -> None:
        """From now on, renew this login as that of another owner."""
        with self._lock:
            self._logins[refresh_token] = owner

    def renew(self, refresh_token: str) -> Renewal:
        """Spend a refresh token."""
        with self._lock:
            if refresh_token in self._used:
                return Renewal("refresh_token_reused")
            old = self._logins.pop(refresh_token, None)
            if old is None:
                return Renewal("refresh_token_invalidated")
            self._used.add(refresh_token)
        login = replace(old, token=access_token(old), alive=True, expires_at=time.time() + ACCESS_LIFETIME)
        return Renewal("", old, login, self.issue(login))


class DeviceLogins:
    """Device logins: a person approves a code elsewhere, and the polling client gets its login."""

    def __init__(self) -> None:
        self._approved: list[Token] = []
        self._codes: dict[str, Token] = {}

    def approve(self, owner: Token) -> None:
        """Say yes, as ``owner``, to the next one that asks."""
        self._approved.append(owner)

    def begin(self) -> dict[str, Any]:
        """A code for a person to type in elsewhere."""
        return {"device_auth_id": f"device-{secrets.token_hex(6)}", "user_code": "TEST-CODE", "interval": "1"}

    def poll(self) -> dict[str, Any] | None:
        """Return the authorization code, once a person has approved."""
        if not self._approved:
            return None
        code, verifier = secrets.token_hex(12), secrets.token_hex(24)
        self._codes[f"{code}:{verifier}"] = self._approved.pop(0)
        return {"authorization_code": code, "code_verifier": verifier, "code_challenge": "not looked at"}

    def spend(self, code: str, verifier: str) -> Token | None:
        """Whose login a code is for; it works once."""
        return self._codes.pop(f"{code}:{verifier}", None)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
