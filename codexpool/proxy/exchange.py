"""One request of a client, with all its attempts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from mitmproxy import http

from codexpool.members.register import Member
from codexpool.members.turn_queue import Slot
from codexpool.pool.identity import Asked, Metadata
from codexpool.pool.recovery import Outcome, Step, Steps
from codexpool.protocol import endpoints, headers, routes
from codexpool.protocol.bounded_json import loads
from codexpool.protocol.inflate import UnreadableError, pieces
from codexpool.protocol.routes import MODELS, Policy
from codexpool.protocol.stream_events import Beginning, Reading
from codexpool.proxy.bodies import look
from codexpool.redaction import redact_text
from codexpool.tokens.bearer import Bearer
from codexpool.traces.trace import AttemptTrace, Trace

SESSION_HEADERS = (b"thread-id", b"session-id", b"session_id")
"""Where a request names its conversation; the first that is there counts."""

NO_TURN = frozenset({MODELS, endpoints.ACCOUNTS_CHECK, endpoints.CONFIG_BUNDLE, endpoints.USAGE})

LONGEST_FOUND = 1_024
"""Bytes of a text that is looked for in a body, with its name."""

LONGEST_NAME = 200
"""Characters of a name of a session or a model; of a longer one its digest counts. It is remembered."""

_TEXT_OF = rb'(?<!\\)"%b"\s*:\s*("(?:[^"\\]|\\.){1,900}")'
"""Within a text of JSON the quotes would be escaped."""

PARENT = b"x-codex-parent-thread-id"
"""Where a sub-agent's request names the session that has started it."""

Address = tuple[bytes, str, int, bytes, bytes]
"""Scheme, host, port, method and path of a request."""


@dataclass(slots=True)
class Attempt:
    """One sending under one identity.

    Bearer and metadata are those of the moment it was decided, ``at`` is the unix second at which it left.
    """

    name: str
    bearer: Bearer
    metadata: Metadata
    at: float
    trace: AttemptTrace
    lighter: bool = False
    """Without its encrypted reasoning."""
    body: bytes | None = None
    """What leaves in place of the client's body."""
    is_prepared: bool = False
    """It was looked whether anything is to be left out of the body."""
    outcome: str = ""
    is_sent: bool = False
    has_left: bool = False
    """The connection was there: from then on the backend may have it."""


@dataclass(slots=True)
class Exchange:
    """One request of a client, and what became of it so far."""

    policy: Policy
    address: Address
    """What the policy was decided by: an addon that changes it afterwards is noticed."""
    asked: Asked
    client_account: str
    upgrade: bool
    trace: Trace
    steps: Steps | None = None
    step: Step | Outcome | None = None
    """The last word of ``steps``; None before the first."""
    tries: list[Attempt] = field(default_factory=list)
    go_again: bool = False
    ours: bool = False
    """The answer is one of ours, not the backend's."""
    failure: http.Response | None = None
    """What the client gets in place of an answer that has begun, once that is whole."""
    beginning: Beginning | None = None
    """The first pieces of a stream, until it is passed on."""
    is_lost: bool = False
    """The connection was lost, and nothing was passed on."""
    head_seen: bool = False
    """We have seen the head of the last answer. (Where a hook of another addon raises, mitmproxy skips ours.)"""
    end_seen: bool = False
    """And its end, be it an answer or an error."""
    member: Member | None = None
    """Whose key it came with."""
    slot: Slot | None = None
    """Its place among the turns that are under way."""
    reading: Reading | None = None
    """What reads its answer as that passes by."""
    probe: str = ""
    """It only asks what would be done with it."""

    @property
    def is_turn(self) -> bool:
        """Whether it is a request for the model. (On a WebSocket those are messages, which come later.)"""
        return self.asked.is_turn and not self.upgrade

    @property
    def is_answered(self) -> bool:
        """Whether an answer that comes is the backend's, to the last attempt: not ours, nor another addon's."""
        return bool(self.tries) and not self.ours and self.attempt.is_sent

    @property
    def attempt(self) -> Attempt:
        return self.tries[-1]

    @property
    def session(self) -> str | None:
        return self.asked.session

    @property
    def named(self) -> str:
        """The session as a log may name it: a client can put anything there."""
        return said_of(self.asked.session)


