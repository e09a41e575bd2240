"""What each header of client and backend means, and whether its value may be shown.

The source is what the real client was observed to send and to read (docs/protocol.md, sections 3 and 7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class Value(Enum):
    """How the value of a header is shown."""

    PLAIN = "shown, without what looks like a secret in it"
    ID = "an id, shown if it looks like one"
    OPAQUE = "meaningful to its issuer only: shown as its length and fingerprint"
    CREDENTIAL = "a secret"


class Known(NamedTuple):
    """A header; ``means`` is a short sentence."""

    means: str
    value: Value = Value.PLAIN

    @property
    def is_plain(self) -> bool:
        return self.value in (Value.PLAIN, Value.ID)


KNOWN: Final[Mapping[str, Known]] = {
    # -- who asks
    "authorization": Known("The credential of the request.", Value.CREDENTIAL),
    "chatgpt-account-id": Known("The workspace that is charged; it has to be one of the credential's."),
    "x-openai-fedramp": Known("The workspace is a FedRAMP one; it has to be sent for those, and for no other."),
    "x-openai-account-routing-override": Known("The region in which the workspace's data must stay."),
    "x-openai-internal-codex-residency": Known("The region that the policy of the client's own workspace demands."),
    "openai-organization": Known("The organisation of the API platform; for API keys only."),
    "openai-project": Known("The project of the API platform; for API keys only."),
    "x-openai-actor-authorization": Known("A second credential, for acting on behalf of the user.", Value.CREDENTIAL),
    "x-openai-agent-assertion": Known("A second credential: what the client signs for its agent.", Value.CREDENTIAL),
    "x-oai-attestation": Known("Vouches for the device and the app; only the desktop app has it.", Value.CREDENTIAL),
    "cookie": Known("What the content network keeps in the client; none is of an account.", Value.CREDENTIAL),
    "statsig-api-key": Known("The client's key for metrics; the same for everybody.", Value.CREDENTIAL),
    "proxy-authorization": Known("The user and password for a proxy; the backend never sees it.", Value.CREDENTIAL),
    # -- which session
    "session-id": Known("The session; sub-agents share it."),
    "session_id": Known("The session, as older clients spell it."),
    "conversation_id": Known("The session, in old clients."),
    "thread-id": Known("The thread of the session; a sub-agent has one of its own."),
    "x-client-request-id": Known("The thread again: the client's own name for the request."),
    "x-codex-window-id": Known("The thread, and how often its history was compacted."),
    "x-codex-parent-thread-id": Known("The thread that started this sub-agent."),
    "x-codex-inference-call-id": Known("The client's own number of this call to the model."),
    "x-codex-installation-id": Known("The installation of the client, the same for all its sessions."),
    "x-codex-turn-metadata": Known("The installation, session, thread and turn, and what is asked for, as JSON."),
    "x-codex-turn-state": Known("Leads the requests of a turn to one server, for one account.", Value.OPAQUE),
    "x-openai-subagent": Known("Which kind of sub-agent asks (review, compact, …)."),
    "x-codex-guardian": Known("The request comes from the guardian that reviews commands."),
    "x-openai-memgen-request": Known("The request creates memories; it is not a turn of the user."),
    # -- which client, and what it can
    "originator": Known("Which program of Codex asks."),
    "user-agent": Known("Program, version, system and terminal."),
    "version": Known("The client's version; decides which models it is offered."),
    "x-codex-beta-features": Known("Experimental features of the client."),
    "openai-beta": Known("Versions of experimental interfaces, such as the WebSocket."),
    "x-codex-routing-hint": Known("The model and tier that the body asks for; leaving it out is not neutral."),
    "x-openai-internal-codex-responses-lite": Known("The model is asked by the leaner form of the request."),
    "x-responsesapi-include-timing-metrics": Known("Asks for times in the events of the answer."),
    "oai-product-sku": Known("The product that asks for plugins."),
    "x-openai-product-sku": Known("The product that asks for connectors."),
    "traceparent": Known("The trace that the request belongs to (W3C Trace Context).", Value.ID),
    "tracestate": Known("More of the trace, for its vendors (W3C Trace Context)."),
    "mcp-protocol-version": Known("The version of MCP."),
    "mcp-session-id": Known("The session with an MCP server; knowing it is enough to use it.", Value.CREDENTIAL),
    # -- how it is sent
    "host": Known("The host that is asked; where the workspace is served from."),
    ":authority": Known("The host that is asked, over HTTP/2."),
    "accept": Known("The form of answer that is asked for; the model answers in text/event-stream."),
    "accept-encoding": Known("The compressions that the client understands."),
    "accept-language": Known("The languages that are preferred in answers."),
    "content-type": Known("The form of the body."),
    "content-encoding": Known("How the body is compressed; Codex sends zstd."),
    "content-length": Known("The bytes of the body."),
    "transfer-encoding": Known("The body is sent in pieces, and its length is not known before."),
    "te": Known("Whether trailers are understood."),
    "connection": Known("Options of the connection; part of the WebSocket handshake."),
    "upgrade": Known("The protocol to go on with: websocket."),
    "cache-control": Known("Whether an answer may be, or was, stored on the way."),
    "origin": Known("The page that asks; a browser's."),
    "referer": Known("The page that led here; a browser's."),
    "if-none-match": Known("Asks only for what is newer than this.", Value.ID),
    "sec-websocket-key": Known("Proves that the answer belongs to this handshake; not a secret.", Value.OPAQUE),
    "sec-websocket-accept": Known("The answer to sec-websocket-key.", Value.OPAQUE),
    "sec-websocket-version": Known("The version of the WebSocket protocol."),
    "sec-websocket-extensions": Known("How the messages of the socket are compressed."),
    "sec-websocket-protocol": Known("The protocol on the socket; some clients send a key here.", Value.CREDENTIAL),
    # -- what came back
    "x-request-id": Known("The backend's name for the request; the one that its support asks for.", Value.ID),
    "x-oai-request-id": Known("The backend's name for the request.", Value.ID),
    "cf-ray": Known("The content network's name for the request, and where it was taken.", Value.ID),
    "cf-mitigated": Known("Answered by the content network: about the address, not the credential."),
    "cf-cache-status": Known("Whether the content network answered from its cache."),
    "openai-model": Known("The model that has really answered."),
    "openai-version": Known("The version of the interface that has answered."),
    "openai-processing-ms": Known("The milliseconds that the backend took."),
    "x-openai-authorization-error": Known("Why a credential was refused; the client shows it."),
    "x-error-json": Known("The error as JSON in base64: all that a WebSocket client sees of it."),
    "retry-after": Known("The seconds, or the time, after which to ask again."),
    "retry-after-ms": Known("The milliseconds after which to ask again."),
    "x-should-retry": Known("Whether a retry may help."),
    "x-models-etag": Known("The version of the list of models; a new one makes the client fetch it.", Value.ID),
    "x-reasoning-included": Known("The tokens of earlier reasoning are counted already."),
    "x-codex-active-limit": Known("The limit that applied to the request."),
    "x-codex-plan-type": Known("The plan of the account."),
    "x-codex-credits-has-credits": Known("Whether the account has credits to use after a limit."),
    "x-codex-credits-unlimited": Known("Whether those credits are unlimited."),
    "x-codex-credits-balance": Known("How many credits are left."),
    "x-codex-rate-limit-reached-type": Known("Which limit is used up: the user's or the workspace's."),
    "x-codex-promo-message": Known("A message of the backend that the client shows."),
    "x-codex-safety-buffering-enabled": Known("The answer is held back until it has been checked."),
    "x-codex-safety-buffering-faster-model": Known("The model that would not be held back."),
    "set-cookie": Known("Cookies that the content network sets.", Value.CREDENTIAL),
    "etag": Known("The version of what was asked for.", Value.ID),
    "www-authenticate": Known("What kind of credential is asked for."),
    "proxy-authenticate": Known("What kind of credential a proxy asks for."),
    "location": Known("Where to go instead; the client does not, where its workspace is routed."),
    "date": Known("When the answer was made."),
    "server": Known("The server that answered: cloudflare is the content network in front of the backend."),
    "age": Known("The seconds that the answer has been in a store."),
    "vary": Known("What else decides about the answer."),
    "via": Known("The proxies on the way."),
    "report-to": Known("Where browsers report what went wrong."),
    "nel": Known("What browsers are to report."),
    "x-codexpool-message": Known("From codexpool itself: what it says where no body can be seen."),
}
"""The headers by their names in lower case; `known_header` also explains the headers of each limit."""

_LIMIT: Final = re.compile(
    r"x-(?P<limit>[a-z0-9-]+?)-(?:(?P<window>primary|secondary)-)?"
    r"(?P<what>used-percent|window-minutes|reset-at|reset-after-seconds|limit-name"
    r"|over-secondary-limit-percent|primary-over-secondary-limit-percent)"
)
_OF_A_LIMIT: Final = {
    "used-percent": "How much of it the account has used, in percent.",
    "window-minutes": "The length of its window, in minutes.",
    "reset-at": "When it resets, in unix seconds.",
    "reset-after-seconds": "The seconds until it resets.",
    "limit-name": "Its name.",
    "over-secondary-limit-percent": "How much more of it would be used than the longer one allows.",
}


def known_header(name: str) -> Known | None:
    """Return what a header means, ignoring case; None if it is unknown."""
    lower = name.lower()
    if (explained := KNOWN.get(lower)) is not None:
        return explained
    match = _LIMIT.fullmatch(lower)
    if match is None:
        return None
    limit = "the main limit" if match["limit"] == "codex" else f"the limit {match['limit']}"
    window = {"primary": ", its shorter window", "secondary": ", its longer window"}.get(match["window"] or "", "")
    what = _OF_A_LIMIT[match["what"].removeprefix("primary-")]
    return Known(f"Of {limit}{window}: {what[0].lower()}{what[1:]}")
