"""Agent identities: their keys and tasks, and the strict check of what they sign."""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from nacl.public import SealedBox
from nacl.signing import VerifyKey

from tests.standin.answers import MalformedError
from tests.standin.exchange import Reply, Request, error_body
from tests.standin.tokens import Refusal, Token
from tests.standin.tokens import refused as refused_token

ISSUER = "https://chatgpt.com/codex-backend/agent-identity"
AUDIENCE = "codex-app-server"
KID = "standin-1"
JWT_LIFETIME = 30 * 86_400.0
"""Seconds."""

CLOCK_SKEW = 300.0
"""Seconds that a signature's time may be off."""

JWKS = "/backend-api/wham/agent-identities/jwks"
REGISTER = re.compile(r"/api/accounts/v1/agent/([\w-]+)/task/register")
PKCS8_V2 = (bytes.fromhex("3051020101300506032b657004220420"), bytes.fromhex("812100"))
"""What stands before the private and the public key, as Codex writes them."""


@dataclass
class Agent:
    """An agent identity; ``token`` has its owner, and its private key as the secret.

    ``sealed``: its tasks are handed out encrypted. ``tasks`` are those in force, ``registered`` counts all.
    """

    token: Token
    runtime_id: str
    key: Ed25519PrivateKey = field(repr=False)
    sealed: bool = False
    tasks: set[str] = field(default_factory=set)
    registered: int = 0

    @property
    def claims(self) -> dict[str, Any]:
        return {
            "agent_runtime_id": self.runtime_id,
            "agent_private_key": self.token.token,
            "account_id": self.token.account_id,
            "chatgpt_user_id": self.token.user_id,
            "email": self.token.email,
            "plan_type": self.token.plan,
            "chatgpt_account_is_fedramp": self.token.fedramp,
        }

    def jwt(self, lifetime: float = JWT_LIFETIME, **other: Any) -> str:
        """Return its JWT; ``other`` claims replace its own."""
        now = int(time.time())
        ends = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + int(lifetime)}
        return signed({"alg": "RS256", "kid": KID, "typ": "JWT"}, {**ends, **self.claims, **other})

    def auth_json(self, *, as_jwt: bool = False) -> dict[str, Any]:
        """Return an ``auth.json`` with the record, or with the JWT."""
        return {
            "auth_mode": "agentIdentity",
            "OPENAI_API_KEY": None,
            "agent_identity": self.jwt() if as_jwt else self.claims,
        }

    def expire(self) -> None:
        """End its tasks: what is signed for them is answered 401 ``task_expired``."""
        self.tasks.clear()


def make(owner: Token, *, sealed: bool = False) -> Agent:
    """Make an agent identity of ``owner``'s account."""
    key = Ed25519PrivateKey.generate()
    before, between = PKCS8_V2
    der = before + key.private_bytes_raw() + between + key.public_key().public_bytes_raw()
    token = replace(owner, token=base64.b64encode(der).decode())
    return Agent(token, f"agent-{token.name}-{key.public_key().public_bytes_raw().hex()[:8]}", key, sealed)


