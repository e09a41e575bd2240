"""Between a flow of mitmproxy and the words of the pool.

An exchange is one request of a client with all its attempts. The hooks of the addon come in here with a flow;
`codexpool.pool.recovery` is asked what to do; `codexpool.wire` puts it into headers and answers. Nothing here, and
nothing that goes wrong here, lets a request of a swap path leave undressed: `outbound` has the last word, it asks
the path policy itself, and it refuses what no identity was assigned to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool import backend, judging
from codexpool.dressing import Dressing
from codexpool.exchange import Attempt, Exchange, address_of, comment, prompt_cache_key
from codexpool.judging import Said, judge, learn
from codexpool.keeper import Keeper
from codexpool.pool.identity import Asked
from codexpool.pool.needs import nobody
from codexpool.pool.recovery import NobodyServes, Pause, Relay, Renew, Try, Wait, attempts
from codexpool.pool.verdict import NOT_PORTABLE, Finding, Verdict, is_held
from codexpool.sockets import Sockets, trim
from codexpool.wire import answers, headers, routes
from codexpool.wire.dress import label, put_on, take_off
from codexpool.wire.events import Beginning
from codexpool.wire.held import is_event_stream, scrub, show_own_id
from codexpool.wire.lighter import has_encrypted
from codexpool.wire.routes import MODELS, Policy

logger = logging.getLogger("codexpool")

SESSION_HEADERS = (b"thread-id", b"session-id", b"session_id")
"""Where a request names its conversation; the first that is there counts."""

SOCKET_PATH = "/backend-api/codex/responses"
"""Where an open WebSocket carries requests for the model."""

NO_TURN = frozenset({MODELS, backend.ACCOUNTS_CHECK})

PARENT = b"x-codex-parent-thread-id"
"""Where a sub-agent's request names the session that has started it."""

SMALL = 16_384
"""Bytes up to which an answer of known length is not streamed."""


