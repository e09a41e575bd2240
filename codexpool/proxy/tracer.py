"""Record requests and attempts in traces."""

from __future__ import annotations

import logging
import time

from mitmproxy import http

from codexpool.common.addresses import address_of
from codexpool.common.tasks import harmless
from codexpool.pool.identity import Asked, Identity
from codexpool.pool.pool import Pool
from codexpool.pool.reasons import LOOKED_AROUND, candidacies
from codexpool.pool.recovery import Look, LookUp, Pause, Renew, Wait
from codexpool.pool.verdict import Answer, classify
from codexpool.protocol import routes
from codexpool.protocol.headers import first_values
from codexpool.protocol.routes import Policy, Route
from codexpool.proxy.exchange import Exchange, asked_of, route_of
from codexpool.proxy.held_answers import read
from codexpool.traces.history import History
from codexpool.traces.trace import METADATA, AttemptTrace, Trace

logger = logging.getLogger("codexpool")

GOOD = classify(Answer(200))
NAMES_SHOWN = 5
WORTH_TELLING = 0.01  # Seconds of a look-up: every new session has one.


def begun(
    flow: http.HTTPFlow, route: Route, asked: Asked, source: str | None, is_upgrade: bool, member: str = ""
) -> Trace:
    """Begin the trace of a request from its headers, and attach it to the flow."""
    trace = _trace(flow, route, asked, source, is_upgrade)
    trace.member = member
    flow.metadata[METADATA] = trace
    return trace


def _trace(flow: http.HTTPFlow, route: Route, asked: Asked, source: str | None, is_upgrade: bool) -> Trace:
    data = flow.request.data
    method, path = data.method.decode("latin-1"), data.path.decode("latin-1")
    return Trace(
        flow.id,
        time.time(),
        address_of(flow.client_conn.peername),
        method,
        data.scheme.decode("latin-1"),
        data.host,
        path,
        route.policy,
        route.path,
        data.headers.fields,
        is_upgrade,
        session=asked.session,
        source=source,
        parent=asked.parent,
        model=asked.model,
    )


def attempted(pool: Pool, exchange: Exchange, identity: Identity, fingerprint: str, lighter: bool) -> AttemptTrace:
    """Add the trace of an attempt under the identity the pool just chose."""
    metadata, because = identity.metadata, pool.because
    assert metadata is not None
    candidates = None
    if because in LOOKED_AROUND or exchange.tries:
        refused = {attempt.name for attempt in exchange.tries}
        try:
            candidates = candidacies(pool, exchange.asked, refused, identity.name, time.time())
        except Exception:  # The request has its identity; only the explanation is missing.
            logger.exception("describing the candidates failed")
    trace = AttemptTrace(
        identity.name, identity.kind, fingerprint, metadata.account_id, metadata.origin, because, candidates, lighter
    )
    exchange.trace.attempts.append(trace)
    return trace


@harmless
def waited(trace: Trace, step: Wait | Pause | Renew | Look | LookUp, seconds: float) -> None:
    match step:
        case Wait():
            trace.waited("an identity to become ready", seconds)
        case Pause():
            trace.waited("a pause before another attempt", seconds)
        case Renew(identity):
            trace.waited(f"another token of {identity.name}", seconds)
        case Look(identities):
            names = ", ".join(identity.name for identity in identities[:NAMES_SHOWN])
            trace.waited(
                f"the backend's word on whether {names} {'is' if len(identities) == 1 else 'are'} still limited",
                seconds,
            )
        case LookUp() if seconds >= WORTH_TELLING:
            trace.waited("the state's word on whether another proxy serves the session", seconds)


@harmless
def over(history: History, flow: http.HTTPFlow, exchange: Exchange) -> None:
    """End the trace of a flow that has the client's answer, or ended in an error."""
    trace, response = exchange.trace, flow.response
    if exchange.ours:
        trace.replied(trace.message or (read(response).text.decode(errors="replace") if response is not None else ""))
    elif not trace.answered_by and response is not None:
        trace.answered_by = "backend" if exchange.is_answered else "another addon"
    if flow.error is not None:
        lost(history, flow, trace)
    elif response is not None:
        trace.bytes_in = trace.bytes_in or len(response.raw_content or b"")
        is_socket = response.status_code == 101 and flow.websocket is not None
        history.ended(trace, response.status_code, stays_open=is_socket)


def lost(history: History, flow: http.HTTPFlow, trace: Trace) -> None:
    """End the trace of a flow that ended in an error."""
    error = flow.error.msg if flow.error is not None else ""
    if trace.status == 101:
        history.socket_closed(trace, error)
    else:
        history.ended(trace, flow.response.status_code if flow.response is not None else None, error)


@harmless
def turned_away(history: History, flow: http.HTTPFlow, route: Route, reason: str, status: int = 503) -> None:
    """Record a request that was refused before it had an identity."""
    values = first_values(flow.request.headers.fields)
    asked, source = asked_of(values, routes.normalised(flow.request.path.partition("?")[0]))
    trace = begun(flow, route, asked, source, values.get(b"upgrade", b"").lower() == b"websocket")
    history.began(trace)
    trace.replied(reason)
    history.ended(trace, status)


def untouched(flow: http.HTTPFlow) -> Trace:
    """Make the trace of a finished request that codexpool did not touch."""
    request, response = flow.request, flow.response
    route = route_of(request, routes.AS_SHIPPED, routes.BACKEND_ONLY)
    if route.policy is not Policy.NEVER:
        route = route._replace(policy=Policy.OWN)  # Under an identity it would have a trace.
    asked, source = asked_of(first_values(request.data.headers.fields), request.path.partition("?")[0])
    trace = _trace(flow, route, asked, source, flow.websocket is not None)
    trace.at, trace.request_bytes = request.timestamp_start, len(request.raw_content or b"")
    if response is not None:
        trace.status, trace.answered_by = response.status_code, "backend"
        trace.bytes_in = len(response.raw_content or b"")
        for message in flow.websocket.messages if flow.websocket is not None else ():
            if message.from_client:
                trace.request_bytes += len(message.content)
            else:
                trace.bytes_in += len(message.content)
        trace.ended_at = response.timestamp_end
    trace.error = flow.error.msg if flow.error is not None else None
    return trace
