"""One request of a client: what it asks, its attempts, and the answer."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

from mitmproxy import http

from codexpool.common.addresses import household
from codexpool.members.register import Member
from codexpool.members.turn_queue import Slot
from codexpool.pool.identity import Asked, Identity, Metadata
from codexpool.pool.recovery import Outcome, Step, Steps
from codexpool.protocol import endpoints, headers, models
from codexpool.protocol.bounded_json import loads
from codexpool.protocol.inflate import UnreadableError, pieces
from codexpool.protocol.routes import MODELS, NO_BACKEND, Policy, Route, Routes
from codexpool.protocol.stream_events import Beginning, Reading
from codexpool.proxy.bodies import look
from codexpool.redaction import redact_text
from codexpool.tokens.bearer import Bearer
from codexpool.traces.trace import AttemptTrace, Trace

SESSION_HEADERS = (
    *(b"thread-id", b"session-id"),  # Codex's own.
    *(b"session_id", b"conversation_id", b"x-session-affinity", b"x-session-id", b"agent-session-id"),
)
"""The first one present names the session."""

MAY_NAME_SESSION = ("x-client-request-id", "x-codex-window-id")  # They do if they repeat.
SHORTEST_ID = 8  # Characters of their values: with shorter ones clients count, and another client counts the same.

NO_TURN = frozenset({MODELS, endpoints.ACCOUNTS_CHECK, endpoints.CONFIG_BUNDLE, endpoints.USAGE})

LONGEST_FOUND = 1_024  # Longest value, in bytes and with its name, to find in a body.
LONGEST_NAME = 200  # Characters of the name of a session or model; a longer one is replaced by its digest.
_TEXT_OF = rb'(?<!\\)"%b"\s*:\s*("(?:[^"\\]|\\.){1,900}")'  # Within a JSON string the quotes would be escaped.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
USER_AGENT = b"user-agent"
PARENT = b"x-codex-parent-thread-id"  # The header in which a sub-agent's request names the session that started it.
Address = tuple[bytes, str, int, bytes, bytes]  # Scheme, host, port, method and path of a request.


@dataclass(slots=True)
class Attempt:
    """One sending of a request under one identity.

    ``bearer`` and ``metadata`` are those of the moment it was decided, ``at`` is the unix second it left. The
    ``identity`` may have left the pool since, or have another token.
    """

    identity: Identity
    bearer: Bearer
    metadata: Metadata
    at: float
    trace: AttemptTrace
    lighter: bool = False  # Sent without its encrypted reasoning.
    body: bytes | None = None  # The body to send instead of the client's.
    is_prepared: bool = False  # The body was checked for what this identity cannot read.
    outcome: str = ""
    is_sent: bool = False
    secrets: tuple[str, ...] = ()  # What it was sent with, and an answer must not show.
    has_left: bool = False  # It had a connection: the backend may have received it.

    @property
    def name(self) -> str:
        """The name of its identity, which may change while it is under way."""
        return self.identity.name


@dataclass(slots=True)
class Incoming:
    """What has come back of the last attempt. Each attempt begins with a new one."""

    head_seen: bool = False  # Our hook saw the head. (If a hook of another addon raises, mitmproxy skips ours.)
    end_seen: bool = False  # Our hook saw the end: a whole answer, or an error.
    is_lost: bool = False  # The connection was lost before the client got anything.
    beginning: Beginning | None = None  # The first events of a stream, until it is passed on.
    reading: Reading | None = None  # Reads the answer as it is passed on.


@dataclass(slots=True)
class Exchange:
    """One request of a client, and what became of it so far."""

    policy: Policy
    address: Address  # What the policy was decided by; `Requests.outbound` notices if another addon changes it.
    asked: Asked
    client_account: str
    upgrade: bool
    trace: Trace
    member: Member | None = None
    version: str = ""  # Of the client, as it asks for the models with; empty if it does not say.
    slot: Slot | None = None  # Its slot among the turns under way.

    steps: Steps | None = None
    step: Step | Outcome | None = None  # What ``steps`` yielded last.
    looking_up: asyncio.Task[None] | None = None  # Ends when its session was looked up, or that took too long.
    tries: list[Attempt] = field(default_factory=list)
    go_again: bool = False  # The answer is dropped, and the request sent again.

    incoming: Incoming = field(default_factory=Incoming)
    ours: bool = False  # The answer is the proxy's, not the backend's.
    failure: http.Response | None = None  # Replaces an answer that has begun, once it is whole.

    @property
    def is_turn(self) -> bool:
        """Whether this is a model request. (On a WebSocket those are messages.)"""
        return self.asked.is_turn and not self.upgrade

    @property
    def is_answered(self) -> bool:
        """Whether an answer is the backend's to the last attempt, not the proxy's or another addon's."""
        return bool(self.tries) and not self.ours and self.attempt.is_sent

    @property
    def attempt(self) -> Attempt:
        return self.tries[-1]

    @property
    def session(self) -> str | None:
        return self.asked.session

    @property
    def named(self) -> str:
        """The session as a log may show it: a client can put anything there."""
        return session_shown(self.asked.session)


