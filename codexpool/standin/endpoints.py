"""What the stand-in answers: the endpoints of the backend and of auth.openai.com, as far as Codex asks for them."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from codexpool.backend import AUTHAPI, NO_CONSTRAINT
from codexpool.backend import WHOAMI as WHOAMI_PATH
from codexpool.standin.answers import (
    Event,
    MalformedError,
    answer_text,
    encrypted_owners,
    generation,
    parse_generation,
    prewarmed,
)
from codexpool.standin.exchange import Headers, Reply, Request, error_body
from codexpool.standin.faults import Answer
from codexpool.standin.logins import (
    ACCESS_LIFETIME,
    CLIENT_ID,
    REFRESH_REASONS,
    DeviceLogins,
    RefreshTokens,
    access_token,
)
from codexpool.standin.tokens import (
    DISCOVERY,
    MODELS,
    UNROUTED,
    Refusal,
    Token,
    refuse_bearer,
    refuse_headers,
    refuse_swap,
    refuse_turn_state,
    turn_state,
)

AUTH_HOST = "auth.openai.com"
RESPONSES = "/backend-api/codex/responses"
COMPACT = f"{RESPONSES}/compact"
MCP = "/backend-api/ps/mcp"
WHOAMI = AUTHAPI.removeprefix(f"https://{AUTH_HOST}") + WHOAMI_PATH
TOKEN_ENDPOINT = "/oauth/token"
DEVICE = "/api/accounts/deviceauth"

SWAPPED = re.compile(
    r"/backend-api/(codex/responses(/compact)?|codex/models|codex/(memories|images|alpha|realtime)/.*|wham/accounts/check)"
)
"""The paths a pooled identity is spent on; on every other one the client speaks for itself.

