"""Answers of the backend, and connections lost before there is one.

A good answer is streamed from its first byte. An answer that may be a reason to act is held, and judged when it is
whole: it is relayed, or the request is sent again, or the proxy answers itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from mitmproxy import http

from codexpool.pool.verdict import MAY_BE_ITS_OWN, NOT_PORTABLE, Finding, is_held, says_enough
from codexpool.protocol import frames, headers, models, rate_limits, routes
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.headers import PLACEHOLDER
from codexpool.protocol.inflate import is_known
from codexpool.protocol.routes import Policy
from codexpool.protocol.stream_events import Beginning, Reading
from codexpool.proxy import judge as judging
from codexpool.proxy import replies, tracer
from codexpool.proxy.attempts import Attempts
from codexpool.proxy.bodies import look
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import Exchange, Incoming, comment, model_in_body, replace_response
from codexpool.proxy.flows import Flows
from codexpool.proxy.held_answers import read, scrub, show_no_person, show_own_id
from codexpool.proxy.judge import BackendAnswer, judge, learn
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.turns import Turns
from codexpool.traces.history import History

logger = logging.getLogger("codexpool")

SMALL = 16_384  # Answers up to this many bytes, of known length, are not streamed.


class Answers:
    """What happens to a request once it has left."""

    def __init__(self, flows: Flows, attempts: Attempts, dressing: Dressing, turns: Turns, history: History) -> None:
        self._flows = flows
        self._attempts = attempts
        self._dressing = dressing
        self._turns = turns
        self._history = history

    # -- hooks, in the order of an answer's life

    def headers_came(self, flow: http.HTTPFlow) -> None:
        """Hold an answer that may be a reason to act; stream any other from its first byte."""
        exchange = self._flows.get(flow)
        response = flow.response
        if response is None:
            return
        if exchange is None:  # The answer to a request from before a reload.
            if not is_held(response.status_code) and self._flows.policy(flow.request) is Policy.SWAP:
                response.stream = True
            return
        exchange.incoming.head_seen = True
        if not exchange.is_answered:
            return
        exchange.attempt.trace.answered(response.status_code, response.headers.fields, time.time())
        values = headers.first_values(response.headers.fields)
        if (turn_state := values.get(headers.TURN_STATE)) is not None:
            self._dressing.turn_states.issued(turn_state, exchange.attempt.metadata.key)
        if models.ETAG in values:
            self._show_list(exchange, response, values[models.ETAG].decode("latin-1"))
        if not is_held(response.status_code):
            judging.learn_limits(self._flows.keeper, exchange.asked, exchange.attempt, values)
            events = headers.is_event_stream(values)
            length = values.get(b"content-length", b"")
            is_small = length.isdigit() and int(length) <= SMALL and not events  # The flow shows its body.
            encoding = values.get(b"content-encoding", b"").decode("latin-1").strip().lower()
            exchange.incoming.reading = Reading(encoding, is_metered=exchange.is_turn, has_events=events)
            is_passed = exchange.policy is Policy.SWAP and not is_small
            response.stream = partial(self._passed, exchange) if is_passed else False
            looks = events and is_passed and is_known(encoding)
            exchange.incoming.beginning = Beginning(encoding) if looks else None
            if exchange.incoming.beginning is None:
                self._attempts.served(flow, exchange)

    def _show_list(self, exchange: Exchange, response: http.Response, etag: str) -> None:
        """Name the list that this client gets, not the identity's: it fetches the list when the name changes."""
        shown = judging.list_shown(self._flows.keeper, exchange, etag)
        response.headers.fields = headers.replaced(response.headers.fields, models.ETAG, shown)

    def head_seen(self, flow: http.HTTPFlow) -> None:
        """Handle the head of an answer if our own hook was skipped (see `resend.Sender`)."""
        exchange = self._flows.get(flow)
        if exchange is not None and not exchange.incoming.head_seen:
            try:
                self.headers_came(flow)
            except Exception as error:
                self.fail(flow, error, "reading the answer")

    def should_hold(self, flow: http.HTTPFlow) -> bool:
        """Return whether to look at the beginning of a stream first (see `resend.Sender`)."""
        exchange = self._flows.get(flow)
        return exchange is not None and exchange.incoming.beginning is not None

    def judge_beginning(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        """Return whether a stream has begun to answer, or the failure to judge instead (see `resend.Sender`)."""
        try:
            exchange = self._flows.get(flow)
            if exchange is None or exchange.incoming.beginning is None:
                return True
            found = exchange.incoming.beginning.take(piece)
            if found is False:
                return False
            exchange.incoming.beginning = None
            received = judging.of_event(found) if isinstance(found, dict) else None
            if received is None:
                self._attempts.served(flow, exchange)
                return True
            assert flow.response is not None
            return replies.failed_stream(flow.response, received.status, received.error, received.values)
        except Exception:
            logger.exception("reading the beginning of a stream failed")
            return True

    def _passed(self, exchange: Exchange, piece: bytes) -> bytes:
        """Read a piece of an answer, and pass it on (see mitmproxy's ``response.stream``)."""
        try:  # Not `harmless`: a call less for each piece.
            exchange.trace.count_bytes(piece)
            if (reading := exchange.incoming.reading) is not None:
                for event in reading.take(piece):
                    self._learn_late(exchange, event)
        except Exception:
            logger.exception("reading a piece of an answer failed; it is passed on")
        return piece

    def _learn_late(self, exchange: Exchange, event: Mapping[str, Any]) -> None:
        """Learn from a failure within an answer the client already gets: its retry then goes to another identity."""
        keeper, attempt = self._flows.keeper_if_any, exchange.attempt
        if keeper is None or not exchange.is_answered:
            return
        if event.get("type") == frames.LIMITS:
            judging.learn_gauges(keeper, attempt, rate_limits.of_frame(event))
            return
        received = judging.of_event(event)
        if received is None:
            return
        method = exchange.trace.method
        verdict, evidence = judge(
            keeper.pool, exchange.asked, attempt, method, received, repeatable=False, lightens=False
        )
        attempt.trace.verdict, attempt.trace.evidence = verdict, str(evidence)
        self._history.judged(attempt.name, verdict)
        learn(keeper, exchange.asked, attempt, received, verdict, evidence)

    def judge_incomplete(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> http.Response | None:
        """Return what to judge in place of a held answer that was cut off (see `resend.Sender`).

        None if its status means nothing without a body: then it counts as a lost connection, and the request is sent
        again.
        """
        try:
            exchange, response = self._flows.get(flow), flow.response
            if exchange is not None and exchange.failure is not None:
                return exchange.failure
            if exchange is None or response is None or not exchange.is_answered or not is_held(response.status_code):
                return None
            if is_lost and not says_enough(response.status_code):
                return None
            text = "session %s: the %d of %s is judged by its status alone: %s"
            logger.info(text, exchange.named, response.status_code, exchange.attempt.name, why)
            return replies.cut(response, why)
        except Exception:
            logger.exception("reading an answer that was cut off failed")
            return None

    def response_complete(self, flow: http.HTTPFlow) -> None:
        """Remove the secrets from a refusal that repeats them, before any addon sees it (see `resend.Sender`).

        Not in our own hook: mitmproxy skips that if a hook of another addon raises, and still writes its dump.
        """
        exchange, response = self._flows.get(flow), flow.response
        if exchange is None or response is None or not exchange.is_answered or not is_held(response.status_code):
            return
        try:
            response.trailers = None
            shown = PLACEHOLDER.format(exchange.attempt.name).encode()
            scrub(response, {secret.encode(): shown for secret in exchange.attempt.secrets})
        except Exception as error:
            self.fail(flow, error, "reading the answer")

    def connection_lost(self, flow: http.HTTPFlow) -> None:
        """Note that the connection was lost before the client got anything (see `resend.Sender`)."""
        exchange = self._flows.get(flow)
        if exchange is not None:
            exchange.incoming.is_lost = True

    async def judge_loss(self, flow: http.HTTPFlow) -> None:
        """Judge a connection that was lost before the first byte of an answer: the request may be sent again."""
        exchange = self._flows.get(flow)
        if exchange is None:
            return
        exchange.incoming.end_seen = True
        if exchange.incoming.is_lost and exchange.is_answered and self._flows.serves:
            exchange.incoming.beginning = None
            if exchange.attempt.trace.status is None:
                exchange.attempt.trace.answered(0, (), time.time())
            await self._judge(flow, exchange, judging.LOST)
            if exchange.ours:
                flow.response = None  # The flow ended in an error; the retry gets this answer.
        exchange.incoming.is_lost = False

    async def judge(self, flow: http.HTTPFlow) -> None:
        """Judge a whole answer: relay it, have the request sent again, or answer instead."""
        exchange = self._flows.get(flow)
        if exchange is None or flow.response is None:
            return
        exchange.incoming.end_seen = True
        if exchange.failure is not None:
            replace_response(flow, exchange, exchange.failure)
        elif exchange.is_answered:
            await self._judge_answer(flow, exchange, flow.response)

    async def _judge_answer(self, flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
        if response.status_code == 101 and not (exchange.upgrade and flow.websocket is not None):
            # What follows would be no WebSocket messages: keys, turns and limits in it would go unseen.
            flow.websocket = None
            refusal = replies.failed_closed("the backend switched to a protocol other than WebSocket")
            refusal.headers["connection"] = "close"
            replace_response(flow, exchange, refusal)
            return
        if not is_held(response.status_code):
            if exchange.incoming.beginning is not None:  # It was passed on before it named an outcome.
                exchange.incoming.beginning = None
                self._attempts.served(flow, exchange)
            if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
                show_own_id(response, exchange.attempt.metadata.account_id, exchange.client_account)
            is_whole = response.status_code == 200
            if exchange.policy is Policy.LENT and (is_whole or response.raw_content):  # A 206, if the client asks so.
                document = show_no_person(response, exchange.client_account)
                if is_whole:
                    self._attempts.usage.keep(exchange.attempt.metadata.key, document)
            return
        await self._judge(flow, exchange, judging.of_response(response, read(response).text))

    async def _judge(self, flow: http.HTTPFlow, exchange: Exchange, received: BackendAnswer) -> None:
        keeper, attempt, method = self._flows.keeper, exchange.attempt, flow.request.method
        repeatable = not attempt.has_left or routes.is_repeatable(method, flow.request.path.partition("?")[0])
        may_lighten = received.code == NOT_PORTABLE and not attempt.lighter
        encoding = flow.request.headers.get("content-encoding", "")
        lightens = may_lighten and await look(has_encrypted, flow.request.raw_content or b"", encoding)
        verdict, evidence = judge(
            keeper.pool, exchange.asked, attempt, method, received, repeatable=repeatable, lightens=lightens
        )
        attempt.outcome = attempt.trace.evidence = str(evidence)
        attempt.trace.verdict = verdict
        self._history.judged(attempt.name, verdict)
        model = exchange.asked.model  # A handshake has no body.
        if not exchange.upgrade and judging.counts_for_a_model(keeper, exchange.asked, attempt, received, verdict):
            model = await model_in_body(flow.request)
        learn(keeper, exchange.asked, attempt, received, verdict, evidence, lambda: model)
        if verdict.finding is Finding.NOT_PORTABLE:
            session = keeper.pool.sessions.get(exchange.session)
            self._dressing.not_portable(exchange.asked, session, attempt)
        tries = len(exchange.tries)
        self._attempts.judged(exchange, verdict)
        await self._attempts.follow(flow, exchange)
        exchange.go_again = len(exchange.tries) > tries
        if exchange.upgrade and verdict.next in MAY_BE_ITS_OWN and not (exchange.go_again or exchange.ours):
            # Of a refused handshake a client sees only the status, and retries it seven times: send it to HTTP.
            replace_response(flow, exchange, replies.over_http(str(evidence)))
        if exchange.go_again:
            await self._attempts.prepare(flow, exchange)
        comment(flow, exchange)

    def finish(self, flow: http.HTTPFlow) -> bool:
        """Return whether the client gets the answer or error a flow has now; if so, end its trace."""
        exchange = self._flows.get(flow)
        if exchange is None:
            return True
        if not exchange.go_again:
            tracer.over(self._history, flow, exchange)
            if exchange.policy is Policy.LENT:
                for attempt in exchange.tries:
                    self._attempts.usage.ended(attempt.metadata.key)
            if exchange.is_turn:
                self._turns.ended(flow, exchange, self._flows.keeper_if_any)
        return not exchange.go_again

    def should_resend(self, flow: http.HTTPFlow) -> bool:
        """Return whether to drop the held answer and send the request again (see `resend.Sender`)."""
        try:
            return self._is_sent_again(flow)
        except Exception as error:
            self.fail(flow, error, "sending a request again")
            self.finish(flow)  # No other hook will.
            return False

    def _is_sent_again(self, flow: http.HTTPFlow) -> bool:
        exchange = self._flows.get(flow)
        if exchange is None:
            return False
        if not self._flows.serves and flow.response is not None and is_held(flow.response.status_code):
            # The addon was unloaded during this request, and the answer was not judged.
            flow.response = replies.failed_closed(self._flows.closed)
        if not exchange.incoming.end_seen:
            self._unjudged(flow, exchange)
        if not exchange.go_again:
            return False
        exchange.go_again, exchange.incoming = False, Incoming()
        refused, now = exchange.tries[-2], exchange.attempt
        logger.info("session %s: sent again, %s -> %s (%s)", exchange.named, refused.name, now.name, refused.outcome)
        # Only now, after all hooks saw the refused attempt, may the flow show the next identity.
        label(flow, now.name)
        return True

    def _unjudged(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Refuse an answer that was not judged because a hook of another addon raised, and ours was skipped."""
        response = flow.response
        acts = exchange.policy is not Policy.SWAP or (response is not None and is_held(response.status_code))
        if response is not None and flow.error is None and exchange.is_answered and acts:
            text = "session %s: a hook of another addon raised, and the %d of %s was not judged: answered with a 503"
            logger.warning(text, exchange.named, response.status_code, exchange.attempt.name)
            reason = "a hook of another addon raised, and the backend's answer was not judged"
            replace_response(flow, exchange, replies.failed_closed(reason))
        self.finish(flow)

    def fail(self, flow: http.HTTPFlow, error: Exception, doing: str) -> None:
        """Answer a request after an exception in one of our hooks: nothing leaves."""
        logger.error("%s failed: %s", doing, error, exc_info=error)
        exchange = self._flows.get(flow)
        refusal = replies.failed_closed(f"{doing} failed ({type(error).__name__})")
        if exchange is not None and flow.response is not None and flow.response.raw_content is None:
            exchange.failure = refusal  # Its head is here; its body would end up in our answer.
        elif exchange is not None:
            replace_response(flow, exchange, refusal)
        elif flow.response is None and self._flows.policy(flow.request).swaps:
            flow.response = refusal
            label(flow, "refused")
