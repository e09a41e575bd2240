"""Agent identities: whose they are, and the key they sign with. A JWT, or a record in Codex's ``auth.json``.

The format is that of openai/codex, login/src/auth/agent_identity.rs and storage.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from codexpool.common.clock_skew import LATEST
from codexpool.common.emails import email_of
from codexpool.common.private_files import UnusableError
from codexpool.pool.identity import Metadata
from codexpool.tokens.agent_key import AgentKey, is_id
from codexpool.tokens.jwt import header_of, payload_of

ISSUER: Final = "https://chatgpt.com/codex-backend/agent-identity"
AUDIENCE: Final = "codex-app-server"
ALGORITHM: Final = "RS256"
LONGEST_JWT: Final = 16_384  # Characters; a real one has some thousand.
GET_ANOTHER: Final = "use a complete agent identity"


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """An agent identity, as far as its credential says; ``jwt`` is empty for a record, which nothing signs.

    ``task_id`` is the task that a record names; empty without one. ``expires_at`` is a unix second, None if unknown.
    """

    key: AgentKey
    metadata: Metadata
    jwt: str = field(default="", repr=False)
    task_id: str = field(default="", repr=False)
    expires_at: float | None = None


def is_agent_jwt(text: str) -> bool:
    """Return whether a token is the JWT of an agent identity, by its claims."""
    try:
        return len(text) <= LONGEST_JWT and "agent_runtime_id" in payload_of(text)
    except ValueError:
        return False


def of_jwt(text: str) -> AgentIdentity:
    """Read a JWT; its signature is not checked here. Raises UnusableError, which does not quote it."""
    try:
        return _read(text)
    except ValueError as error:
        raise UnusableError(f"is not the JWT of an agent identity: {error}", GET_ANOTHER) from None


def of_record(value: object) -> AgentIdentity:
    """Read what an ``auth.json`` has under ``agent_identity``. Raises UnusableError."""
    try:
        if isinstance(value, str):
            return _read(value)
        if not isinstance(value, dict):
            raise ValueError("it is neither a JWT nor a JSON object")
        task_id = value.get("task_id")
        return AgentIdentity(_key(value), _owner(value), task_id=str(task_id) if is_id(task_id) else "")
    except ValueError as error:
        raise UnusableError(f"has an unusable agent identity: {error}", GET_ANOTHER) from None


def _read(jwt: str) -> AgentIdentity:
    if len(jwt) > LONGEST_JWT:
        raise ValueError("it is too long")
    header, claims = header_of(jwt), payload_of(jwt)
    if header.get("alg") != ALGORITHM or not is_id(header.get("kid")):
        raise ValueError(f"it is not signed with {ALGORITHM} by a key with an id")
    audience = claims.get("aud")
    if claims.get("iss") != ISSUER or AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise ValueError("its issuer or audience is another one")
    expires_at = claims.get("exp")
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not 0 <= expires_at <= LATEST:
        raise ValueError("it has no time of expiry")
    return AgentIdentity(_key(claims), _owner(claims), jwt, expires_at=float(expires_at))


def _key(claims: Mapping[str, Any]) -> AgentKey:
    runtime_id, key = claims.get("agent_runtime_id"), claims.get("agent_private_key")
    if not isinstance(runtime_id, str) or not isinstance(key, str):
        raise ValueError("it lacks agent_runtime_id or agent_private_key")
    try:
        return AgentKey.of(runtime_id, key)
    except ValueError as error:
        raise ValueError(f"the key: {error}") from None


def _owner(claims: Mapping[str, Any]) -> Metadata:
    account_id, user_id, plan = (claims.get(key) for key in ("account_id", "chatgpt_user_id", "plan_type"))
    fedramp = claims.get("chatgpt_account_is_fedramp", False)
    if not is_id(account_id) or not is_id(user_id) or not isinstance(fedramp, bool):
        raise ValueError("it does not name its account and user")
    is_named = isinstance(plan, str) and plan.isprintable()
    plan, email = str(plan) if is_named else "", email_of(claims.get("email"))
    return Metadata(str(account_id), str(user_id), plan, fedramp, email=email)
