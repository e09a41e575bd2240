"""What an answer of the backend means: from a response, a frame or an event to a verdict, and what the pool learns.

Whichever way it comes, an answer is judged here, by the one table of `codexpool.pool.verdict`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mitmproxy import http

from codexpool.pool.causes import Cause
from codexpool.pool.identity import Asked, Evidence, Kind, clock
from codexpool.pool.states import LONGEST_RETRY_AFTER, SHORTEST_REST
from codexpool.pool.usage import MAIN, Limit, Window
from codexpool.pool.verdict import LIMIT_CODES, Answer, Finding, Verdict, classify, named_model
from codexpool.protocol import frames, rate_limits
from codexpool.protocol.errors import code_and_message, details_in, document_of, error_in
from codexpool.protocol.headers import first_values
from codexpool.protocol.rate_limits import Gauge
from codexpool.proxy.exchange import Attempt
from codexpool.proxy.held_answers import is_page
from codexpool.redaction import redact_header, redact_text
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class Said(NamedTuple):
    """An answer, whichever way it came; ``values`` are its headers, by lower-case name."""

    status: int
    values: Mapping[bytes, bytes] = {}
    code: str = ""
    message: str = ""
    error: Mapping[str, Any] = {}
    html: bool = False

    @property
    def request_id(self) -> str:
        return self.values.get(b"x-request-id", b"").decode("latin-1")


NOTHING = Said(0, message="the connection was lost before the first byte")


def of_response(response: http.Response, body: bytes) -> Said:
    """What a response says that is held."""
    values = first_values(response.headers.fields)
    said = _said(response.status_code, values, response.headers, document_of(body))
    return said._replace(html=is_page(response, body))


def of_frame(frame: Mapping[str, Any]) -> Said:
    """What an error frame says: the same as an answer over HTTP with this status, these headers and this body."""
    values = frames.headers_of(frame)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in values.items()}
    body = {name: value for name, value in frame.items() if name != "type"}
    return _said(frames.status_of(frame), values, headers, body)


def _said(status: int, values: Mapping[bytes, bytes], headers: Mapping[str, str], body: Any) -> Said:
    """What a refusal says whose body is parsed already."""
    code, message = error_in(headers, body)
    error = details_in(headers, body)
    return Said(status, values, _limit(error) or code, message, error)


def of_failure(error: Mapping[str, Any]) -> Said | None:
    """What the failure of an answer that has begun with a 200 says, if that is for the pool to act upon.

    Limits have the same codes there as in a 429, and a model that the account does not have the same words as in a
    400; all other failures are the client's to see.
    """
    code, message = code_and_message({"error": error})
    code = _limit(error) or code
    if named_model(message) is not None:
        return Said(400, {}, code, message, error)
    return Said(429, {}, code, message, error) if code in (*LIMIT_CODES, "rate_limit_exceeded") else None


def of_event(event: Mapping[str, Any]) -> Said | None:
    """What a failure says that comes as an event of a stream: the same as in a frame, and None where a frame with it
    would be the client's to see."""
    if event.get("type") == frames.FAILED:
        return of_failure(frames.failure_of(event))
    return of_frame(event) if 400 <= frames.status_of(event) < 600 else None


def _limit(error: Mapping[str, Any]) -> str:
    """The client goes by the type of a limit's error, whatever its code is."""
    kind = error.get("type")
    return kind if isinstance(kind, str) and kind in LIMIT_CODES else ""


def judge(
    keeper: Keeper, asked: Asked, attempt: Attempt, method: str, said: Said, *, repeatable: bool, lightens: bool
) -> tuple[Verdict, Evidence]:
    """The verdict on an answer to an attempt, and why."""
    identity = keeper.pool.identities.get(attempt.name)
    answer = Answer(
        said.status,
        kind=Kind.PAT if identity is None else identity.kind,
        current=identity is None or identity.fingerprint == attempt.bearer.fingerprint,
        html=said.html,
        mitigated=b"cf-mitigated" in said.values,
        code=said.code,
        message=said.message,
        repeatable=repeatable,
        lightens=lightens,
        side=asked.is_side,
        own=keeper.pool.states.causes.is_own(_cause(asked, said), attempt.bearer.fingerprint, time.time()),
    )
    evidence = Evidence(
        time.time(),
        method,
        redact_text(asked.path),
        said.status,
        redact_text(said.code),
        redact_header("x-request-id", said.request_id, time.time()),
        attempt.bearer.fingerprint,
        note="" if said.status else said.message,
    )
    return classify(answer), evidence


def counts_for_a_model(keeper: Keeper, asked: Asked, attempt: Attempt, said: Said, verdict: Verdict) -> bool:
    """Whether `learn` is to remember an answer for the model that was asked, and has to know which that was."""
    if verdict.finding in (Finding.LIMITED, Finding.THROTTLED):
        return keeper.pool.states.causes.is_own(_cause(asked, said), attempt.bearer.fingerprint, time.time())
    return verdict.finding is Finding.NOT_FOR_THIS_MODEL