class Agents:
    """The agents that the stand-in knows, and the endpoints for them."""

    def __init__(self) -> None:
        self._agents: dict[str, Agent] = {}

    def learn(self, agent: Agent) -> None:
        self._agents[agent.runtime_id] = agent

    def identify(self, request: Request) -> None:
        """Find out who has signed a request: ``bearer`` is the private key then, ``code`` what is wrong with it."""
        scheme, _, assertion = request.first.get("authorization", "").partition(" ")
        if scheme != "AgentAssertion":
            return
        try:
            text = base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4))
            document = json.loads(text)
            runtime_id, task_id, timestamp = (document[key] for key in ("agent_runtime_id", "task_id", "timestamp"))
            is_canonical = text == json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
            agent = self._agents[runtime_id]
        except (ValueError, KeyError, TypeError):
            return
        if not is_canonical or "=" in assertion or set(document) != {*ASSERTED}:
            return
        if not _is_signed(agent, f"{runtime_id}:{task_id}:{timestamp}", document["signature"]):
            return
        request.bearer = agent.token.token
        if not _is_now(timestamp):
            request.code = "invalid_timestamp"
        elif task_id not in agent.tasks:
            request.code = "task_expired" if task_id.startswith(f"task-{runtime_id}-") else "invalid_task_id"

    def refusal(self, request: Request) -> Refusal | None:
        """Return the rule that a request for keys or a task breaks."""
        if request.header("authorization") is not None or request.header("chatgpt-account-id") is not None:
            return Refusal(400, "unexpected_header", "this is asked without a credential")
        return None

    def reply(self, request: Request) -> Reply | None:
        """Answer a request for keys or a task; None for any other. Raises MalformedError."""
        if request.path == JWKS and request.method == "GET":
            return Reply.of_json({"keys": [{"kty": "EC", "kid": "other"}, jwk()]})
        match = REGISTER.fullmatch(request.path)
        return self._register(request, match[1]) if match is not None and request.method == "POST" else None

    def _register(self, request: Request, runtime_id: str) -> Reply:
        asked = json.loads(request.body)
        if not isinstance(asked, dict) or set(asked) != {"timestamp", "signature"}:
            raise MalformedError("no registration of a task")
        agent = self._agents.get(runtime_id)
        if agent is None:
            return Reply.of_json(error_body("agent_not_found", "no such agent"), 404)
        if not _is_signed(agent, f"{runtime_id}:{asked['timestamp']}", asked["signature"]):
            raise MalformedError("the registration is not signed with the agent's key")
        if not agent.token.is_good:
            return refused_token(agent.token)
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        if not _is_now(asked["timestamp"]):
            return Reply.of_json(error_body("invalid_timestamp", "too old, or too new"), 401, [("date", date)])
        agent.registered += 1
        task_id = f"task-{runtime_id}-{agent.registered}"
        agent.tasks.add(task_id)
        if not agent.sealed:
            return Reply.of_json({"task_id": task_id}, headers=[("date", date)])
        key = VerifyKey(agent.key.public_key().public_bytes_raw()).to_curve25519_public_key()
        sealed = base64.b64encode(SealedBox(key).encrypt(task_id.encode())).decode()
        return Reply.of_json({"encrypted_task_id": sealed}, headers=[("date", date)])


def refused(request: Request) -> Reply:
    """Refuse what an agent has signed, and repeat it, in the body, a header, and in base64."""
    assertion = (request.header("authorization") or "").partition(" ")[2]
    signature = json.loads(base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4)))["signature"]
    body = error_body(request.code, f"cannot use {assertion}, signed {signature}")
    packed = base64.b64encode(json.dumps(body).encode()).decode()
    return Reply.of_json(body, 401, [("x-echo", signature), ("x-error-json", packed)])


ASSERTED = ("agent_runtime_id", "signature", "task_id", "timestamp")


def is_for_agents(path: str) -> bool:
    return path == JWKS or REGISTER.fullmatch(path) is not None


def _is_signed(agent: Agent, text: str, signature: str) -> bool:
    try:
        agent.key.public_key().verify(base64.b64decode(signature, validate=True), text.encode())
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_now(timestamp: str) -> bool:
    try:
        at = datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, TypeError):
        return False
    return abs(time.time() - at) <= CLOCK_SKEW


# -- JWTs


@functools.cache
def rsa_key() -> RSAPrivateKey:
    """Return the key that signs JWTs."""
    return generate_private_key(65537, 2048)


def jwk(key: RSAPrivateKey | None = None) -> dict[str, str]:
    """Return the public half of a key as a JSON Web Key."""
    numbers = (key or rsa_key()).public_key().public_numbers()
    n, e = numbers.n.to_bytes(256), numbers.e.to_bytes(3)
    return {"kty": "RSA", "kid": KID, "alg": "RS256", "use": "sig", "n": _b64(n), "e": _b64(e)}


def signed(header: dict[str, Any], claims: dict[str, Any], key: RSAPrivateKey | None = None) -> str:
    text = ".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{_b64((key or rsa_key()).sign(text.encode(), PKCS1v15(), SHA256()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
