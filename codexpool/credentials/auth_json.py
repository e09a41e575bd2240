"""Codex's ``auth.json``: reads every variant, and updates a login without losing other fields.

The format is that of openai/codex, login/src/auth/storage.rs (``AuthDotJson``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from codexpool.common.iso_time import iso_time
from codexpool.common.private_files import UnusableError
from codexpool.credentials import PREFIX
from codexpool.credentials.agent_identity import AgentIdentity, of_record
from codexpool.pool.identity import IdentityKey, Metadata
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.jwt import claims_of, is_jwt

LOG_IN = "log in again: codexpool login NAME"

MODES: Mapping[str, str] = {  # The login modes of Codex, and why a mode cannot be pooled; empty for those that can.
    "chatgpt": "",
    "personalAccessToken": "",
    "apikey": "an API key, which is for api.openai.com and not for ChatGPT",
    "agentIdentity": "",
    "chatgptAuthTokens": "tokens that another program lends to Codex, and which only that program can renew",
    "headers": "headers that another program gives to Codex",
    "bedrockApiKey": "a key for Amazon Bedrock, which is another backend",
    "bedrockAccessKeys": "keys for Amazon Bedrock, which is another backend",
}

MODE_BY_KEY = (  # The mode of a file without ``auth_mode``: that of the first of these keys with a value.
    ("personal_access_token", "personalAccessToken"),
    ("bedrock_api_key", "bedrockApiKey"),
    ("bedrock_access_keys", "bedrockAccessKeys"),
    ("OPENAI_API_KEY", "apikey"),
    ("tokens", "chatgpt"),
    ("agent_identity", "agentIdentity"),
)


@dataclass(frozen=True, slots=True)
class Login:
    """An OAuth login. ``document`` is the whole file; ``expires_at`` is a unix second, None if unknown."""

    access: Bearer
    refresh_token: str = field(repr=False)
    account_id: str
    user_id: str
    plan: str
    fedramp: bool
    expires_at: float | None
    document: Mapping[str, Any] = field(repr=False)
    email: str = ""

    @property
    def key(self) -> IdentityKey:
        return IdentityKey(self.account_id, self.user_id)

    @property
    def metadata(self) -> Metadata:
        return Metadata(self.account_id, self.user_id, self.plan, self.fedramp, email=self.email)

    def expires_within(self, seconds: float, at: float) -> bool:
        """Return whether its access token has expired ``seconds`` after the unix second ``at``."""
        return self.expires_at is not None and self.expires_at <= at + seconds


def parse(text: str) -> Login | Bearer | AgentIdentity:
    """Parse an ``auth.json`` with an OAuth login, a personal access token or an agent identity.

    Raises UnusableError for any other.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableError("is not an auth.json: it is not JSON", LOG_IN) from None
    if not isinstance(document, dict):
        raise UnusableError("is not an auth.json: it is not a JSON object", LOG_IN)
    mode = _mode(document)
    if reason := MODES.get(mode, f"a login of an unknown kind ({mode[:40]})"):
        remedy = "use a ChatGPT login (codexpool login NAME), a personal access token or an agent identity"
        raise UnusableError(f"has {reason}", remedy)
    if mode == "chatgpt":
        return _login(document)
    if mode == "agentIdentity":
        return of_record(document.get("agent_identity"))
    token = document.get("personal_access_token")
    if not isinstance(token, str) or not token.startswith(PREFIX):
        raise UnusableError("has no personal access token, although its auth_mode is personalAccessToken", LOG_IN)
    return Bearer.of(token)


def renewed(login: Login, answer: Mapping[str, Any], at: float) -> Login:
    """Return the login updated with the token endpoint's answer. Raises UnusableError if that makes no login."""
    given = {
        key: answer[key]
        for key in ("id_token", "access_token", "refresh_token")
        if isinstance(answer.get(key), str) and answer[key]
    }
    if "id_token" in given and not is_jwt(given["id_token"]):
        if not is_jwt(given.get("access_token", "")):
            raise UnusableError("has no token that names its account and user", LOG_IN)
        del given["id_token"]  # The refresh token is spent: use what is usable.
    tokens = {**login.document["tokens"], **given}
    return _login({**login.document, "tokens": tokens, "last_refresh": iso_time(at)})


def with_refresh_token(login: Login, answer: Mapping[str, Any]) -> Login | None:
    """Return the login with nothing but the refresh token of an answer, or None if the answer has no new one."""
    fresh = answer.get("refresh_token")
    if not isinstance(fresh, str) or not fresh or fresh == login.refresh_token:
        return None
    document = {**login.document, "tokens": {**login.document["tokens"], "refresh_token": fresh}}
    return replace(login, refresh_token=fresh, document=document)


def text_of(document: Mapping[str, Any]) -> str:
    """Format the file as Codex does."""
    return json.dumps(document, indent=2)


def _mode(document: Mapping[str, Any]) -> str:
    mode = document.get("auth_mode")
    if isinstance(mode, str) and mode:
        return mode
    found = next((mode for key, mode in MODE_BY_KEY if document.get(key)), "")
    if not found:
        raise UnusableError("has no login", LOG_IN)
    return found


def _login(document: Mapping[str, Any]) -> Login:
    tokens = document.get("tokens")
    tokens = tokens if isinstance(tokens, dict) else {}
    access, refresh, identity = (tokens.get(key) for key in ("access_token", "refresh_token", "id_token"))
    if not (isinstance(access, str) and access.isascii() and access.isprintable() and access):
        raise UnusableError("has no access token", LOG_IN)
    if not (isinstance(refresh, str) and refresh):
        raise UnusableError("has no refresh token", LOG_IN)
    try:
        claims = claims_of(identity if isinstance(identity, str) else "")
    except ValueError as error:
        raise UnusableError(f"has an id_token that cannot be read: {error}", LOG_IN) from None
    try:
        of_access = claims_of(access)
    except ValueError:
        of_access = claims._replace(expires_at=None)  # Opaque: valid until refused.
    # All three agree, unless a renewal gave a token of another workspace: then the token itself is right.
    account_id = of_access.account_id or claims.account_id or tokens.get("account_id")
    user_id = claims.user_id or of_access.user_id
    if not isinstance(account_id, str) or not account_id or not user_id:
        raise UnusableError("does not name its account and user", LOG_IN)
    return Login(
        Bearer.of(access),
        refresh,
        account_id,
        user_id,
        claims.plan or of_access.plan,
        claims.fedramp,
        of_access.expires_at,
        document,
        claims.email or of_access.email,
    )