class Exchanges:
    """All requests under way, and the sender (see `codexpool.wire.resend`) of those on swap paths.

    Without a keeper there is nobody to send as. ``closed`` says why, and requests of swap paths are refused with
    it; where it is empty no pool was configured, and nothing is touched. ``resends`` is False on a mitmproxy that
    `codexpool.wire.resend` does not fit: then flows are dressed themselves while they are in flight, and a refused
    request is answered with a 503, upon which Codex tries again.
    """

    def __init__(self, resends: bool) -> None:
        self.keeper: Keeper | None = None
        self.closed = "the pool is not set up yet"
        self.resends = resends
        self._said = ""
        self._hosts = BACKEND_ONLY
        """Of the backend and of all identities there were: a client may go on asking a host that nobody is at now."""
        self._under_way: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()
        self.dressing = Dressing()
        self.sockets = Sockets(self.dressing)

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
        self._under_way[flow] = exchange = Exchange(
            policy,
            address_of(request),
            _asked(values, routes.normalised(request.path.partition("?")[0])),
            values.get(b"chatgpt-account-id", b"").decode("latin-1"),
            values.get(b"upgrade", b"").lower() == b"websocket",
        )
        label_now = "waiting"
        try:
            if exchange.session is not None:
                self._start(exchange)
                if exchange.tries:
                    label_now = exchange.attempt.name
        finally:
            label(flow, label_now)

    async def assign(self, flow: http.HTTPFlow) -> None:
        """The request is whole: find the identity it is first sent under, or answer it."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            return
        if not exchange.tries:
            if exchange.steps is None:
                exchange.asked = exchange.asked._replace(session=prompt_cache_key(flow.request))
                self._start(exchange)
            await self._follow(flow, exchange)
            if exchange.tries:
                label(flow, exchange.attempt.name)
        if not self.resends and flow.response is None:
            match self.outbound(flow):
                case http.Request() as wire:
                    exchange.worn = put_on(flow, wire)
                case http.Response() as refusal:
                    _replace_response(flow, exchange, refusal)

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """See `codexpool.wire.resend.Sender`: the last look at a request before it is on the wire."""
        try:
            exchange = self._under_way.get(flow)
            if exchange is None:
                return self._unassigned(flow)
            if exchange.address != address_of(flow.request):
                return answers.failed_closed("another addon has rewritten the address of a request of the pool")
            if self.keeper is None or not exchange.tries:
                return answers.failed_closed(self.closed or "no identity was assigned; the proxy's log says why")
            if self.outdated(flow) and not self._reassign(flow, exchange):
                reason = "the identity of this request has ceased to serve meanwhile; try again"
                return answers.failed_closed(reason, at_once=True)
            exchange.attempt.at = time.time()
            session = self.keeper.pool.sessions.get(exchange.session)
            wire = self.dressing.request(flow.request, exchange.asked, session, exchange.attempt)
            exchange.attempt.is_sent = True
            return wire
        except Exception as error:
            logger.exception("a request could not be dressed")
            return answers.failed_closed(f"the request could not be dressed ({type(error).__name__})")

    def _unassigned(self, flow: http.HTTPFlow) -> http.Response | None:
        nobody_configured = self.keeper is None and not self.closed
        if nobody_configured or not self.policy(flow.request).swaps:
            return None
        label(flow, "refused")  # It may be recorded all the same, and the client's credential is a secret too.
        reason = self.closed if self.keeper is None else "no identity was assigned; the proxy's log says why"
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
            return self.keeper is None or self._is_outdated(exchange.attempt, self.keeper)
        except Exception:
            logger.exception("it could not be told whether a request is to leave as it is")
            return True  # `outbound` is asked once more, and has the last word.

    @staticmethod
    def _is_outdated(attempt: Attempt, keeper: Keeper) -> bool:
        identity = keeper.pool.identities.get(attempt.name)
        return identity is None or not identity.serves_on or identity.fingerprint != attempt.bearer.fingerprint

    def _reassign(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """The attempt was not sent: under whom now? Under the same identity, if there is nobody else.

        False where that one may not speak for anybody any more: it was removed, paused or condemned meanwhile.
        """
        assert exchange.steps is not None
        step = exchange.steps.send(None)
        assert isinstance(step, Try)
        if self.keeper is None or not self.keeper.pool.may_be_tried(step.identity):
            return False
        exchange.tries.pop()
        self._begin(exchange, step)
        label(flow, exchange.attempt.name)
        return True

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
        values = headers.first_values(response.headers.fields)
        if (turn_state := values.get(headers.TURN_STATE)) is not None:
            self.dressing.turn_states.issued(turn_state, exchange.attempt.metadata.key)
        if not is_held(response.status_code):
            assert self.keeper is not None
            judging.saw(self.keeper, exchange.asked, exchange.attempt, values)
            events = is_event_stream(response)
            is_small = _is_small(values.get(b"content-length")) and not events
            response.stream = exchange.policy is Policy.SWAP and not is_small
            # What is compressed cannot be read piece by piece: it is passed on at once.
            is_plain = values.get(b"content-encoding", b"identity") == b"identity"
            looks = events and is_plain and response.stream and self.resends
            exchange.beginning = Beginning() if looks else None
            if exchange.beginning is None:
                self._served(flow, exchange)

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
                self._served(flow, exchange)
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
        if exchange is None or not exchange.is_lost or self.keeper is None:
            return
        exchange.is_lost = False
        if exchange.is_answered:
            exchange.beginning = None
            await self._judge(flow, exchange, judging.NOTHING)
            if exchange.ours:
                flow.response = None  # The flow has ended in its error; the next request gets this answer.

    async def judge(self, flow: http.HTTPFlow) -> None:
        """An answer is whole: relay it, have the request sent again, or answer in its place."""
        exchange = self._under_way.get(flow)
        if exchange is None or exchange.ours or flow.response is None:
            return
        if exchange.failure is not None:
            _replace_response(flow, exchange, exchange.failure)
            return
        if not exchange.is_answered:
            return
        if not is_held(flow.response.status_code):
            if exchange.beginning is not None:  # It was passed on before it had said anything.
                exchange.beginning = None
                self._served(flow, exchange)
            if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
                show_own_id(flow.response, exchange.attempt.metadata.account_id, exchange.client_account)
            return
        scrub(flow.response, exchange.attempt.bearer.token, exchange.attempt.name)
        await self._judge(flow, exchange, judging.of_response(flow.response))

    async def _judge(self, flow: http.HTTPFlow, exchange: Exchange, said: Said) -> None:
        assert self.keeper is not None
        attempt, method = exchange.attempt, flow.request.method
        repeatable = not attempt.has_left or routes.is_repeatable(method, flow.request.path.partition("?")[0])
        lightens = self.resends and said.code == NOT_PORTABLE and not attempt.lighter and self._lightens(flow)
        verdict, evidence = judge(
            self.keeper, exchange.asked, attempt, method, said, repeatable=repeatable, lightens=lightens
        )
        attempt.outcome = str(evidence)
        learn(self.keeper, exchange.asked, attempt, said, verdict, evidence)
        if verdict.finding is Finding.NOT_PORTABLE:
            session = self.keeper.pool.sessions.get(exchange.session)
            self.dressing.not_portable(exchange.asked, session, attempt)
        tries = len(exchange.tries)
        self._take_step(exchange, verdict)
        await self._follow(flow, exchange)
        exchange.go_again = len(exchange.tries) > tries
        if exchange.go_again and not self.resends:
            _replace_response(flow, exchange, answers.failed_closed("refused; try again, under another identity"))
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
        logger.info(
            "session %s: sent again, %s -> %s (%s)", exchange.session or "-", refused.name, now.name, refused.outcome
        )
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
            _replace_response(flow, exchange, refusal)
        elif flow.response is None and self.policy(flow.request).swaps:
            flow.response = refusal
            label(flow, "refused")

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is open from now on."""
        exchange = self._under_way.get(flow)
        if exchange is not None and exchange.is_answered and exchange.asked.path == SOCKET_PATH:
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
        if self.keeper is not None:
            self.sockets.closed(flow, self.keeper)

    # -- steps

    def _start(self, exchange: Exchange) -> None:
        """Begin with the attempts, as far as that needs no waiting."""
        assert self.keeper is not None
        exchange.steps = attempts(self.keeper.pool, exchange.asked, time.time, time.monotonic)
        self._take_step(exchange, None)

    def _take_step(self, exchange: Exchange, verdict: Verdict | None) -> None:
        """Ask the recovery what is next; an attempt is begun at once."""
        assert exchange.steps is not None
        try:
            exchange.step = exchange.steps.send(verdict)
        except StopIteration as end:
            exchange.step = end.value
        if isinstance(exchange.step, Try):
            self._begin(exchange, exchange.step)

    async def _follow(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Wait, as often as the recovery says so, until there is an attempt or an end."""
        assert self.keeper is not None
        while not isinstance(exchange.step, Try | Relay | NobodyServes):
            match exchange.step:
                case Wait(seconds):
                    await self.keeper.change(seconds)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Renew(identity, seconds):
                    await self.keeper.renewal(identity, seconds)
            self._take_step(exchange, None)
        if isinstance(exchange.step, NobodyServes):
            self._nobody_serves(flow, exchange)

    def _begin(self, exchange: Exchange, step: Try) -> None:
        assert self.keeper is not None
        identity = step.identity
        bearer = self.keeper.bearer(identity.name)
        if identity.metadata is None or identity.fingerprint != bearer.fingerprint:
            # Never one identity's token with another one's account: pool.toml has changed in between.
            raise RuntimeError(f"{identity.name} is not who it was when it was chosen")
        exchange.tries.append(Attempt(identity.name, bearer, identity.metadata, time.time(), step.lighter))

    def _nobody_serves(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        assert self.keeper is not None
        now = time.time()
        why = nobody(self.keeper.pool, exchange.asked, now)
        if why.message != self._said:
            logger.warning("session %s: %s", exchange.session or "-", why.message)
            self._said = why.message  # Until it changes, the client is told each time, and the log once.
        if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
            answer = answers.discovered(exchange.client_account)
        else:
            answer = answers.unservable(
                *(why.message, why.summary, exchange.upgrade, why.returns_at, why.is_limit, now)
            )
        _replace_response(flow, exchange, answer)
        comment(flow, exchange)

    def _served(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        assert self.keeper is not None
        self._said = ""
        self.keeper.served(exchange.attempt.name, exchange.asked, exchange.attempt.at)
        comment(flow, exchange)


def _asked(values: dict[bytes, bytes], path: str) -> Asked:
    """What a request is about, as its headers say it."""
    session = next((value for name in SESSION_HEADERS if (value := values.get(name))), None)
    parent = values.get(PARENT)
    return Asked(
        session.decode("latin-1") if session is not None else None,
        path,
        parent.decode("latin-1") if parent else None,
        headers.model_of(values),
        path not in NO_TURN,
    )


BACKEND_ONLY = frozenset({backend.HOST})
"""The hosts of the path policy as long as no identity names another one."""


def _is_small(content_length: bytes | None) -> bool:
    """Whether an answer comes in one piece anyway: then a person may see its body in the flow."""
    return content_length is not None and content_length.isdigit() and int(content_length) <= SMALL


def _replace_response(flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
    exchange.ours = True
    exchange.go_again = False
    flow.response = response