def policy_of(request: http.Request, hosts: frozenset[str]) -> Policy:
    """Return the path policy for a request as it would leave; ``hosts`` are those that the policy is for."""
    data = request.data
    if data.host.lower() not in hosts:
        return Policy.NEVER
    scheme, method, path = (text.decode("latin-1") for text in (data.scheme, data.method, data.path))
    return routes.policy(scheme, data.host, data.port, method, path, hosts)


def address_of(request: http.Request) -> Address:
    """Where a request would leave for now."""
    data = request.data
    return (data.scheme, data.host, data.port, data.method, data.path)


def asked_of(values: Mapping[bytes, bytes], path: str) -> tuple[Asked, str | None]:
    """What a request is about, as its headers say it; and which of them named the session."""
    source = next((name for name in SESSION_HEADERS if values.get(name)), None)
    parent = values.get(PARENT)
    asked = Asked(
        bounded(values[source].decode("latin-1")) if source is not None else None,
        path,
        bounded(parent.decode("latin-1")) if parent else None,
        bounded(headers.model_of(values)),
        path not in NO_TURN,
    )
    return asked, source.decode() if source is not None else None


def bounded(name: str) -> str:
    """A name that a client has made up, as it may be remembered."""
    if len(name) <= LONGEST_NAME:
        return name
    return "sha256:" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def of_whom(asked: Asked, member: Member | None, only: frozenset[str] | None) -> Asked:
    """What a request is about that comes from a member, or from somebody without a key."""
    if member is None and "/" not in (asked.session or "") and "/" not in (asked.parent or ""):
        return asked
    session, parent = (None if key is None else session_of(key, member) for key in (asked.session, asked.parent))
    return asked._replace(session=session, parent=parent, only=only)


def session_of(key: str, member: Member | None) -> str:
    """What a session goes by that a client calls so: nobody can name a session of a member but that one."""
    if member is not None:
        return f"{member.name}/{key}"
    return f"/{key}" if "/" in key else key


def said_of(session: str | None) -> str:
    """The name of a session as it may be seen."""
    return "-" if session is None else redact_text(session)


async def prompt_cache_key(request: http.Request) -> str | None:
    """The conversation of a client that sends none of the headers. Codex itself never comes to this."""
    return await _said_in_body(request, "prompt_cache_key") or None


async def model_in_body(request: http.Request) -> str:
    """The model that a request asks, as its body says it; empty where that cannot be read."""
    return await _said_in_body(request, "model")


async def _said_in_body(request: http.Request, name: str) -> str:
    body, encoding = request.raw_content or b"", request.headers.get("content-encoding", "")
    try:
        return bounded(await look(partial(_first_text, name), body, encoding))
    except UnreadableError:
        return ""


def _first_text(name: str, body: bytes, encoding: str, most: int) -> str:
    """The first text of that name in a body. That may be long, and is not parsed for it."""
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
    """Have the client get an answer of ours."""
    exchange.ours = True
    exchange.go_again = False
    flow.response = response


MARKS = {1: ":one:", 2: ":two:", 3: ":three:"}


def comment(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Say in the flow list which identity served, and after how many attempts."""
    refusals = "; ".join(f"{a.name}: {a.outcome}" for a in exchange.tries if a.outcome)
    if exchange.ours:
        flow.marked = ":x:"
        text = f"nobody served after {len(exchange.tries)} attempts"
    else:
        flow.marked = MARKS.get(len(exchange.tries), ":asterisk:")
        text = f"{exchange.attempt.name}, attempt {len(exchange.tries)}"
    flow.comment = f"codexpool: {text}" + (f" ({refusals})" if refusals else "")
