"""Judge answers of the backend, and have the pool learn from them.

A response, a WebSocket frame and an event of a stream all become a `BackendAnswer`, which the one table of
`codexpool.pool.verdict` judges.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mitmproxy import http

from codexpool.pool.causes import Cause
from codexpool.pool.identity import Asked, Evidence, Kind, clock
from codexpool.pool.pool import Pool
from codexpool.pool.states import LONGEST_RETRY_AFTER, SHORTEST_REST
from codexpool.pool.usage import MAIN, Limit, Window
from codexpool.pool.verdict import LIMIT_CODES, Answer, Finding, Verdict, classify, named_model
from codexpool.protocol import frames, rate_limits
from codexpool.protocol.errors import code_and_message, details_in, document_of, error_in
from codexpool.protocol.headers import first_values
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.routes import MODELS, route_of
from codexpool.proxy.exchange import Attempt, Exchange
from codexpool.proxy.held_answers import is_page
from codexpool.redaction import redact_header, redact_text
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class BackendAnswer(NamedTuple):
    """An answer over HTTP, in a frame or in an event; ``values`` are its headers, by lower-case name."""

    status: int
    values: Mapping[bytes, bytes] = {}
    code: str = ""
    message: str = ""
    error: Mapping[str, Any] = {}
    html: bool = False

    @property
    def request_id(self) -> str:
        return self.values.get(b"x-request-id", b"").decode("latin-1")


LOST = BackendAnswer(0, message="the connection was lost before the first byte")


def of_response(response: http.Response, body: bytes) -> BackendAnswer:
    """Read a held response, with its decoded ``body``."""
    values = first_values(response.headers.fields)
    received = _refusal(response.status_code, values, response.headers, document_of(body))
    return received._replace(html=is_page(response, body))


def of_frame(frame: Mapping[str, Any]) -> BackendAnswer:
    """Read an error frame as the HTTP answer with its status, headers and body."""
    values = frames.headers_of(frame)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in values.items()}
    body = {name: value for name, value in frame.items() if name != "type"}
    return _refusal(frames.status_of(frame), values, headers, body)


def _refusal(status: int, values: Mapping[bytes, bytes], headers: Mapping[str, str], body: Any) -> BackendAnswer:
    code, message = error_in(headers, body)
    error = details_in(headers, body)
    return BackendAnswer(status, values, _limit(error) or code, message, error)


def of_failure(error: Mapping[str, Any]) -> BackendAnswer | None:
    """Read the failure of an answer that began with a 200; None if the pool has nothing to do about it.

    Limits have the same codes as in a 429, and a model the account does not have the same words as in a 400.
    """
    code, message = code_and_message({"error": error})
    code = _limit(error) or code
    if named_model(message) is not None:
        return BackendAnswer(400, {}, code, message, error)
    return BackendAnswer(429, {}, code, message, error) if code in (*LIMIT_CODES, "rate_limit_exceeded") else None


def of_event(event: Mapping[str, Any]) -> BackendAnswer | None:
    """Read the failure in an event of a stream; None if the pool has nothing to do about it."""
    if event.get("type") == frames.FAILED:
        return of_failure(frames.failure_of(event))
    return of_frame(event) if 400 <= frames.status_of(event) < 600 else None


def _limit(error: Mapping[str, Any]) -> str:
    """Return the type of a limit's error: the client goes by that, not by its code."""
    kind = error.get("type")
    return kind if isinstance(kind, str) and kind in LIMIT_CODES else ""


def judge(
    pool: Pool,
    asked: Asked,
    attempt: Attempt,
    method: str,
    received: BackendAnswer,
    *,
    repeatable: bool,
    lightens: bool,
) -> tuple[Verdict, Evidence]:
    """Return the verdict on the answer to an attempt, and the evidence for it."""
    identity = pool.identities.get(attempt.name)
    answer = Answer(
        received.status,
        kind=Kind.PAT if identity is None else identity.kind,
        current=identity is None or identity.fingerprint == attempt.bearer.fingerprint,
        from_edge=received.html or b"cf-mitigated" in received.values,
        code=received.code,
        message=received.message,
        repeatable=repeatable,
        lightens=lightens,
        side=asked.is_side,
        is_usage=asked.is_usage,
        own=pool.states.causes.is_own(_cause(asked, received), attempt.bearer.fingerprint, time.time()),
    )
    evidence = Evidence(
        time.time(),
        method,
        redact_text(asked.path),
        received.status,
        redact_text(received.code),
        redact_header("x-request-id", received.request_id),
        attempt.bearer.fingerprint,
        note="" if received.status else received.message,
    )
    return classify(answer), evidence


def counts_for_a_model(
    keeper: Keeper, asked: Asked, attempt: Attempt, received: BackendAnswer, verdict: Verdict
) -> bool:
    """Return whether `learn` needs the model that was asked for."""
    if verdict.finding in (Finding.LIMITED, Finding.THROTTLED):
        return keeper.pool.states.causes.is_own(_cause(asked, received), attempt.bearer.fingerprint, time.time())
    return verdict.finding is Finding.NOT_FOR_THIS_MODEL


