"""Observe mode: nothing is changed, and everything is said that would have been done.

`Observing` stands in the place of `codexpool.proxy.serving.SwapHandler`, with the same hooks. What leaves is
what the client has sent, and what comes back is what the backend has answered, from its first byte on. Errors of
ours are said and change nothing either: here an error that lets a request pass as it came is none, and one that
stops it is.

The one thing that is changed is what a flow shows: veils in place of the client's own secrets (see
`codexpool.proxy.observe.veil`), which the copy that leaves does not have. If no copy can be made the flow itself
has the secrets, until it has left.
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

from codexpool.config import PoolConfig, Watcher
from codexpool.pool.pool import Pool
from codexpool.pool.verdict import is_held
from codexpool.protocol import endpoints, headers, routes
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.inflate import UnreadableError, is_known
from codexpool.protocol.routes import BACKEND_ONLY, Policy
from codexpool.protocol.stream_events import Beginning
from codexpool.proxy import judge as judging
from codexpool.proxy import probe, replies, tracer
from codexpool.proxy.bodies import AT_ONCE
from codexpool.proxy.exchange import asked_of, policy_of, prompt_cache_key
from codexpool.proxy.find_keys import carries_key
from codexpool.proxy.flows import Closed
from codexpool.proxy.gate import Gate
from codexpool.proxy.handler import Setup
from codexpool.proxy.held_answers import is_event_stream, scrub
from codexpool.proxy.mitm import options
from codexpool.proxy.observe.covered_flows import Veiling
from codexpool.proxy.observe.observation import Observation, Passing
from codexpool.proxy.observe.pool import Consulted, consult
from codexpool.proxy.observe.sockets import ObservedSockets
from codexpool.proxy.relay_policy import Relay
from codexpool.proxy.sockets import trim
from codexpool.proxy.tunnels import Tunnels
from codexpool.redaction import redact_text
from codexpool.state import state_path
from codexpool.traces.history import History
from codexpool.traces.trace import Trace

logger = logging.getLogger("codexpool")


class Observing:
    """All requests under way, and the sender (see `codexpool.proxy.resend`) of those on swap paths.

    ``closed`` says why the pool would refuse them, if it would.
    """

    observes = True
    clock_offset: float | None = None

    def __init__(self, history: History, environ: Mapping[str, str] = os.environ) -> None:
        self.history = history
        self.closed = ""
        self.gate = Gate(history)
        self.tunnels = Tunnels(lambda: self.hosts)
        self.consulted: Consulted | None = None
        self._config: PoolConfig | None = None
        self._environ = environ
        self._since = time.time()
        self._veiling = Veiling()
        self._watched: WeakKeyDictionary[http.HTTPFlow, Observation] = WeakKeyDictionary()
        self._sockets = ObservedSockets(history)
        self._relay = Relay(self.gate, options.is_own_connection)

    def start(self, setup: Setup, watcher: Watcher) -> None:
        """Consult this pool from now on, as it is now."""
        self.consulted, self.closed = None, setup.reason if isinstance(setup, Closed) else ""
        config = setup if isinstance(setup, PoolConfig) else None
        logger.warning("observe mode: nothing is changed, it is only said what would be done")
        if config is None:
            logger.warning("observe mode: there is no pool.toml, so nobody is there to be sent as")
            return
        with self._unharmed("reading the pool"):
            self._config = config
            self.consulted = consult(config, self._environ, state_path(self._environ))
            logger.info("observe mode: %s, as it is now:", config.path)
            for line in self.consulted.lines():
                logger.info("%s", line)

    def stop(self, reason: str = "") -> None:
        self.closed = reason or self.closed

    async def hosts_known(self, seconds: float) -> None:
        """The hosts of a consulted pool are known from the start."""

    def refusal(self, client: Client, to_host: str, port: int) -> str:
        return self._relay.refusal(client, to_host, port, BACKEND_ONLY) if self.closed else ""

    @property
    def pool(self) -> Pool | None:
        return self.consulted.pool if self.consulted is not None else None

    @property
    def config(self) -> PoolConfig | None:
        return self._config if self.consulted is not None else None

    def tokens(self) -> list[str]:
        return []

    def members(self, now: float) -> tuple[str, list[dict[str, Any]]]:
        return self.gate.access, []

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that the path policy is for."""
        return self.consulted.hosts if self.consulted is not None else routes.BACKEND_ONLY

    def policy(self, request: http.Request) -> Policy:
        """The path policy for a request as it would leave."""
        return policy_of(request, self.hosts)

    # -- hooks, in the order of a request's life

    def open(self, flow: http.HTTPFlow) -> None:
        """A request's headers have come."""
        if carries_key(flow.request):
            self.gate.refuse(flow, "this proxy only observes, and a member key opens nothing here")
            return
        policy = self.policy(flow.request)
        # What was under way before does not ask us for what leaves, and must have no veil.
        is_ours = flow.is_replay is not None or flow.request.timestamp_start >= self._since
        if not policy.swaps or not is_ours:
            return
        if flow.is_replay is not None:
            self._veiling.lift(flow)
        with self._unharmed("reading a request"):
            self._watch(flow, policy)
        self._veiling.cover(flow)

    def turns_away(self, flow: http.HTTPFlow, reason: str) -> bool:
        """Nothing is turned away."""
        return False

    def end_sockets(self) -> None:
        """The proxy ends. No socket is told so."""

    open_sockets: Final = 0
    """None is waited for: none was told."""

    async def assign(self, flow: http.HTTPFlow) -> None:
        """The request is whole: what would be done with it?"""
        if self._answered_here(flow):
            return
        self._veiling.cover_again(flow)  # Where the body passed by, the headers have left before it.
        observation = self._watched.get(flow)
        if observation is None:
            return
        with self._unharmed("deciding on a request"):
            now, trace = time.time(), observation.trace
            trace.whole_at, trace.request_bytes = now, len(flow.request.raw_content or b"")
            if observation.asked.session is None and (session := await prompt_cache_key(flow.request)) is not None:
                observation.asked = observation.asked._replace(session=session)
                trace.session, trace.source = session, "prompt_cache_key"
            observation.decide(self.closed, now)
            if trace.attempts:
                self.history.assigned(trace)
            flow.comment = f"codexpool: observed, {observation.words}"
            if observation.has_left:
                observation.left(now)

    def _answered_here(self, flow: http.HTTPFlow) -> bool:
        """Whether a request has an answer of ours: it carries a member key, or only asks what would be done."""
        self.gate.answer_refusal(flow)
        if flow.response is None and self.policy(flow.request).swaps:
            flow.response = probe.observed(flow.request.headers.fields)
        return flow.response is not None

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """See `codexpool.proxy.resend.Sender`: the request as the client has sent it."""
        if carries_key(flow.request):
            return replies.withheld("a member key does not leave this proxy")
        wire = self._veiling.outbound(flow)
        if (observation := self._watched.get(flow)) is not None:
            with self._unharmed("noting that a request has left"):
                observation.left(time.time())
        return wire

    def outdated(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.proxy.resend.Sender`: what leaves is the client's own, and never out of date."""
        return False

    def headers_came(self, flow: http.HTTPFlow) -> None:
        """An answer begins: it is passed on from its first byte, whatever it is."""
        self._veiling.cover_again(flow)
        observation, response = self._watched.get(flow), flow.response
        if response is None:
            return
        if observation is None:
            # A request that was under way before a reload is not known here; its answer is streamed all the same.
            if response.status_code >= 200 and not response.stream and self.policy(flow.request).swaps:
                response.stream = True
        elif observation.has_left:
            if response.status_code >= 200 and not callable(response.stream):
                encoding = response.headers.get("content-encoding", "")
                looks = is_event_stream(response) and is_known(encoding)
                observation.passing = Passing(observation.trace, Beginning(encoding) if looks else None)
                response.stream = observation.passing
            with self._unharmed("reading the head of an answer"):
                observation.answered(response, time.time())

    def holds(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.proxy.resend.Sender`: nothing is held."""
        return False

    def begins(self, flow: http.HTTPFlow, piece: bytes) -> bool:
        """See `codexpool.proxy.resend.Sender`: all is passed on."""
        return True

    def head(self, flow: http.HTTPFlow) -> None:
        """See `codexpool.proxy.resend.Sender`: where our hook was skipped the answer is passed on as it comes."""
        if flow.response is not None and flow.response.status_code >= 200 and not flow.response.stream:
            flow.response.stream = True

    def cut(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> None:
        """See `codexpool.proxy.resend.Sender`: nothing is held that could be cut."""

    def whole(self, flow: http.HTTPFlow) -> None:
        """See `codexpool.proxy.resend.Sender`: nothing is held."""

    def lost(self, flow: http.HTTPFlow) -> None:
        """See `codexpool.proxy.resend.Sender`: the connection was lost, and nothing was passed on."""
        if (observation := self._watched.get(flow)) is not None:
            observation.is_lost = True

    async def judge(self, flow: http.HTTPFlow) -> None:
        """An answer is whole, and has been passed on: what would it have led to?"""
        observation, response = self._watched.get(flow), flow.response
        if observation is None or response is None:
            return
        trace, observation.came = observation.trace, f"answered {response.status_code}"
        with self._unharmed("judging an answer"):
            if observation.has_left:
                self._judged(flow, observation, self._said(flow, observation.passing, response))
            else:
                trace.answered_by = "another addon"
        observation.passing = None
        with self._unharmed("noting an answer"):
            trace.bytes_in = trace.bytes_in or len(response.raw_content or b"")
            is_socket = flow.websocket is not None and observation.asked.path == endpoints.RESPONSES
            self.history.ended(trace, response.status_code, stays_open=is_socket)
            self._tell(flow, observation)

    async def judge_loss(self, flow: http.HTTPFlow) -> None:
        """A flow has ended in an error."""
        self._veiling.cover_again(flow)
        observation = self._watched.get(flow)
        if observation is None:
            return
        observation.passing = None
        observation.came = flow.error.msg if flow.error is not None else "the connection was lost"
        with self._unharmed("judging a lost connection"):
            if observation.is_lost:
                self._judged(flow, observation, judging.NOTHING)
        with self._unharmed("noting an error"):
            self._ended(flow, observation.trace, observation.came)
            self._tell(flow, observation)

    def is_over(self, flow: http.HTTPFlow) -> bool:
        """Whether the answer that a flow has now is the one the client gets: it always is."""
        return True

    def again(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.proxy.resend.Sender`: nothing is sent again."""
        return False

    def fail(self, flow: http.HTTPFlow, error: Exception, doing: str) -> None:
        """Something of ours broke in a hook: it is said, and the request goes its way unobserved."""
        logger.error("%s failed, and has changed nothing: %s", doing, error, exc_info=error)
        self._watched.pop(flow, None)

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is open from now on."""
        observation = self._watched.get(flow)
        if observation is not None and observation.has_left and observation.asked.path == endpoints.RESPONSES:
            with self._unharmed("following a socket"):
                self._sockets.opened(flow, observation)

    async def message_comes(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come: nobody waits for a turn here."""

    def message_came(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come, and is passed on as it is."""
        with self._unharmed("reading a message"):
            if self._sockets.follows(flow):
                self._sockets.message(flow)
            elif self.policy(flow.request).swaps:
                trim(flow)

    def socket_closed(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is closed."""
        with self._unharmed("following a socket"):
            self._sockets.closed(flow, self._veiling.secrets(flow))

    # -- what is watched

    def _watch(self, flow: http.HTTPFlow, policy: Policy) -> None:
        request = flow.request
        values = headers.first_values(request.headers.fields)
        asked, source = asked_of(values, routes.normalised(request.path.partition("?")[0]))
        upgrade = values.get(b"upgrade", b"").lower() == b"websocket"
        trace = tracer.begun(flow, policy, asked, source, upgrade)
        trace.observed = True
        self.history.began(trace)
        self._watched[flow] = Observation(trace, asked, self.consulted)

    def _said(self, flow: http.HTTPFlow, passing: Passing | None, response: http.Response) -> judging.Said:
        """What an answer says; what it repeats of the client's secrets is not looked at, and not shown."""
        seen = response.copy()
        if passing is not None and seen.raw_content is None:
            seen.raw_content = passing.content
        if not is_held(response.status_code):
            said = passing.failure if passing is not None else None
            said = said or judging.Said(response.status_code)
        else:
            shown = headers.PLACEHOLDER.format("client").encode()
            text = scrub(seen, dict.fromkeys(self._veiling.secrets(flow), shown))
            said = judging.of_response(seen, text)
        if passing is not None and passing.has_ended:  # It has been passed on: now it is only to be seen.
            response.headers.fields, response.raw_content = seen.headers.fields, seen.raw_content
        return said

    def _ended(self, flow: http.HTTPFlow, trace: Trace, error: str) -> None:
        if trace.status == 101:
            self.history.socket_closed(trace, error)
        else:
            self.history.ended(trace, flow.response.status_code if flow.response is not None else None, error)

    def _judged(self, flow: http.HTTPFlow, observation: Observation, said: judging.Said) -> None:
        request = flow.request
        body, encoding = request.raw_content or b"", request.headers.get("content-encoding", "")
        repeatable = routes.is_repeatable(request.method, request.path.partition("?")[0])
        observation.judge(said, repeatable, lambda: _has_encrypted(body, encoding))

    def _tell(self, flow: http.HTTPFlow, observation: Observation) -> None:
        """The one line for people."""
        trace, session = observation.trace, observation.asked.session or "-"
        path = trace.path.partition("?")[0]
        text = redact_text(f"{trace.method} {path} (session {session}): {observation.words}")
        logger.info("observed: %s", text)
        flow.comment = f"codexpool: observed, {redact_text(observation.words)}"

    @contextmanager
    def _unharmed(self, doing: str) -> Iterator[None]:
        """An error of ours in here is said, and changes nothing."""
        try:
            yield
        except Exception as error:
            logger.error("%s failed, and has changed nothing: %s", doing, error, exc_info=error)


def _has_encrypted(body: bytes, encoding: str) -> bool:
    """Whether a short body has encrypted reasoning. A long one is not worth the time where nothing follows."""
    try:
        return has_encrypted(body, encoding, AT_ONCE)
    except UnreadableError:
        return False