Written down apart from the addon's own table, so that each of the two checks the other.
"""

PLAIN: dict[str, Any] = {
    "/backend-api/wham/config/bundle": {},
    "/backend-api/wham/settings/user": {},
    "/backend-api/wham/usage": {"plan_type": "business", "rate_limit": None},
    "/backend-api/ps/plugins/installed": {"plugins": []},
    "/backend-api/ps/plugins/suggested/codex": {"plugins": []},
    "/backend-api/codex/analytics-events/events": {},
}
"""Answers that say nothing."""

Encrypted = Literal["none", "portable", "bound"]
"""Whether answers carry encrypted reasoning, and whether another account takes it back (``bound``: 400)."""


@dataclass(slots=True)
class Style:
    """How generated answers come: in so many pieces, with so many seconds between two events."""

    deltas: int
    pace: float

    def changed_by(self, answer: Answer | None) -> Style:
        if answer is None:
            return self
        return Style(
            self.deltas if answer.deltas is None else answer.deltas,
            self.pace if answer.pace is None else answer.pace,
        )


class Backend:
    """The endpoints, over the tokens the stand-in knows.

    Args:
        pool: the tokens that may arrive on swapped paths.
        clients: the tokens that may arrive on all others.
        websockets: whether upgrades are served; otherwise they are answered 426.
        deltas, pace: pieces of a model's answer, and the seconds between two events.
        encrypted: see ``Encrypted``.
    """

    def __init__(
        self,
        pool: Iterable[Token],
        clients: Iterable[Token],
        *,
        websockets: bool,
        deltas: int,
        pace: float,
        encrypted: Encrypted = "none",
    ) -> None:
        self.pool = {token.token: token for token in pool}
        self.clients = {token.token: token for token in clients}
        self.refresh_tokens = RefreshTokens()
        self.devices = DeviceLogins()
        self.refreshes = 0
        """How often the token endpoint was asked."""
        self.websockets = websockets
        self.style = Style(deltas, pace)
        self.encrypted = encrypted
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    def known(self, bearer: str) -> Token | None:
        """The token behind a bearer, whosever it is."""
        return self.pool.get(bearer) or self.clients.get(bearer)

    def secrets(self) -> list[str]:
        """The pool's tokens that no client has for a login of its own."""
        with self._lock:
            return [token for token in self.pool if token not in self.clients]

    def learn(self, token: Token, *, pool: bool, client: bool) -> None:
        """Know one more token, of the pool or of a client (or of both, where there is no proxy between)."""
        with self._lock:
            self.pool |= {token.token: token} if pool else {}
            self.clients |= {token.token: token} if client else {}

    def admitted(self, request: Request) -> str:
        """The token that may stand in this request's Authorization, as far as the place goes."""
        if request.host == AUTH_HOST:
            return request.bearer if request.path == WHOAMI else ""
        token = self.pool.get(request.bearer)
        at_home = token is not None and (request.host == token.host or request.path in UNROUTED)
        return request.bearer if at_home and SWAPPED.fullmatch(unquote(request.path)) else ""

    def refusal(self, request: Request) -> Refusal | None:
        """The rule that a request breaks; a token that is merely dead breaks none."""
        if refusal := refuse_headers(request.headers):
            return refusal
        path = unquote(request.path)
        if request.host == AUTH_HOST or not path.startswith("/backend-api/"):
            return None
        if SWAPPED.fullmatch(path):
            return refuse_swap(request, self.pool)
        return refuse_bearer(request, self.clients, "a client")

    def reply(self, request: Request, answer: Answer | None) -> Reply:
        """The answer to a request that breaks no rule. ``answer`` may change how a generated one comes.

        Raises MalformedError.
        """
        path = unquote(request.path)
        if request.host == AUTH_HOST:
            return self._auth(request)
        token = self.known(request.bearer)
        if token is None or not path.startswith("/backend-api/"):
            # Metrics (ab.chatgpt.com) and whatever else is sent without a login.
            return Reply.of_json({}) if request.host == "ab.chatgpt.com" else _nothing_here()
        if not token.is_good:
            return refused(token)
        if SWAPPED.fullmatch(path):
            return self._swapped(request, path, token, answer)
        if path == MCP and request.method == "POST":
            return _mcp(request)
        return Reply.of_json(PLAIN[path]) if path in PLAIN else _nothing_here()

    def events(self, token: Token, number: int, data: dict[str, Any], style: Style) -> Iterable[Event]:
        """The events of a model's answer: ``answer from <name>, request <n>``, and the word of an ``echo:``."""
        response_id = f"resp_{next(self._ids)}"
        if data.get("generate") is False:
            return prewarmed(response_id, data["model"])
        encrypted = None if self.encrypted == "none" else f"enc:{token.account_id}:{response_id}"
        text = answer_text(token.name, number, data)
        return generation(response_id, data["model"], text, style.deltas, encrypted=encrypted)

    def refuse_generation(self, data: dict[str, Any], token: Token) -> Refusal | None:
        """The rules of a generation's body: nothing in it may have been issued to another identity."""
        if self.encrypted == "bound" and (owners := encrypted_owners(data) - {token.account_id}):
            return Refusal(
                400, "invalid_encrypted_content", f"encrypted content of {sorted(owners)}, not of {token.account_id}"
            )
        metadata = data.get("client_metadata")
        sent = metadata.get("x-codex-turn-state") if isinstance(metadata, dict) else None
        return refuse_turn_state(sent, token)

    def limit_headers(self, token: Token) -> Headers:
        """The rate limits of a token's account, as headers."""
        reset = str(int(time.time()) + 3600)
        return [
            ("x-codex-primary-used-percent", str(token.used_percent)),
            ("x-codex-primary-window-minutes", "300"),
            ("x-codex-primary-reset-at", reset),
            ("x-codex-secondary-used-percent", "3.0"),
            ("x-codex-secondary-window-minutes", "10080"),
            ("x-codex-secondary-reset-at", reset),
        ]

    def limit_frame(self, token: Token) -> Event:
        """The same as a frame, as it comes with each turn on a WebSocket."""
        reset = int(time.time()) + 3600
        limits = {
            "primary": {"used_percent": token.used_percent, "window_minutes": 300, "reset_at": reset},
            "secondary": {"used_percent": 3.0, "window_minutes": 10080, "reset_at": reset},
        }
        return {"type": "codex.rate_limits", "plan_type": token.plan, "rate_limits": limits}

    def _swapped(self, request: Request, path: str, token: Token, answer: Answer | None) -> Reply:
        if path == DISCOVERY:
            return Reply.of_json(discovery(token))
        if path == MODELS:
            return Reply.of_json({"models": []}, headers=[("etag", f'"models-{token.account_id}"')])
        if path == RESPONSES and request.transport == "websocket":
            if not self.websockets:
                return Reply.of_json(error_body("upgrade_required", "no WebSocket here"), 426)
            return Reply(101, self.limit_headers(token))
        if path == RESPONSES and request.method == "POST":
            return self._generate(request, token, answer)
        if path == COMPACT:
            data = parse_generation(request.body)
            return Reply.of_json({"output": data["input"][-1:]})
        return Reply.of_json({"path": path, "name": token.name})

    def _generate(self, request: Request, token: Token, answer: Answer | None) -> Reply:
        data = parse_generation(request.body)
        if data.get("stream", True) is not True or "previous_response_id" in data:
            raise MalformedError("over HTTP, stream must not be false and previous_response_id not be there")
        if refusal := self.refuse_generation(data, token):
            return Reply.of_json(error_body(refusal.code, refusal.reason), refusal.status)
        number = request.seen.number
        style = self.style.changed_by(answer)
        headers = [
            ("content-type", "text/event-stream"),
            ("x-request-id", f"req-{number}"),
            ("x-codex-turn-state", turn_state(token, number)),
            *self.limit_headers(token),
        ]
        return Reply(200, headers, _server_sent(self.events(token, number, data, style), style.pace))

    def _auth(self, request: Request) -> Reply:
        if request.path == WHOAMI and request.method == "GET":
            token = self.known(request.bearer)
            return Reply.of_json(whoami(token)) if token is not None and token.is_good else refused(token)
        if request.path == TOKEN_ENDPOINT and request.method == "POST":
            is_form = "form" in (request.header("content-type") or "")
            return self._first_tokens(request) if is_form else self._renew(request)
        if request.path == f"{DEVICE}/usercode" and request.method == "POST":
            return Reply.of_json(self.devices.begin())
        if request.path == f"{DEVICE}/token" and request.method == "POST":
            granted = self.devices.poll()
            return Reply.of_json(granted) if granted else Reply.of_json(error_body("pending", "not yet"), 403)
        return _nothing_here()

    def _first_tokens(self, request: Request) -> Reply:
        asked = dict(parse_qsl(request.body.decode()))
        owner = self.devices.spend(asked.get("code", ""), asked.get("code_verifier", ""))
        if owner is None or asked.get("grant_type") != "authorization_code" or asked.get("client_id") != CLIENT_ID:
            raise MalformedError("no code that was given out")
        login = replace(owner, token=access_token(owner), expires_at=time.time() + ACCESS_LIFETIME)
        self.learn(login, pool=True, client=False)
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
        self.learn(renewal.login, pool=renewal.old.token in self.pool, client=renewal.old.token in self.clients)
        return Reply.of_json(
            {
                "id_token": access_token(renewal.login),
                "access_token": renewal.login.token,
                "refresh_token": renewal.refresh_token,
            }
        )


