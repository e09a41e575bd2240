"""``auth.json`` as ``codex login`` writes it: read in every variant, and written back with nothing of it lost.

The format is that of openai/codex, login/src/auth/storage.rs (``AuthDotJson``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from codexpool.common.private_files import UnusableError
from codexpool.credentials.pat import PREFIX
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.jwt import claims_of, is_jwt

LOG_IN = "log in anew: codexpool login NAME"

MODES: Mapping[str, str] = {
    "chatgpt": "",
    "personalAccessToken": "",
    "apikey": "an API key, which speaks to api.openai.com and not to ChatGPT",
    "agentIdentity": "an agent identity, which signs each request with a key of its own and has no token to send",
    "chatgptAuthTokens": "tokens that another program lends to Codex: that program renews them, nobody else can",
    "headers": "headers that another program gives to Codex",
    "bedrockApiKey": "a key for Amazon Bedrock, which is another backend",
    "bedrockAccessKeys": "keys for Amazon Bedrock, which is another backend",
}
"""The login modes Codex knows, and why one of them cannot be pooled; empty for those that can."""

HOLDS = (
    ("personal_access_token", "personalAccessToken"),
    ("bedrock_api_key", "bedrockApiKey"),
    ("bedrock_access_keys", "bedrockAccessKeys"),
    ("OPENAI_API_KEY", "apikey"),
    ("tokens", "chatgpt"),
    ("agent_identity", "agentIdentity"),
)
"""Which mode a file without ``auth_mode`` is of: the first of these keys that holds something."""


@dataclass(frozen=True, slots=True)
class Login:
    """An OAuth bundle. ``document`` is the whole file; unix seconds in ``expires_at``, None if it has no end."""

    access: Bearer
    refresh_token: str = field(repr=False)
    account_id: str
    user_id: str
    plan: str
    fedramp: bool
    expires_at: float | None
    document: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> IdentityKey:
        """Whose login it is."""
        return IdentityKey(self.account_id, self.user_id)

    def expires_within(self, seconds: float, at: float) -> bool:
        """Whether its access token is worth nothing so many seconds from now."""
        return self.expires_at is not None and self.expires_at <= at + seconds


def parse(text: str) -> Login | Bearer:
    """What an ``auth.json`` holds: an OAuth bundle, or a personal access token.

    Raises UnusableError for any other login, and for a file that is not whole.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableError("is no JSON, so it is no auth.json", LOG_IN) from None
    if not isinstance(document, dict):
        raise UnusableError("is no JSON object, so it is no auth.json", LOG_IN)
    mode = _mode(document)
    if reason := MODES.get(mode, f"a login of a kind that is not known here ({mode[:40]})"):
        raise UnusableError(
            f"holds {reason}", "take a ChatGPT login or a personal access token (codexpool login NAME)"
        )
    return _login(document) if mode == "chatgpt" else _pat(document)


def renewed(login: Login, answer: Mapping[str, Any], at: float) -> Login:
    """The login with what the token endpoint gave; everything else of the file stays as it is.

    Raises UnusableError where the answer does not make a login.
    """
    given = {
        key: answer[key]
        for key in ("id_token", "access_token", "refresh_token")
        if isinstance(answer.get(key), str) and answer[key]
    }
    if "id_token" in given and not is_jwt(given["id_token"]):
        if not is_jwt(given.get("access_token", "")):
            raise UnusableError("has no token that says whose it is", LOG_IN)
        del given["id_token"]  # The refresh token is spent: what can be used of the answer is used.
    last_refresh = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    tokens = {**login.document["tokens"], **given}
    return _login({**login.document, "tokens": tokens, "last_refresh": last_refresh})


def with_refresh_token(login: Login, answer: Mapping[str, Any]) -> Login | None:
    """The login as it was, but with the refresh token of an answer whose other tokens cannot be used.

    None where the answer has no new one.
    """
    fresh = answer.get("refresh_token")
    if not isinstance(fresh, str) or not fresh or fresh == login.refresh_token:
        return None
    document = {**login.document, "tokens": {**login.document["tokens"], "refresh_token": fresh}}
    return replace(login, refresh_token=fresh, document=document)


def text_of(document: Mapping[str, Any]) -> str:
    """The text of the file, as Codex writes it."""
    return json.dumps(document, indent=2)


def _mode(document: Mapping[str, Any]) -> str:
    mode = document.get("auth_mode")
    if isinstance(mode, str) and mode:
        return mode
    holds = next((mode for key, mode in HOLDS if document.get(key)), "")
    if not holds:
        raise UnusableError("holds no login", LOG_IN)
    return holds


def _pat(document: Mapping[str, Any]) -> Bearer:
    token = document.get("personal_access_token")
    if not isinstance(token, str) or not token.startswith(PREFIX):
        raise UnusableError("says it holds a personal access token, and holds none", LOG_IN)
    return Bearer.of(token)


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
        of_access = claims._replace(expires_at=None)  # Opaque: it lasts until it is refused.
    # All three are the same, unless a renewal gave a token of another workspace: then the token's own word counts.
    account_id = of_access.account_id or claims.account_id or tokens.get("account_id")
    user_id = claims.user_id or of_access.user_id
    if not isinstance(account_id, str) or not account_id or not user_id:
        raise UnusableError("does not say which account and user it is of", LOG_IN)
    return Login(
        Bearer.of(access),
        refresh,
        account_id,
        user_id,
        claims.plan or of_access.plan,
        claims.fedramp,
        of_access.expires_at,
        document,
    )
