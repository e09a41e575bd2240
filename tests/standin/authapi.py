"""auth.openai.com: whoami, the token endpoint and device logins."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

from tests.standin.answers import MalformedError
from tests.standin.exchange import Reply, Request, error_body, nothing_here
from tests.standin.logins import (
    ACCESS_LIFETIME,
    CLIENT_ID,
    REFRESH_REASONS,
    DeviceLogins,
    RefreshTokens,
    access_token,
)
from tests.standin.paths import DEVICE, TOKEN_ENDPOINT, WHOAMI
from tests.standin.tokens import Token, refused


class Register(Protocol):
    """The known tokens."""

    pool: dict[str, Token]
    clients: dict[str, Token]

    def known(self, bearer: str) -> Token | None: ...

    def learn(self, token: Token, *, pool: bool, client: bool) -> None: ...


class AuthApi:
    """The issued logins, and the endpoints that renew them."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self.refresh_tokens = RefreshTokens()
        self.devices = DeviceLogins()
        self.refreshes = 0
        """Return the number of requests to the token endpoint."""

    def reply(self, request: Request) -> Reply:
        """Answer a request. Raises MalformedError."""
        if request.path == WHOAMI and request.method == "GET":
            token = self._register.known(request.bearer)
            return Reply.of_json(whoami(token)) if token is not None and token.is_good else refused(token)
        if request.path == TOKEN_ENDPOINT and request.method == "POST":
            is_form = "form" in (request.header("content-type") or "")
            return self._first_tokens(request) if is_form else self._renew(request)
        if request.path == f"{DEVICE}/usercode" and request.method == "POST":
            return Reply.of_json(self.devices.begin())
        if request.path == f"{DEVICE}/token" and request.method == "POST":
            granted = self.devices.poll()
            return Reply.of_json(granted) if granted else Reply.of_json(error_body("pending", "not yet"), 403)
        return nothing_here()

    def _first_tokens(self, request: Request) -> Reply:
        asked = dict(parse_qsl(request.body.decode()))
        owner = self.devices.spend(asked.get("code", ""), asked.get("code_verifier", ""))
        if owner is None or asked.get("grant_type") != "authorization_code" or asked.get("client_id") != CLIENT_ID:
            raise MalformedError("no code that was given out")
        login = replace(owner, token=access_token(owner), expires_at=time.time() + ACCESS_LIFETIME)
        self._register.learn(login, pool=True, client=False)
        return Reply.of_json(
            {
                "id_token": access_token(login),
                "access_token": login.token,
                "refresh_token": self.refresh_tokens.issue(login),
            }
        )

    def _renew(self, request: Request) -> Reply:
        self.refreshes += 1
        try:
            asked = json.loads(request.body)
            grant, refresh_token = asked["grant_type"], asked["refresh_token"]
            client_id, reason = asked["client_id"], asked.get("refresh_reason", REFRESH_REASONS[0])
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedError(f"no request for a new token: {error!r}") from error
        if grant != "refresh_token":
            raise MalformedError(f"grant_type is {grant!r}")
        if client_id != CLIENT_ID or reason not in REFRESH_REASONS or request.header("authorization") is not None:
            raise MalformedError("this is not how Codex asks for a new token")
        renewal = self.refresh_tokens.renew(refresh_token)
        if renewal.login is None or renewal.old is None:
            return Reply.of_json(error_body(renewal.code, "Your refresh token cannot be used."), 401)
        self._register.learn(
            renewal.login,
            pool=renewal.old.token in self._register.pool,
            client=renewal.old.token in self._register.clients,
        )
        return Reply.of_json(
            {
                "id_token": access_token(renewal.login),
                "access_token": renewal.login.token,
                "refresh_token": renewal.refresh_token,
            }
        )


def whoami(token: Token) -> dict[str, Any]:
    """Return the owner of a token, as whoami does."""
    return {
        "email": token.email,
        "chatgpt_user_id": token.user_id,
        "chatgpt_account_id": token.account_id,
        "chatgpt_plan_type": token.plan,
        "chatgpt_account_is_fedramp": token.fedramp,
    }