def learn(
    keeper: Keeper,
    asked: Asked,
    attempt: Attempt,
    said: Said,
    verdict: Verdict,
    evidence: Evidence,
    model: Callable[[], str] | None = None,
) -> None:
    """Have the pool know of it.

    ``model`` gives the model that the request's body asks. What is remembered for a model goes by that: the header
    that names one is a hint, in which a client can write anything.
    """
    pool, name, at = keeper.pool, attempt.name, evidence.at
    cause = _cause(asked, said)
    is_own = pool.states.causes.is_own(cause, attempt.bearer.fingerprint, at)
    pool.states.causes.seen(cause, at)
    saw(keeper, asked, attempt, said.values)
    match verdict.finding:
        case Finding.REFUSED:
            pool.states.refused(name, evidence, attempt.at, at, cause)
        case Finding.NOT_FOR_THIS_CREDENTIAL:
            if pool.not_for_endpoint(name, asked.path, evidence, at, cause=cause):
                logger.warning("%s: %s; its token is not used there for a while", name, evidence)
        case Finding.NOT_FOR_THIS_MODEL:
            asks = model() if model is not None else asked.model
            if asks and named_model(said.message) == asks and pool.not_for_model(name, asks, evidence, at):
                logger.warning("%s: its account does not have the model %s: %s", name, redact_text(asks), evidence)
        case Finding.NOT_ON_THIS_ENDPOINT:
            until, is_limit = _ends(said, at), said.code in LIMIT_CODES
            if pool.not_for_endpoint(name, asked.path, evidence, at, until=until, is_limit=is_limit, cause=cause):
                logger.warning("%s: %s; it is not used there for a while", name, evidence)
        case Finding.UNCLEAR:
            logger.warning("%s: %s, without a known reason; another identity is tried once", name, evidence)
            pool.states.doubted(name, evidence, at, cause)
        case Finding.OWN if is_own:
            logger.warning("%s: %s; others were refused for the same, so it is the request's own", name, evidence)
        case Finding.EDGE:
            pause = pool.edges.turned_away(attempt.metadata.origin, at)
            logger.warning(
                "%s: a page of the content network, not of the backend (%s); %s is left alone for %.0f s",
                *(name, evidence, attempt.metadata.origin, pause),
            )
        case Finding.WORKSPACE:
            pool.states.workspace_closed(name, evidence, at, cause)
        case Finding.LIMITED | Finding.THROTTLED if is_own:
            is_limit = verdict.finding is Finding.LIMITED
            asks, until = model() if model is not None else asked.model, _ends(said, at)
            if asks and pool.limited_for_model(name, asks, evidence, at, until, is_limit=is_limit):
                logger.warning("%s: %s; others were refused for the same, so it counts for the model", name, evidence)
        case Finding.LIMITED:
            limit = Limit(_family(keeper, asked, said.values), *rate_limits.reset_of(said.error))
            until = pool.states.limited(name, attempt.metadata.key, limit, evidence, at, cause)
            keeper.saw_usage(attempt.metadata.key)
            if limit.family != MAIN:
                logger.info("%s is limited for %s until %s: %s", name, limit.family, clock(until, at), evidence)
        case Finding.THROTTLED:
            pool.states.throttled(name, evidence, at, rate_limits.retry_after(said.values, said.message, at), cause)
        case Finding.UPSTREAM:
            pool.troubled(name, at)
        case _:
            pass


def _cause(asked: Asked, said: Said) -> Cause:
    return Cause.of(asked, str(said.status))


def _ends(said: Said, at: float) -> float | None:
    """When a refusal for too much ends, as far as it says so."""
    if (ends := Limit(MAIN, *rate_limits.reset_of(said.error)).ends(at)) is not None:
        return ends
    after = rate_limits.retry_after(said.values, said.message, at) if said.status == 429 else None
    return at + min(max(after, SHORTEST_REST), LONGEST_RETRY_AFTER) if after is not None else None


def saw(keeper: Keeper, asked: Asked, attempt: Attempt, values: Mapping[bytes, bytes]) -> None:
    """The headers of an answer have come: what do they say of limits?"""
    if (family := rate_limits.active(values)) is not None:
        keeper.learn_family(asked.model, family)
    saw_gauges(keeper, attempt, rate_limits.of_headers(values, time.time()))


def saw_gauges(keeper: Keeper, attempt: Attempt, gauges: Iterable[Gauge]) -> None:
    """How much of its limits an account has used."""
    at, usage = time.time(), None
    for gauge in gauges:
        usage = usage or keeper.pool.states.usage(attempt.metadata.key)
        usage.see(Window(gauge.family, gauge.minutes, gauge.used_percent, gauge.resets_at, at))
    if usage is not None:
        keeper.saw_usage(attempt.metadata.key)


def _family(keeper: Keeper, asked: Asked, values: Mapping[bytes, bytes]) -> str:
    """The limit that a refusal speaks of. Where the client does not say which model it asks, it counts for all."""
    return (rate_limits.active(values) or keeper.pool.family_of(asked)) if asked.model else MAIN
