"""Between a flow of mitmproxy and the words of the pool.

An exchange is one request of a client with all its attempts. The hooks of the addon come in here with a flow;
`codexpool.pool.recovery` is asked what to do; `codexpool.wire` puts it into headers and answers. Nothing here, and
nothing that goes wrong here, lets a request of a swap path leave undressed: `outbound` has the last word, it asks
the path policy itself, and it refuses what no identity was assigned to.
"""

from __future__ import annotations

import logging
import time
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool import judging, tracing
from codexpool.course import Course
from codexpool.dressing import Dressing
from codexpool.exchange import Exchange, address_of, asked_of, comment, prompt_cache_key, replace_response
from codexpool.judging import Said, judge, learn
from codexpool.keeper import Keeper
from codexpool.pool.verdict import NOT_PORTABLE, Finding, is_held
from codexpool.sockets import Sockets, trim
from codexpool.traces.history import History
from codexpool.wire import answers, headers, routes
from codexpool.wire.dress import label, put_on, take_off
from codexpool.wire.events import Beginning
from codexpool.wire.held import is_event_stream, scrub, show_own_id
from codexpool.wire.lighter import has_encrypted
from codexpool.wire.routes import Policy

logger = logging.getLogger("codexpool")

SOCKET_PATH = "/backend-api/codex/responses"
"""Where an open WebSocket carries requests for the model."""

SMALL = 16_384
"""Bytes up to which an answer of known length is not streamed."""