def refused(token: Token | None) -> Reply:
    """What a token gets that is dead, has expired, or is none at all."""
    expired = token is not None and token.alive and token.has_expired
    code = "token_expired" if expired else "token_revoked"
    body = error_body(code, f"Your authentication token has {'expired' if expired else 'been revoked'}.")
    return Reply.of_json(body, 401, [("x-openai-authorization-error", code)])


def whoami(token: Token) -> dict[str, Any]:
    """Who a token belongs to."""
    return {
        "email": token.email,
        "chatgpt_user_id": token.user_id,
        "chatgpt_account_id": token.account_id,
        "chatgpt_plan_type": token.plan,
        "chatgpt_account_is_fedramp": token.fedramp,
    }


def discovery(token: Token) -> dict[str, Any]:
    """Routing discovery for one token."""
    entry = {
        "id": token.account_id,
        "plan_type": token.plan,
        "structure": "workspace",
        "workspace_backend_origin": NO_CONSTRAINT if token.host == "chatgpt.com" else token.origin,
        "account_routing_override": token.routing_override,
    }
    return {"accounts": [entry], "default_account_id": token.account_id, "account_ordering": [token.account_id]}


def _mcp(request: Request) -> Reply:
    """An MCP server that has nothing to offer, so that the client does not complain about one that is missing."""
    call = json.loads(request.body)
    if not isinstance(call, dict) or "id" not in call:
        return Reply(202)
    wanted = call.get("params", {}).get("protocolVersion")
    server = {"name": "stand-in", "version": "1"}
    results: dict[object, Any] = {
        "initialize": {"protocolVersion": wanted, "capabilities": {"tools": {}}, "serverInfo": server},
        "tools/list": {"tools": []},
        "resources/list": {"resources": []},
        "resources/templates/list": {"resourceTemplates": []},
    }
    return Reply.of_json({"jsonrpc": "2.0", "id": call["id"], "result": results.get(call.get("method"), {})})


def _nothing_here() -> Reply:
    return Reply.of_json(error_body("not_found", "no such endpoint"), 404)


async def _server_sent(events: Iterable[Event], pace: float) -> AsyncIterator[bytes]:
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        if pace:
            await asyncio.sleep(pace)