def route_of(request: http.Request, routes: Routes, hosts: frozenset[str]) -> Route:
    """Return the row of the path policy for a request as it would leave; ``hosts`` are those it applies to."""
    data = request.data
    if data.host.lower() not in hosts:
        return NO_BACKEND
    scheme, method, path = (text.decode("latin-1") for text in (data.scheme, data.method, data.path))
    return routes.route(scheme, data.host, data.port, method, path, hosts)


def address_of(request: http.Request) -> Address:
    """Return the address a request would be sent to now."""
    data = request.data
    return (data.scheme, data.host, data.port, data.method, data.path)


def asked_of(values: Mapping[bytes, bytes], path: str, client: str = "") -> tuple[Asked, str | None]:
    """Return what a request asks, by its headers, and the name of the header that named the session."""
    source = next((name for name in SESSION_HEADERS if values.get(name)), None)
    parent = values.get(PARENT)
    asked = Asked(
        bounded(values[source].decode("latin-1")) if source is not None else None,
        path,
        bounded(parent.decode("latin-1")) if parent else None,
        bounded(headers.model_of(values)),
        path not in NO_TURN,
        client=client,
    )
    return asked, source.decode() if source is not None else None


def client_of(values: Mapping[bytes, bytes], address: str) -> str:
    """Return what tells a client apart: its account, its address and its user agent."""
    account, agent = values.get(headers.ACCOUNT, b""), values.get(USER_AGENT, b"")
    return _client_named(address, account[:LONGEST_NAME], agent[:LONGEST_NAME])


@lru_cache(maxsize=256)
def _client_named(address: str, account: bytes, agent: bytes) -> str:
    return bounded(f"{household(address)} {account.decode('latin-1')} {agent.decode('latin-1')}")


def bounded(name: str) -> str:
    """Return a client's name for something, short enough to keep, and of characters that a database stores."""
    if len(name) <= LONGEST_NAME and not _UNSTORABLE.search(name):
        return name
    return "sha256:" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def of_whom(asked: Asked, member: Member | None, only: frozenset[str] | None) -> Asked:
    """Return what a request asks, with its session marked as that of a member or of a client without a key."""
    if member is None and "/" not in (asked.session or "") and "/" not in (asked.parent or ""):
        return asked
    session, parent = (None if key is None else session_of(key, member) for key in (asked.session, asked.parent))
    return asked._replace(session=session, parent=parent, only=only)


def session_of(key: str, member: Member | None) -> str:
    """Return the name of a session in the pool: only a member's own requests can reach its sessions."""
    if member is not None:
        return f"{member.name}/{key}"
    return f"/{key}" if "/" in key else key


def session_shown(session: str | None) -> str:
    """Return the name of a session as a log may show it."""
    return "-" if session is None else redact_text(session)


async def prompt_cache_key(request: http.Request) -> str | None:
    """Return the session of a client that sends no session header. Codex always sends one."""
    return await _value_in_body(request, "prompt_cache_key") or None


async def model_in_body(request: http.Request) -> str:
    """Return the model a request asks for, by its body; empty if that cannot be read."""
    return await _value_in_body(request, "model")


async def _value_in_body(request: http.Request, name: str) -> str:
    body, encoding = request.raw_content or b"", request.headers.get("content-encoding", "")
    try:
        return bounded(await look(partial(_first_value, name), body, encoding))
    except UnreadableError:
        return ""


def _first_value(name: str, body: bytes, encoding: str, most: int) -> str:
    """Return the first string of that name in a body, without parsing the body: it may be long."""
    before = b""
    for piece in pieces(body, encoding, most):
        text = before + piece
        if (match := re.search(_TEXT_OF % name.encode(), text)) is not None:
            try:
                return str(loads(match[1]))
            except ValueError:
                return ""
        before = text[-LONGEST_FOUND:]
    return ""


def replace_response(flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
    """Give the client an answer of the proxy."""
    exchange.ours = True
    exchange.go_again = False
    flow.response = response


def version_of(values: Mapping[bytes, bytes], query: str, asked: Asked) -> str:
    """Return the version of a request's client: for the list of models the one that the query asks with."""
    if asked.path == MODELS:
        return models.version_asked(query)
    return _version(values.get(b"version", b"")[:LONGEST_NAME])


@lru_cache(maxsize=256)
def _version(value: bytes) -> str:
    return models.whole_version(value.decode("latin-1"))


SERVED, SENT_AGAIN, NOT_SERVED = ":heavy_check_mark:", ":leftwards_arrow_with_hook:", ":heavy_multiplication_x:"
"""Markers in mitmproxy's flow lists: single characters, one column wide, which every terminal and browser shows."""


def comment(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Show in the flow list which identity served, and after how many attempts."""
    refusals = "; ".join(f"{a.name}: {a.outcome}" for a in exchange.tries if a.outcome)
    if exchange.ours:
        flow.marked = NOT_SERVED
        text = f"no identity served after {len(exchange.tries)} attempts"
    else:
        flow.marked = SERVED if len(exchange.tries) == 1 else SENT_AGAIN
        text = f"{exchange.attempt.name}, attempt {len(exchange.tries)}"
    flow.comment = f"codexpool: {text}" + (f" ({refusals})" if refusals else "")
