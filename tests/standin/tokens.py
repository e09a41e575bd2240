"""What the stand-in knows about credentials, and the strict check of a request that spends one."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from codexpool.protocol.endpoints import ACCOUNTS_CHECK, CHATGPT, CONFIG_BUNDLE, HOST, NO_CONSTRAINT, USAGE
from tests.standin.exchange import Headers, Reply, Request, error_body


@dataclass
class Token:
    """One credential the backend knows: a personal access token, or the access token of an OAuth login.

    ``name`` is put into answers ("answer from <name>, request <n>"). A token that is not ``alive`` is answered
    401 ``token_revoked``, by the backend as well as by whoami; one that has expired (unix seconds) is answered 401
    ``token_expired``. ``used_percent`` is how much of its primary window (5 hours) is used,
    ``weekly_percent`` of its secondary one and ``family_percent`` of those of families; both windows reset at
    ``resets_at`` (unix seconds; None: always an hour from now). Each turn uses ``turn_percent`` of the primary
    window, and reaches its limit at 100. ``models`` are the slugs that its account may use, the default one first;
    None is any model, and an empty list of them.
    """

    token: str = field(repr=False)
    account_id: str
    user_id: str
    plan: str = "business"
    fedramp: bool = False
    origin: str = CHATGPT
    routing_override: str = NO_CONSTRAINT
    alive: bool = True
    expires_at: float | None = None
    name: str = ""
    used_percent: float = 12.0
    weekly_percent: float = 3.0
    family_percent: float = 5.0
    resets_at: float | None = None
    turn_percent: float = 0.0
    models: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self.name = self.name or self.account_id
        if self.origin == NO_CONSTRAINT:
            self.origin = CHATGPT

    @property
    def host(self) -> str:
        """The host its workspace is served from."""
        return urlsplit(self.origin).hostname or ""

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def is_good(self) -> bool:
        """Whether it is accepted."""
        return self.alive and not self.has_expired

    @property
    def email(self) -> str:
        return f"{self.user_id}@example.invalid"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule was broken: the status and error code the client gets, and the reason for the record."""

    status: int
    code: str
    reason: str


FORBIDDEN = (
    "x-openai-internal-codex-residency",
    "openai-organization",
    "openai-project",
    "x-oai-attestation",
    "x-openai-actor-authorization",
    "x-openai-agent-assertion",
)
"""Headers that describe the client's own workspace or device and must not travel with a pooled token."""

SINGLE = (
    "host",
    "authorization",
    "chatgpt-account-id",
    "x-openai-fedramp",
    "x-openai-account-routing-override",
    "x-codex-turn-state",
)
"""Headers that identify the sender, and must not be duplicated."""

PLACEHOLDER = "<codexpool"
"""How the addon's readable stand-ins for a token begin; none of them may reach the wire."""

DISCOVERY = ACCOUNTS_CHECK
MODELS = "/backend-api/codex/models"
RESET_CREDITS = "/backend-api/wham/rate-limit-reset-credits"
CONSUME = f"{RESET_CREDITS}/consume"

MEMBER_KEY = "at-pool-"
"""How the keys begin that codexpool gives to members."""

UNROUTED = (DISCOVERY, MODELS, CONFIG_BUNDLE, USAGE, RESET_CREDITS, CONSUME)
"""What a client may ask at ``chatgpt.com``, without an override, wherever its workspace is served from.

Discovery is where it learns that in the first place; Codex 0.169.0 asks for the models like this at any time.
"""


def refuse_headers(headers: Headers) -> Refusal | None:
    """Return what is wrong with a request's headers for any sender: placeholders, duplicates of ``SINGLE``."""
    names = [name for name, _ in headers]
    for name in SINGLE:
        if names.count(name) > 1:
            return Refusal(400, "duplicate_header", f"{name} appears {names.count(name)} times")
    for name, value in headers:
        if PLACEHOLDER in value:
            return Refusal(400, "placeholder", f"{name} has a placeholder")
    return None


def refuse_bearer(request: Request, known: Mapping[str, Token], whose: str) -> Refusal | None:
    """The bearer token must be a known one, and the account header must name its account."""
    token = known.get(request.bearer)
    if token is None:
        return Refusal(401, "invalid_token", f"authorization has no token of {whose}")
    account = request.header("chatgpt-account-id")
    if account != token.account_id:
        return Refusal(
            403, "account_mismatch", f"chatgpt-account-id is {account!r}, the token is of {token.account_id!r}"
        )
    return None


def refuse_swap(request: Request, pool: Mapping[str, Token]) -> Refusal | None:
    """The rules of a request under a pooled identity: everything in it has to fit its one token."""
    for name in FORBIDDEN:
        if request.header(name) is not None:
            return Refusal(400, "unexpected_header", f"{name} must not be sent")
    if refusal := refuse_bearer(request, pool, "the pool"):
        return refusal
    token = pool[request.bearer]
    return _refuse_workspace(request, token) or refuse_turn_state(request.header("x-codex-turn-state"), token)


def refused(token: Token | None) -> Reply:
    """What a token gets that is dead, has expired, or is none at all."""
    expired = token is not None and token.alive and token.has_expired
    code = "token_expired" if expired else "token_revoked"
    body = error_body(code, f"Your authentication token has {'expired' if expired else 'been revoked'}.")
    return Reply.of_json(body, 401, [("x-openai-authorization-error", code)])


def turn_state(token: Token, number: int) -> str:
    """A sticky-routing token as the backend issues one with an answer; opaque to everybody else."""
    return f"turn-{token.account_id}-{number}"


def refuse_turn_state(sent: object, token: Token) -> Refusal | None:
    """A turn state goes back to the identity that it was issued to, or not at all."""
    if isinstance(sent, str) and sent.startswith("turn-") and sent.rpartition("-")[0] != f"turn-{token.account_id}":
        return Refusal(400, "foreign_turn_state", f"x-codex-turn-state {sent!r} was not issued to {token.name}")
    return None


def _refuse_workspace(request: Request, token: Token) -> Refusal | None:
    fedramp = "true" if token.fedramp else None
    if request.header("x-openai-fedramp") != fedramp:
        sent = request.header("x-openai-fedramp")
        return Refusal(401, "fedramp_mismatch", f"x-openai-fedramp is {sent!r} instead of {fedramp!r}")
    sent = request.header("x-openai-account-routing-override")
    if request.path in UNROUTED and request.host == HOST and sent is None:
        return None
    override = None if token.routing_override == NO_CONSTRAINT else token.routing_override
    if sent != override:
        return Refusal(
            400, "routing_mismatch", f"x-openai-account-routing-override is {sent!r} instead of {override!r}"
        )
    if request.host != token.host:
        return Refusal(421, "wrong_origin", f"{token.name} is served from {token.host}, not {request.host}")
    return None


def misplaced(request: Request, secrets: Collection[str], *, spent: str) -> bool:
    """Whether one of these tokens is anywhere in a request, other than ``spent`` in Authorization."""
    expected = f"Bearer {spent}" if spent else None
    headers = "\n".join(
        value for name, value in request.headers if not (name == "authorization" and value == expected)
    )
    text = f"{request.path}?{request.query}\n{headers}"
    return any(secret in text or secret.encode() in request.body for secret in secrets)