class Exchanges:
    """All requests under way, and the sender (see `codexpool.wire.resend`) of those on swap paths.

    Without a keeper there is nobody to send as. ``closed`` says why, and requests of swap paths are refused with
    it; where it is empty no pool was configured, and nothing is touched. ``resends`` is False on a mitmproxy that
    `codexpool.wire.resend` does not fit: then flows are dressed themselves while they are in flight, and a refused
    request is answered with a 503, upon which Codex tries again.
    """

    def __init__(self, resends: bool, history: History) -> None:
        self.history = history
        self.course = Course(history)
        self.closed = "the pool is not set up yet"
        self.resends = resends
        self._hosts = routes.BACKEND_ONLY
        """Of the backend and of all identities there were: a client may go on asking a host that nobody is at now."""
        self._under_way: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()
        self.dressing = Dressing()
        self.sockets = Sockets(self.dressing, history)

    @property
    def keeper(self) -> Keeper | None:
        """Who knows the identities; None where there is nobody to send as."""
        return self.course.keeper

    @keeper.setter
    def keeper(self, keeper: Keeper | None) -> None:
        self.course.keeper = keeper

    def policy(self, request: http.Request) -> Policy:
        """The path policy for a request as it would leave."""
        data = request.data
        hosts = self._hosts
        if self.keeper is not None and not self.keeper.hosts <= hosts:
            hosts = self._hosts = hosts | self.keeper.hosts
        if data.host.lower() not in hosts:
            return Policy.NEVER
        scheme, method, path = (text.decode("latin-1") for text in (data.scheme, data.method, data.path))
        return routes.policy(scheme, data.host, data.port, method, path, hosts)

    # -- hooks, in the order of a request's life

    def open(self, flow: http.HTTPFlow) -> None:
        """A request's headers have come: if it is to be swapped, take the client's credential out of the flow.

        The identity is chosen at once if somebody is ready and the session is known, so that the flow is labelled
        once only; should the identity change until the request leaves, `outbound` notices.
        """
        policy = self.policy(flow.request)
        if not policy.swaps or self.keeper is None:
            return
        request = flow.request
        request.stream = False
        values = headers.first_values(request.headers.fields)
        upgrade = values.get(b"upgrade", b"").lower() == b"websocket"
        asked, source = asked_of(values, routes.normalised(request.path.partition("?")[0]))
        trace = tracing.begun(flow, policy, asked, source, upgrade)
        self._under_way[flow] = exchange = Exchange(
            policy,
            address_of(request),
            asked,
            values.get(b"chatgpt-account-id", b"").decode("latin-1"),
            upgrade,
            trace,
        )
        self.history.begins(trace)
        label_now = "waiting"
        try:
            if exchange.session is not None:
                self.course.start(exchange)
                if exchange.tries:
                    label_now = exchange.attempt.name
        finally:
            label(flow, label_now)

    async def assign(self, flow: http.HTTPFlow) -> None:
        """The request is whole: find the identity it is first sent under, or answer it."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            return
        trace = exchange.trace
        trace.whole_at, trace.request_bytes = time.time(), len(flow.request.raw_content or b"")
        if not exchange.tries:
            if exchange.steps is None:
                exchange.asked = exchange.asked._replace(session=prompt_cache_key(flow.request))
                if exchange.session is not None:
                    trace.session, trace.source = exchange.session, "prompt_cache_key"
                self.course.start(exchange)
            await self.course.follow(flow, exchange)
            if exchange.tries:
                label(flow, exchange.attempt.name)
        if not self.resends and flow.response is None:
            match self.outbound(flow):
                case http.Request() as wire:
                    exchange.worn = put_on(flow, wire)
                case http.Response() as refusal:
                    replace_response(flow, exchange, refusal)

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """See `codexpool.wire.resend.Sender`: the last look at a request before it is on the wire."""
        exchange = self._under_way.get(flow)
        wire = self._outbound(flow, exchange)
        if exchange is not None and isinstance(wire, http.Response):
            exchange.ours = True
        return wire

    def _outbound(self, flow: http.HTTPFlow, exchange: Exchange | None) -> http.Request | http.Response | None:
        try:
            if exchange is None:
                return self._unassigned(flow)
            if exchange.address != address_of(flow.request):
                return answers.failed_closed("another addon has rewritten the address of a request of the pool")
            if self.keeper is None or not exchange.tries:
                return answers.failed_closed(self.closed or "no identity was assigned; the proxy's log says why")
            if self.outdated(flow) and not self.course.begin_anew(flow, exchange):
                reason = "the identity of this request has ceased to serve meanwhile; try again"
                return answers.failed_closed(reason, at_once=True)
            exchange.attempt.at = time.time()
            session = self.keeper.pool.sessions.get(exchange.session)
            wire = self.dressing.request(flow.request, exchange.asked, session, exchange.attempt)
            exchange.attempt.is_sent = True
            exchange.attempt.trace.sent(wire.headers.fields, exchange.attempt.at)
            return wire
        except Exception as error:
            logger.exception("a request could not be dressed")
            return answers.failed_closed(f"the request could not be dressed ({type(error).__name__})")

    def _unassigned(self, flow: http.HTTPFlow) -> http.Response | None:
        nobody_configured = self.keeper is None and not self.closed
        if nobody_configured or not self.policy(flow.request).swaps:
            return None
        reason = self.closed if self.keeper is None else "no identity was assigned; the proxy's log says why"
        tracing.turned_away(self.history, flow, self.policy(flow.request), reason)
        label(flow, "refused")  # It may be recorded all the same, and the client's credential is a secret too.
        return answers.failed_closed(reason)

    def outdated(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.wire.resend.Sender`: whether the identity of the attempt has ceased to serve meanwhile.

        One that is about to have another token has not: the session is to stay with it, and a refusal costs nothing.
        """
        try:
            exchange = self._under_way.get(flow)
            if exchange is None or not exchange.tries:
                return False
            exchange.attempt.has_left = True  # Unless it is, and then another attempt takes its place.
            return self.course.is_outdated(exchange)
        except Exception:
            logger.exception("it could not be told whether a request is to leave as it is")
            return True  # `outbound` is asked once more, and has the last word.

    def headers_came(self, flow: http.HTTPFlow) -> None:
        """An answer begins: hold it if it may have to be acted upon, else let it stream from its first byte."""
        self.undress(flow)
        exchange = self._under_way.get(flow)
        response = flow.response
        if response is None:
            return
        if exchange is None:
            self._stream_a_strangers(flow, response)
            return
        if not exchange.is_answered:
            return
        exchange.attempt.trace.answered(response.status_code, response.headers.fields, time.time())
        values = headers.first_values(response.headers.fields)
        if (turn_state := values.get(headers.TURN_STATE)) is not None:
            self.dressing.turn_states.issued(turn_state, exchange.attempt.metadata.key)
        if not is_held(response.status_code):
            assert self.keeper is not None
            judging.saw(self.keeper, exchange.asked, exchange.attempt, values)
            events = is_event_stream(response)
            is_small = _is_small(values.get(b"content-length")) and not events
            response.stream = exchange.trace.passed if exchange.policy is Policy.SWAP and not is_small else False
            # What is compressed cannot be read piece by piece: it is passed on at once.
            is_plain = values.get(b"content-encoding", b"identity") == b"identity"
            looks = events and is_plain and bool(response.stream) and self.resends
            exchange.beginning = Beginning() if looks else None
            if exchange.beginning is None:
                self.course.served(flow, exchange)

    def _stream_a_strangers(self, flow: http.HTTPFlow, response: http.Response) -> None:
        """A request that was under way before a reload is not known here; its answer is streamed all the same."""
        if not is_held(response.status_code) and self.policy(flow.request) is Policy.SWAP:
            response.stream = True

    def holds(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.wire.resend.Sender`: whether the beginning of a stream is looked at first."""
        exchange = self._under_way.get(flow)
        return exchange is not None and exchange.beginning is not None

    def begins(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        """See `codexpool.wire.resend.Sender`: whether a stream answers, or has failed in a way that is the pool's."""
        try:
            exchange = self._under_way.get(flow)
            if exchange is None or exchange.beginning is None:
                return True
            found = exchange.beginning.take(piece)
            if found is False:
                return False
            exchange.beginning = None
            said = judging.of_failure(found) if isinstance(found, dict) else None
            if said is None:
                self.course.served(flow, exchange)
                return True
            assert flow.response is not None
            return answers.failed_stream(flow.response, said.status, said.error)
        except Exception:
            logger.exception("the beginning of a stream could not be read")
            return True

    def lost(self, flow: http.HTTPFlow) -> None:
        """See `codexpool.wire.resend.Sender`: the connection was lost, and nothing was passed on."""
        exchange = self._under_way.get(flow)
        if exchange is not None:
            exchange.is_lost = True

    async def judge_loss(self, flow: http.HTTPFlow) -> None:
        """A flow has ended in an error: if its connection was lost before the first byte, is it to be sent again?"""
        self.undress(flow)
        exchange = self._under_way.get(flow)
        if exchange is None:
            return
        if exchange.is_lost and exchange.is_answered and self.keeper is not None:
            exchange.beginning = None
            if exchange.attempt.trace.status is None:
                exchange.attempt.trace.answered(0, (), time.time())
            await self._judge(flow, exchange, judging.NOTHING)
            if exchange.ours:
                flow.response = None  # The flow has ended in its error; the next request gets this answer.
        exchange.is_lost = False

    async def judge(self, flow: http.HTTPFlow) -> None:
        """An answer is whole: relay it, have the request sent again, or answer in its place."""
        exchange = self._under_way.get(flow)
        if exchange is None or flow.response is None:
            return
        if exchange.failure is not None:
            replace_response(flow, exchange, exchange.failure)
        elif exchange.is_answered:
            await self._judge_answer(flow, exchange, flow.response)

    async def _judge_answer(self, flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
        if not is_held(response.status_code):
            if exchange.beginning is not None:  # It was passed on before it had said anything.
                exchange.beginning = None
                self.course.served(flow, exchange)
            if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
                show_own_id(response, exchange.attempt.metadata.account_id, exchange.client_account)
            return
        scrub(response, exchange.attempt.bearer.token, exchange.attempt.name)
        await self._judge(flow, exchange, judging.of_response(response))

    async def _judge(self, flow: http.HTTPFlow, exchange: Exchange, said: Said) -> None:
        assert self.keeper is not None
        attempt, method = exchange.attempt, flow.request.method
        repeatable = not attempt.has_left or routes.is_repeatable(method, flow.request.path.partition("?")[0])
        lightens = self.resends and said.code == NOT_PORTABLE and not attempt.lighter and self._lightens(flow)
        verdict, evidence = judge(
            self.keeper, exchange.asked, attempt, method, said, repeatable=repeatable, lightens=lightens
        )
        attempt.outcome = attempt.trace.evidence = str(evidence)
        attempt.trace.verdict = verdict
        self.history.judged(attempt.name, verdict)
        learn(self.keeper, exchange.asked, attempt, said, verdict, evidence)
        if verdict.finding is Finding.NOT_PORTABLE:
            session = self.keeper.pool.sessions.get(exchange.session)
            self.dressing.not_portable(exchange.asked, session, attempt)
        tries = len(exchange.tries)
        self.course.judged(exchange, verdict)
        await self.course.follow(flow, exchange)
        exchange.go_again = len(exchange.tries) > tries
        if exchange.go_again and not self.resends:
            replace_response(flow, exchange, answers.failed_closed("refused; try again, under another identity"))
        comment(flow, exchange)

    @staticmethod
    def _lightens(flow: http.HTTPFlow) -> bool:
        encoding = flow.request.headers.get("content-encoding", "")
        return has_encrypted(flow.request.raw_content or b"", encoding)

    def undress(self, flow: http.HTTPFlow) -> None:
        """Without `codexpool.wire.resend`: an answer or an error has come, and the flow shows no secret any more."""
        exchange = self._under_way.get(flow)
        if exchange is not None and exchange.worn is not None:
            take_off(flow, exchange.worn)
            exchange.worn = None

    def undress_all(self) -> None:
        """The end: what is still under way goes into dumps as it is then."""
        for flow in list(self._under_way):
            self.undress(flow)

    def is_over(self, flow: http.HTTPFlow) -> bool:
        """Whether the answer, or the error, that a flow has now is the one the client gets: then its trace ends."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            return True
        if not exchange.go_again:
            tracing.over(self.history, flow, exchange)
        return not exchange.go_again

    def again(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.wire.resend.Sender`: whether the held answer is dropped and the request sent again."""
        try:
            return self._is_sent_again(flow)
        except Exception as error:
            self.fail(flow, error, "sending a request again")
            return False

    def _is_sent_again(self, flow: http.HTTPFlow) -> bool:
        exchange = self._under_way.get(flow)
        if exchange is None:
            return False
        if self.keeper is None and flow.response is not None and is_held(flow.response.status_code):
            # The addon went away in the middle of this request, and nobody has judged the answer.
            flow.response = answers.failed_closed(self.closed)
        if not exchange.go_again:
            return False
        exchange.go_again = False
        refused, now = exchange.tries[-2], exchange.attempt
        logger.info("session %s: sent again, %s -> %s (%s)", exchange.named, refused.name, now.name, refused.outcome)
        # Only now, with the hooks of the refused attempt behind it, may the flow say who is next.
        label(flow, now.name)
        return True

    def fail(self, flow: http.HTTPFlow, error: Exception, doing: str) -> None:
        """Something of ours broke in a hook: the client is told, and nothing leaves."""
        logger.error("%s failed: %s", doing, error, exc_info=error)
        exchange = self._under_way.get(flow)
        refusal = answers.failed_closed(f"{doing} failed ({type(error).__name__})")
        if exchange is not None and flow.response is not None and flow.response.raw_content is None:
            exchange.failure = refusal  # Its head is here, its body would still be put into ours.
        elif exchange is not None:
            replace_response(flow, exchange, refusal)
        elif flow.response is None and self.policy(flow.request).swaps:
            flow.response = refusal
            label(flow, "refused")

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is open from now on."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            return
        self.history.socket_opened(exchange.trace)
        if exchange.is_answered and exchange.asked.path == SOCKET_PATH:
            self.sockets.opened(flow, exchange)

    def message_came(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come: act upon it, and forget all but the last few of its connection."""
        try:
            if self.keeper is not None and flow in self._under_way:
                self.sockets.message(flow, self.keeper)
            elif self.keeper is not None and self.policy(flow.request).swaps:
                self.sockets.stranger(flow)
        except Exception:  # It is passed on as it is: nothing secret is in it, nor could it be answered.
            logger.exception("a message could not be read")
        if flow in self._under_way or self.policy(flow.request).swaps:
            trim(flow)

    def socket_closed(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is closed."""
        exchange, socket = self._under_way.get(flow), flow.websocket
        if self.keeper is not None:
            self.sockets.closed(flow, self.keeper)
        if exchange is not None and socket is not None:
            by = "the client" if socket.closed_by_client else "the backend"
            self.history.socket_closed(exchange.trace, f"by {by} ({socket.close_code})")


def _is_small(content_length: bytes | None) -> bool:
    """Whether an answer comes in one piece anyway: then a person may see its body in the flow."""
    return content_length is not None and content_length.isdigit() and int(content_length) <= SMALL
