"""Observe mode: what leaves is what the client sent, and what would have been done is logged.

`ObserveHandler` replaces `codexpool.proxy.serving.SwapHandler`. It makes the same exchanges and asks the same
recovery and verdicts, but dresses nothing and holds nothing. It fails open: an exception of ours is logged, and the
request goes its way. Only what a flow shows is changed: the client's own secrets are masked.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client

from codexpool.config.files import Watcher
from codexpool.config.model import PoolConfig
from codexpool.pool.pool import Pool
from codexpool.pool.verdict import is_held
from codexpool.protocol import endpoints, headers, routes
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.headers import TURN_STATE, first_values
from codexpool.protocol.inflate import UnreadableError, is_known
from codexpool.protocol.routes import BACKEND_ONLY, Policy, Route
from codexpool.protocol.stream_events import Beginning
from codexpool.proxy import judge as judging
from codexpool.proxy import replies, tracer
from codexpool.proxy.bodies import AT_ONCE
from codexpool.proxy.exchange import route_of
from codexpool.proxy.find_keys import carries_key, hide_key
from codexpool.proxy.flows import Closed
from codexpool.proxy.gate import Gate
from codexpool.proxy.handler import Hooks, Setup
from codexpool.proxy.held_answers import scrub
from codexpool.proxy.observe.masks import MaskedFlows
from codexpool.proxy.observe.observation import Observation, Passing
from codexpool.proxy.observe.pool import Consulted, consult
from codexpool.proxy.observe.sockets import ObservedSockets
from codexpool.proxy.probe import Outlook
from codexpool.proxy.proxy_user import identity_named
from codexpool.proxy.relay import Reader
from codexpool.proxy.requests import exchange_of, read_body
from codexpool.proxy.sockets import trim
from codexpool.proxy.tunnels import Tunnels
from codexpool.redaction import redact_text
from codexpool.state.fleet import Fleet
from codexpool.state.location import location
from codexpool.traces.history import History
from codexpool.upkeep.watching import PoolFile

logger = logging.getLogger("codexpool")


class ObserveHandler(Hooks):
    """Observes requests on swap paths (see `codexpool.proxy.handler.Handler` for the methods)."""

    observes = True
    clock_offset: float | None = None
    fleet: Fleet | None = None
    open_sockets: Final = 0

    def __init__(self, history: History, environ: Mapping[str, str] = os.environ) -> None:
        self.history = history
        self.closed = ""
        self.gate = Gate(history)
        self.tunnels = Tunnels(lambda: self.hosts)
        self.consulted: Consulted | None = None
        self._config: PoolConfig | None = None
        self._environ = environ
        self._since = time.time()
        self._masked = MaskedFlows()
        self._observed: WeakKeyDictionary[http.HTTPFlow, Observation] = WeakKeyDictionary()
        self._sockets = ObservedSockets(history)

    # -- its life

    def start(self, setup: Setup, watcher: Watcher) -> None:
        """Consult the pool of a configuration, as it is now."""
        self.consulted, self.closed = None, setup.reason if isinstance(setup, Closed) else ""
        logger.warning("observe mode: no request is changed; the log says what would be done")
        if not isinstance(setup, PoolConfig):
            logger.warning("observe mode: there is no pool.toml, so no identity to send requests as")
            return
        with self._fail_open("reading the pool"):
            self._config = setup
            self.consulted = consult(setup, self._environ, location(self._environ))
            logger.info("observe mode: %s, as it is now:", setup.path)
            for line in self.consulted.lines():
                logger.info("%s", line)

    def stop(self, reason: str = "") -> None:
        self.closed = reason or self.closed

    @property
    def pool(self) -> Pool | None:
        return self.consulted.pool if self.consulted is not None else None

    @property
    def config(self) -> PoolConfig | None:
        return self._config if self.consulted is not None else None

    @property
    def pool_file(self) -> PoolFile | None:
        config = self.config
        return PoolFile(config.path, self._since, config.is_missing) if config is not None else None

    @property
    def ledger(self) -> None:
        return None

    def tokens(self) -> list[str]:
        return []

    def members(self, now: float) -> tuple[str, list[dict[str, Any]]]:
        return self.gate.access, []

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        hide_key(flow)
        return 403, {"error": {"message": "this proxy only observes: member keys are not accepted"}}

    @property
    def hosts(self) -> frozenset[str]:
        return self.consulted.hosts if self.consulted is not None else BACKEND_ONLY

    def refusal(self, client: Client, to_host: str, port: int) -> str:
        return self.gate.refuses_connection(client, to_host, port, BACKEND_ONLY) if self.closed else ""

    def route(self, request: http.Request) -> Route:
        return route_of(request, self._config.routes if self._config is not None else routes.AS_SHIPPED, self.hosts)

    def policy(self, request: http.Request) -> Policy:
        return self.route(request).policy

    # -- requests

    def dry_run(self, flow: http.HTTPFlow) -> Outlook:
        return Outlook(observing=True)

    def open(self, flow: http.HTTPFlow) -> None:
        if carries_key(flow.request):
            self.gate.refuse(flow, "this proxy only observes: member keys are not accepted")
            return
        route = self.route(flow.request)
        # Requests from before a reload have another sender, which would not unmask them.
        is_ours = flow.is_replay is not None or flow.request.timestamp_start >= self._since
        if not route.policy.takes_identity or not is_ours:
            return
        if flow.is_replay is not None:
            self._masked.unmask(flow)
        with self._fail_open("reading a request"):
            exchange = exchange_of(flow, route, named=identity_named(flow.client_conn))
            exchange.trace.observed = True
            self.history.began(exchange.trace)
            self._observed[flow] = Observation(exchange, self.consulted)
        self._masked.mask(flow)

    async def assign(self, flow: http.HTTPFlow) -> None:
        self.gate.answer_refusal(flow)
        if flow.response is not None:  # It has a member key.
            return
        self._masked.mask_again(flow)  # If the body is streamed, the headers have left already.
        observation = self._observed.get(flow)
        if observation is None:
            return
        with self._fail_open("deciding on a request"):
            now, trace, pool = time.time(), observation.trace, self.pool
            trace.whole_at, trace.request_bytes = now, len(flow.request.raw_content or b"")
            await read_body(flow, observation.exchange, pool)
            observation.decide(self.closed, now)
            if trace.attempts:
                self.history.assigned(trace)
            flow.comment = f"codexpool: observed, {observation.words}"
            if observation.has_left:
                observation.left(now)

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        if carries_key(flow.request):
            return replies.withheld("a member key must not leave this proxy")
        wire = self._masked.outbound(flow)
        if (observation := self._observed.get(flow)) is not None:
            with self._fail_open("noting that a request left"):
                observation.left(time.time())
        return wire

    # -- answers: none is held, and none is replaced

    def headers_came(self, flow: http.HTTPFlow) -> None:
        self._masked.mask_again(flow)
        observation, response = self._observed.get(flow), flow.response
        if response is None:
            return
        if observation is None:
            # The answer to a request from before a reload.
            if response.status_code >= 200 and not response.stream and self.policy(flow.request).swaps:
                response.stream = True
            return
        if not observation.has_left:
            return
        if response.status_code >= 200 and not callable(response.stream):
            encoding = response.headers.get("content-encoding", "")
            has_events = headers.is_event_stream(first_values(response.headers.fields)) and is_known(encoding)
            observation.passing = Passing(observation.trace, Beginning(encoding) if has_events else None)
            response.stream = observation.passing
        with self._fail_open("reading the head of an answer"):
            fields = response.headers.fields
            if (attempt := observation.trace.attempt) is not None:
                attempt.answered(response.status_code, fields, time.time())
            if (turn_state := first_values(fields).get(TURN_STATE)) is not None:
                observation.issued(turn_state)

    def head_seen(self, flow: http.HTTPFlow) -> None:
        """Stream an answer if our own hook was skipped."""
        if flow.response is not None and flow.response.status_code >= 200 and not flow.response.stream:
            flow.response.stream = True

    def connection_lost(self, flow: http.HTTPFlow) -> None:
        if (observation := self._observed.get(flow)) is not None:
            observation.is_lost = True

    async def judge(self, flow: http.HTTPFlow) -> None:
        observation, response = self._observed.get(flow), flow.response
        if observation is None or response is None:
            return
        trace, observation.came = observation.trace, f"answered {response.status_code}"
        with self._fail_open("judging an answer"):
            if observation.has_left:
                self._judge(flow, observation, self._received(flow, observation.passing, response))
            else:
                trace.answered_by = "another addon"
        observation.passing = None
        with self._fail_open("noting an answer"):
            trace.bytes_in = trace.bytes_in or len(response.raw_content or b"")
            is_socket = flow.websocket is not None and observation.exchange.asked.path == endpoints.RESPONSES
            self.history.ended(trace, response.status_code, stays_open=is_socket)
            self._log(flow, observation)

    async def judge_loss(self, flow: http.HTTPFlow) -> None:
        self._masked.mask_again(flow)
        observation = self._observed.get(flow)
        if observation is None:
            return
        observation.passing = None
        observation.came = flow.error.msg if flow.error is not None else "the connection was lost"
        with self._fail_open("judging a lost connection"):
            if observation.is_lost:
                self._judge(flow, observation, judging.LOST)
        with self._fail_open("noting an error"):
            tracer.lost(self.history, flow, observation.trace)
            self._log(flow, observation)

    def fail(self, flow: http.HTTPFlow, error: Exception, doing: str) -> None:
        """Log an exception of ours; the request goes its way unobserved."""
        logger.error("%s failed; the request was not changed: %s", doing, error, exc_info=error)
        self._observed.pop(flow, None)

    def _judge(self, flow: http.HTTPFlow, observation: Observation, received: judging.BackendAnswer) -> None:
        request = flow.request
        repeatable = routes.is_repeatable(request.method, request.path.partition("?")[0])
        observation.judge(received, repeatable, _has_encrypted(request))

    def _received(
        self, flow: http.HTTPFlow, passing: Passing | None, response: http.Response
    ) -> judging.BackendAnswer:
        """Read an answer, and show it in the flow without the client's secrets if it was passed on."""
        seen = response.copy()
        if passing is not None and seen.raw_content is None:
            seen.raw_content = passing.content
        if is_held(response.status_code):
            shown = headers.PLACEHOLDER.format("client").encode()
            received = judging.of_response(seen, scrub(seen, dict.fromkeys(self._masked.secrets(flow), shown)))
        else:
            received = (passing.failure if passing is not None else None) or judging.BackendAnswer(
                response.status_code
            )
        if passing is not None and passing.has_ended:
            response.headers.fields, response.raw_content = seen.headers.fields, seen.raw_content
        return received

    def _log(self, flow: http.HTTPFlow, observation: Observation) -> None:
        trace, session = observation.trace, observation.exchange.asked.session or "-"
        path = trace.path.partition("?")[0]
        logger.info("observed: %s", redact_text(f"{trace.method} {path} (session {session}): {observation.words}"))
        flow.comment = f"codexpool: observed, {redact_text(observation.words)}"

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        observation = self._observed.get(flow)
        if observation is None or not observation.has_left or observation.exchange.asked.path != endpoints.RESPONSES:
            return
        with self._fail_open("following a socket"):
            self._sockets.opened(flow, observation)

    async def message(self, flow: http.HTTPFlow) -> None:
        self._read(flow)

    def message_reader(self, flow: http.HTTPFlow) -> Reader | None:
        return (lambda _: self._read(flow)) if flow in self._sockets else None

    def _read(self, flow: http.HTTPFlow) -> None:
        with self._fail_open("reading a message"):
            self._sockets.message(flow)
        with self._fail_open("forgetting old messages"):
            if self.policy(flow.request).swaps:
                trim(flow)

    def socket_closed(self, flow: http.HTTPFlow) -> None:
        with self._fail_open("following a socket"):
            self._sockets.closed(flow, self._masked.secrets(flow))

    @contextmanager
    def _fail_open(self, doing: str) -> Iterator[None]:
        """Log an exception of ours, and go on."""
        try:
            yield
        except Exception as error:
            logger.error("%s failed; the request was not changed: %s", doing, error, exc_info=error)


def _has_encrypted(request: http.Request) -> bool:
    """Return whether a short body has encrypted reasoning; a long one is not worth the time."""
    try:
        return has_encrypted(request.raw_content or b"", request.headers.get("content-encoding", ""), AT_ONCE)
    except UnreadableError:
        return False
