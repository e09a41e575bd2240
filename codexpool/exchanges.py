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

from codexpool import backend
from codexpool.exchange import Attempt, Exchange, address_of, comment, prompt_cache_key
from codexpool.keeper import Keeper
from codexpool.pool.identity import Evidence, Kind, Status
from codexpool.pool.needs import nobody
from codexpool.pool.recovery import NobodyServes, Relay, Renew, Try, Wait, attempts
from codexpool.pool.verdict import Answer, Finding, Verdict, classify, is_held
from codexpool.turn_states import TurnStates
from codexpool.wire import answers, headers, routes
from codexpool.wire.dress import Clothes, dressed, label, put_on, take_off
from codexpool.wire.errors import error_of
from codexpool.wire.held import decoded, is_event_stream, is_page, scrub, show_own_id
from codexpool.wire.routes import Policy

logger = logging.getLogger("codexpool")

SESSION_HEADERS = (b"thread-id", b"session-id", b"session_id")
"""Where a request names its conversation; the first that is there counts."""

SMALL = 16_384
"""Bytes up to which an answer of known length is not streamed."""

MESSAGES_KEPT = 16
"""Messages of a WebSocket that a flow shows; mitmproxy would keep them all until it is closed."""


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
        self._turn_states = TurnStates()

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
            routes.normalised(request.path.partition("?")[0]),
            values.get(b"chatgpt-account-id", b"").decode("latin-1"),
            values.get(b"upgrade", b"").lower() == b"websocket",
        )
        session = next((value for name in SESSION_HEADERS if (value := values.get(name))), None)
        label_now = "waiting"
        try:
            if session is not None:
                exchange.session = session.decode("latin-1")
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
                exchange.session = prompt_cache_key(flow.request)
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
                return answers.failed_closed("the identity of this request has ceased to serve meanwhile; try again")
            exchange.attempt.at = time.time()
            wire = self._dressed(flow.request, exchange.attempt)
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
            return self.keeper is None or self._is_outdated(exchange.attempt, self.keeper)
        except Exception:
            logger.exception("it could not be told whether a request is to leave as it is")
            return True  # `outbound` is asked once more, and has the last word.

    @staticmethod
    def _is_outdated(attempt: Attempt, keeper: Keeper) -> bool:
        identity = keeper.pool.identities.get(attempt.name)
        return (
            identity is None
            or not (identity.status is Status.READY or identity.is_in_renewal)
            or identity.fingerprint != attempt.bearer.fingerprint
        )

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
            self._turn_states.issued(turn_state, exchange.attempt.metadata.key)
        if not is_held(response.status_code):
            self._served(flow, exchange)
            is_small = _is_small(values.get(b"content-length")) and not is_event_stream(response)
            response.stream = exchange.policy is Policy.SWAP and not is_small

    def _stream_a_strangers(self, flow: http.HTTPFlow, response: http.Response) -> None:
        """A request that was under way before a reload is not known here; its answer is streamed all the same."""
        if not is_held(response.status_code) and self.policy(flow.request) is Policy.SWAP:
            response.stream = True

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
            if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
                show_own_id(flow.response, exchange.attempt.metadata.account_id, exchange.client_account)
            return
        scrub(flow.response, exchange.attempt.bearer.token, exchange.attempt.name)
        verdict, evidence = self._verdict(flow, exchange)
        exchange.attempt.outcome = str(evidence)
        self._learn(exchange, verdict, evidence)
        tries = len(exchange.tries)
        self._take_step(exchange, verdict)
        await self._follow(flow, exchange)
        exchange.go_again = len(exchange.tries) > tries
        if exchange.go_again and not self.resends:
            _replace_response(flow, exchange, answers.failed_closed("refused; try again, under another identity"))
        comment(flow, exchange)

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

    def trim(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come: forget all but the last few of its connection."""
        if flow.websocket is not None and (flow in self._under_way or self.policy(flow.request).swaps):
            del flow.websocket.messages[:-MESSAGES_KEPT]

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

    # -- steps

    def _start(self, exchange: Exchange) -> None:
        """Begin with the attempts, as far as that needs no waiting."""
        assert self.keeper is not None
        exchange.steps = attempts(self.keeper.pool, exchange.session, exchange.path, time.time)
        if self.keeper.pool.can_serve(exchange.path, time.time()):
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
        exchange.tries.append(Attempt(identity.name, bearer, identity.metadata, time.time()))

    def _nobody_serves(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        assert self.keeper is not None
        message = nobody(self.keeper.pool, exchange.path, time.time())
        if message != self._said:
            logger.warning("session %s: %s", exchange.session or "-", message)
            self._said = message  # Until it changes, the client is told each time, and the log once.
        if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
            answer = answers.discovered(exchange.client_account)
        else:
            answer = answers.unservable(message, exchange.upgrade)
        _replace_response(flow, exchange, answer)
        comment(flow, exchange)

    def _served(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        assert self.keeper is not None
        self.keeper.pool.succeeded(exchange.attempt.name)
        self._said = ""
        self.keeper.served(exchange.attempt.name, exchange.session)
        comment(flow, exchange)

    # -- verdicts

    def _verdict(self, flow: http.HTTPFlow, exchange: Exchange) -> tuple[Verdict, Evidence]:
        assert self.keeper is not None
        assert flow.response is not None
        response, attempt = flow.response, exchange.attempt
        body = decoded(response)
        code, message = error_of(response.headers, body)
        identity = self.keeper.pool.identities.get(attempt.name)
        answer = Answer(
            response.status_code,
            kind=Kind.PAT if identity is None else identity.kind,
            current=identity is None or identity.fingerprint == attempt.bearer.fingerprint,
            html=is_page(response, body),
            mitigated="cf-mitigated" in response.headers,
            code=code,
            message=message,
        )
        evidence = Evidence(
            time.time(),
            flow.request.method,
            exchange.path,
            response.status_code,
            code,
            response.headers.get("x-request-id", ""),
            attempt.bearer.fingerprint,
        )
        return classify(answer), evidence

    def _learn(self, exchange: Exchange, verdict: Verdict, evidence: Evidence) -> None:
        assert self.keeper is not None
        pool, name = self.keeper.pool, exchange.attempt.name
        match verdict.finding:
            case Finding.REFUSED:
                pool.refused(name, evidence, exchange.attempt.at, evidence.at)
            case Finding.NOT_FOR_THIS_KIND:
                if pool.not_for_kind(name, exchange.path, evidence.at):
                    logger.warning("%s: %s; this kind of credential is not tried there again", name, evidence)
            case Finding.EDGE:
                logger.warning("%s: a page of the content network, not of the backend (%s)", name, evidence)
            case _:
                pass

    # -- the wire copy

    def _dressed(self, request: http.Request, attempt: Attempt) -> http.Request:
        metadata = attempt.metadata
        clothes = Clothes(
            attempt.bearer.token,
            metadata.account_id,
            metadata.fedramp,
            metadata.routing_override,
            metadata.origin,
        )
        return dressed(request, clothes, self._turn_states.fit(request.headers.fields, metadata.key))


BACKEND_ONLY = frozenset({backend.HOST})
"""The hosts of the path policy as long as no identity names another one."""


def _is_small(content_length: bytes | None) -> bool:
    """Whether an answer comes in one piece anyway: then a person may see its body in the flow."""
    return content_length is not None and content_length.isdigit() and int(content_length) <= SMALL


def _replace_response(flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
    exchange.ours = True
    exchange.go_again = False
    flow.response = response
