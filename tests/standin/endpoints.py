"""The endpoints of the backend that Codex uses."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import unquote

from codexpool.protocol.endpoints import NO_CONSTRAINT
from tests.standin.agents import Agents, is_for_agents
from tests.standin.agents import refused as refused_agent
from tests.standin.answers import (
    Event,
    MalformedError,
    answer_text,
    encrypted_owners,
    failing,
    generation,
    parse_generation,
    prewarmed,
)
from tests.standin.authapi import AuthApi
from tests.standin.coding import accepted, compressed
from tests.standin.credits import Credits
from tests.standin.exchange import Reply, Request, error_body, nothing_here
from tests.standin.faults import Answer
from tests.standin.limits import Limits, hinted_model
from tests.standin.models import model_headers, model_list, refuse_model
from tests.standin.paths import AUTH_HOST, COMPACT, LENT, MCP, PLAIN, POOLS_OWN, RESPONSES, SWAPPED, WHOAMI
from tests.standin.tokens import (
    DISCOVERY,
    MODELS,
    UNROUTED,
    Refusal,
    Token,
    refuse_bearer,
    refuse_headers,
    refuse_swap,
    refuse_turn_state,
    refused,
    turn_state,
)
from tests.standin.tools import Conversation

Encrypted = Literal["none", "portable", "bound"]
"""Whether answers carry encrypted reasoning, and whether another account takes it back (``bound``: 400)."""

NO_FAMILIES: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class Style:
    """The form of generated answers: number of pieces, and seconds between events."""

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
    """The endpoints and the known tokens.

    Args:
        pool: the tokens that may arrive on swapped paths.
        clients: the tokens that may arrive on all others.
        websockets: whether upgrades are served; otherwise they are answered 426.
        deltas, pace: pieces of a model's answer, and the seconds between two events.
        encrypted: see ``Encrypted``.
        compress: the content-encoding of every stream of events; empty for one that the request accepts, if any.
        families: the limit id of each model (slug) that has a limit of its own.
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
        families: Mapping[str, str] = NO_FAMILIES,
        compress: str = "",
    ) -> None:
        self.compress = compress
        self.pool = {token.token: token for token in pool}
        self.clients = {token.token: token for token in clients}
        self._auth = AuthApi(self)
        self.agents = Agents()
        self.refresh_tokens = self._auth.refresh_tokens
        self.devices = self._auth.devices
        self.limits = Limits(families)
        self.credits = Credits(self.limits)
        self.websockets = websockets
        self.style = Style(deltas, pace)
        self.encrypted = encrypted
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    @property
    def refreshes(self) -> int:
        """Return the number of requests to the token endpoint."""
        return self._auth.refreshes

    def known(self, bearer: str) -> Token | None:
        """Return the token of a bearer, of the pool or a client."""
        return self.pool.get(bearer) or self.clients.get(bearer)

    def secrets(self) -> list[str]:
        """Return the pool's tokens that no client has as its own login."""
        with self._lock:
            return [token for token in self.pool if token not in self.clients]

    def learn(self, token: Token, *, pool: bool, client: bool) -> None:
        """Add a token of the pool or of a client (or of both, if there is no proxy)."""
        with self._lock:
            self.pool |= {token.token: token} if pool else {}
            self.clients |= {token.token: token} if client else {}

    def admitted(self, request: Request) -> str:
        """Return the token in Authorization, if it is allowed on this path."""
        if request.host == AUTH_HOST:
            return request.bearer if request.path == WHOAMI else ""
        token = self.pool.get(request.bearer)
        at_home = token is not None and (request.host == token.host or request.path in UNROUTED)
        path = unquote(request.path)
        return request.bearer if at_home and (SWAPPED.fullmatch(path) or _is_lent(request, path)) else ""

    def refusal(self, request: Request) -> Refusal | None:
        """Return the rule that a request breaks. A dead token breaks none."""
        if refusal := refuse_headers(request.headers):
            return refusal
        path = unquote(request.path)
        if is_for_agents(path):
            return self.agents.refusal(request)
        if request.host == AUTH_HOST or not path.startswith("/backend-api/"):
            return None
        if SWAPPED.fullmatch(path) or (_is_lent(request, path) and request.bearer in self.pool):
            return refuse_swap(request, self.pool)
        return refuse_bearer(request, self.clients, "a client")

    def reply(self, request: Request, answer: Answer | None) -> Reply:
        """Answer a request that breaks no rule. ``answer`` can change a generated one.

        Raises MalformedError.
        """
        path = unquote(request.path)
        if (reply := self.agents.reply(request)) is not None:
            return reply
        if request.host == AUTH_HOST:
            return self._auth.reply(request)
        token = self.known(request.bearer)
        if token is None or not path.startswith("/backend-api/"):
            # Metrics (ab.chatgpt.com) and whatever else is sent without a login.
            return Reply.of_json({}) if request.host == "ab.chatgpt.com" else nothing_here()
        if request.code:
            return refused_agent(request)
        if not token.is_good:
            return refused(token)
        if SWAPPED.fullmatch(path):
            return self._swapped(request, path, token, answer)
        if path == MCP and request.method == "POST":
            return _mcp(request)
        if reply := self._of_account(request, path, token):
            return reply
        return Reply.of_json(PLAIN[path]) if path in PLAIN else nothing_here()

    def events(
        self, token: Token, number: int, data: dict[str, Any], talk: Conversation, answer: Answer | None
    ) -> Iterable[Event]:
        """Return the events of a model's answer: ``answer from <name>, request <n>``, and the word of an ``echo:``.

        ``talk`` is the conversation including the request ``data``.
        """
        response_id = f"resp_{next(self._ids)}"
        if data.get("generate") is False:
            events = prewarmed(response_id, data["model"])
        else:
            self.limits.spend(token)
            text = answer_text(token.name, number, talk.prompt)
            events = generation(
                response_id,
                data["model"],
                text,
                self.style.changed_by(answer).deltas,
                encrypted=None if self.encrypted == "none" else f"enc:{token.account_id}:{response_id}",
                call=talk.next_call(response_id, text),
            )
        if answer is None or not answer.fail:
            return events
        return failing(events, {"code": answer.fail, "message": answer.fail_message}, answer.fail_after)

    def refuse_generation(self, data: dict[str, Any], token: Token) -> Reply | None:
        """Return the refusal for a model, a limit, or reasoning that was issued to another account."""
        if reply := refuse_model(token, data["model"]) or self.limits.refusal(token, data["model"]):
            return reply
        refusal = self._refuse_foreign(data, token)
        return Reply.of_json(error_body(refusal.code, refusal.reason), refusal.status) if refusal else None

    def _refuse_foreign(self, data: dict[str, Any], token: Token) -> Refusal | None:
        if self.encrypted == "bound" and (owners := encrypted_owners(data) - {token.account_id}):
            return Refusal(
                400, "invalid_encrypted_content", f"encrypted content of {sorted(owners)}, not of {token.account_id}"
            )
        metadata = data.get("client_metadata")
        sent = metadata.get("x-codex-turn-state") if isinstance(metadata, dict) else None
        return refuse_turn_state(sent, token)

    def _swapped(self, request: Request, path: str, token: Token, answer: Answer | None) -> Reply:
        if path == DISCOVERY:
            return Reply.of_json(discovery(token))
        if path == MODELS:
            return model_list(request, token)
        if path == RESPONSES and request.transport == "websocket":
            return self._upgrade(request, token)
        if path == RESPONSES and request.method == "POST":
            return self._generate(request, token, answer)
        if path == COMPACT:
            data = parse_generation(request.body)
            reply = refuse_model(token, data["model"]) or self.limits.refusal(token, data["model"])
            return reply or Reply.of_json({"output": data["input"][-1:]})
        limited = self.limits.refusal(token, hinted_model(request))
        return limited or Reply.of_json({"path": path, "name": token.name})

    def _of_account(self, request: Request, path: str, token: Token) -> Reply | None:
        match request.method, path.removeprefix("/backend-api/wham/"):
            case "GET", "usage":
                return Reply.of_json(self.limits.usage(token, len(self.credits.available(token))))
            case "GET", "rate-limit-reset-credits":
                return self.credits.listing(token)
            case "POST", "rate-limit-reset-credits/consume":
                return self.credits.consume(request, token, [*self.pool.values(), *self.clients.values()])
        return None

    def _upgrade(self, request: Request, token: Token) -> Reply:
        if not self.websockets:
            return Reply.of_json(error_body("upgrade_required", "no WebSocket here"), 426)
        model = hinted_model(request)
        headers = [*self.limits.headers(token, model), *model_headers(token)]
        return self.limits.refusal(token, model) or Reply(101, headers)

    def _generate(self, request: Request, token: Token, answer: Answer | None) -> Reply:
        data = parse_generation(request.body)
        if data.get("stream", True) is not True or "previous_response_id" in data:
            raise MalformedError("over HTTP, stream must not be false and previous_response_id not be there")
        talk = Conversation().continued(data)
        if refusal := self.refuse_generation(data, token):
            return refusal
        number = request.seen.number
        headers = [
            ("content-type", "text/event-stream"),
            ("x-request-id", f"req-{number}"),
            ("x-codex-turn-state", turn_state(token, number)),
            *self.limits.headers(token, data["model"]),
            *model_headers(token),
        ]
        pace = self.style.changed_by(answer).pace
        stream = _server_sent(self.events(token, number, data, talk, answer), pace)
        if coding := self.compress or accepted(request.header("accept-encoding") or ""):
            headers.append(("content-encoding", coding))
            stream = compressed(stream, coding)
        return Reply(200, headers, stream)


def _is_lent(request: Request, path: str) -> bool:
    return LENT.fullmatch(path) is not None or (request.seen.by_pool and POOLS_OWN.fullmatch(path) is not None)


def discovery(token: Token) -> dict[str, Any]:
    """Return routing discovery for one token."""
    entry = {
        "id": token.account_id,
        "plan_type": token.plan,
        "structure": "workspace",
        "workspace_backend_origin": NO_CONSTRAINT if token.host == "chatgpt.com" else token.origin,
        "account_routing_override": token.routing_override,
    }
    return {"accounts": [entry], "default_account_id": token.account_id, "account_ordering": [token.account_id]}


def _mcp(request: Request) -> Reply:
    """Answer as an empty MCP server, so that the client does not report a missing one."""
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


async def _server_sent(events: Iterable[Event], pace: float) -> AsyncIterator[bytes]:
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        if pace:
            await asyncio.sleep(pace)