def learn(
    keeper: Keeper,
    asked: Asked,
    attempt: Attempt,
    received: BackendAnswer,
    verdict: Verdict,
    evidence: Evidence,
    model: Callable[[], str] | None = None,
) -> None:
    """Have the pool learn from an answer.

    ``model`` returns the model named in the request's body. The header that names one is only a hint: a client can
    put anything there.
    """
    pool, name, at = keeper.pool, attempt.name, evidence.at
    cause = _cause(asked, received)
    is_own = pool.states.causes.is_own(cause, attempt.bearer.fingerprint, at)
    pool.states.causes.seen(cause, at)
    learn_limits(keeper, asked, attempt, received.values)
    match verdict.finding:
        case Finding.REFUSED:
            pool.states.refused(name, evidence, attempt.at, cause)
        case Finding.NOT_FOR_THIS_CREDENTIAL:
            if pool.not_for_endpoint(name, asked.path, evidence, cause=cause):
                logger.warning("%s: %s; its token is not used for this path for a while", name, evidence)
        case Finding.NOT_FOR_THIS_MODEL:
            asks = model() if model is not None else asked.model
            if asks and named_model(received.message) == asks and pool.not_for_model(name, asks, evidence):
                logger.warning("%s: its account does not have the model %s: %s", name, redact_text(asks), evidence)
        case Finding.NOT_ON_THIS_ENDPOINT:
            until, is_limit = _ends(received, at), received.code in LIMIT_CODES
            if pool.not_for_endpoint(name, asked.path, evidence, until=until, is_limit=is_limit, cause=cause):
                logger.warning("%s: %s; it is not used for this path for a while", name, evidence)
        case Finding.UNCLEAR:
            logger.warning("%s: %s; the reason is unknown, trying one other identity", name, evidence)
            pool.states.doubted(name, evidence, cause)
        case Finding.OWN if is_own:
            text = "%s: %s; other identities were refused for the same reason, so the request itself is the cause"
            logger.warning(text, name, evidence)
        case Finding.EDGE:
            origin = attempt.metadata.origin
            pause = pool.edges.turned_away(origin, at)
            text = "%s: a page of the content delivery network, not the backend (%s); no requests to %s for %.0f s"
            logger.warning(text, name, evidence, origin, pause)
        case Finding.WORKSPACE:
            pool.states.workspace_closed(name, evidence, cause)
        case Finding.LIMITED | Finding.THROTTLED if is_own:
            is_limit = verdict.finding is Finding.LIMITED
            asks, until = model() if model is not None else asked.model, _ends(received, at)
            if asks and pool.limited_for_model(name, asks, evidence, until, is_limit=is_limit):
                text = "%s: %s; other identities were refused for the same reason, so it counts for the model"
                logger.warning(text, name, evidence)
        case Finding.LIMITED:
            limit = Limit(_family(keeper, asked, received.values), *rate_limits.reset_of(received.error))
            until = pool.states.limited(name, attempt.metadata.key, limit, evidence, cause)
            keeper.saw_usage(attempt.metadata.key)
            if limit.family != MAIN:
                logger.info("%s is limited for %s until %s: %s", name, limit.family, clock(until, at), evidence)
        case Finding.THROTTLED:
            after = rate_limits.retry_after(received.values, received.message, at)
            pool.states.throttled(name, evidence, after, cause)
        case Finding.UPSTREAM if not asked.is_usage:
            pool.troubled(name, at)
        case _:
            pass


def _cause(asked: Asked, received: BackendAnswer) -> Cause:
    return Cause.of(asked, str(received.status))


def _ends(received: BackendAnswer, at: float) -> float | None:
    """Return the unix second at which a limit ends; None if the refusal does not say."""
    if (ends := Limit(MAIN, *rate_limits.reset_of(received.error)).ends(at)) is not None:
        return ends
    after = rate_limits.retry_after(received.values, received.message, at) if received.status == 429 else None
    return at + min(max(after, SHORTEST_REST), LONGEST_RETRY_AFTER) if after is not None else None


def learn_limits(keeper: Keeper, asked: Asked, attempt: Attempt, values: Mapping[bytes, bytes]) -> None:
    """Learn what the headers of an answer say about limits."""
    if (family := rate_limits.active(values)) is not None:
        keeper.learn_family(asked.model, family)
    learn_gauges(keeper, attempt, rate_limits.of_headers(values, time.time()))


def learn_gauges(keeper: Keeper, attempt: Attempt, gauges: Iterable[Gauge]) -> None:
    """Learn how much of its limits an account has used."""
    at, usage = time.time(), None
    for gauge in gauges:
        usage = usage or keeper.pool.states.usage(attempt.metadata.key)
        usage.see(Window(gauge.family, gauge.minutes, gauge.used_percent, gauge.resets_at, at))
    if usage is not None:
        keeper.saw_usage(attempt.metadata.key)


def list_shown(keeper: Keeper, exchange: Exchange, etag: str) -> bytes | None:
    """Return the etag of the list of models that a client gets; None if it gets a single identity's, or its own.

    ``etag`` is the one that an answer names: if it is news, the list of its identity is read again.
    """
    if exchange.version:
        keeper.models.answer_names(exchange.attempt.name, exchange.version, etag)
    is_ours = route_of("GET", MODELS, keeper.config.routes).policy.swaps
    catalogue = keeper.pool.catalogue(exchange.asked, exchange.version) if is_ours else None
    return catalogue.etag.encode() if catalogue is not None else None


def _family(keeper: Keeper, asked: Asked, values: Mapping[bytes, bytes]) -> str:
    """Return the limit a refusal is about; the main one if the client does not name a model."""
    return (rate_limits.active(values) or keeper.pool.family_of(asked)) if asked.model else MAIN
