"""Between a flow of mitmproxy and the words of the pool.

An exchange is one request of a client with all its attempts. The hooks of the addon come in here with a flow;
`codexpool.pool.recovery` is asked what to do; `codexpool.proxy.outgoing` puts it into headers. Nothing here, and
nothing that goes wrong here, lets a request of a swap path leave undressed: `outbound` has the last word, it asks
the path policy itself, and it refuses what no identity was assigned to.
"""

from __future__ import annotations

import logging
import time

from mitmproxy import http

from codexpool.members import persona
from codexpool.members.access import Gets
from codexpool.members.register import Member
from codexpool.pool.identity import Asked
from codexpool.protocol import headers, routes
from codexpool.protocol.inflate import UnreadableError
from codexpool.protocol.routes import Policy
from codexpool.proxy import probe as probing
from codexpool.proxy import replies, tracer
from codexpool.proxy.answers import Answering
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import (
    Exchange,
    address_of,
    asked_of,
    model_in_body,
    of_whom,
    prompt_cache_key,
    replace_response,
    session_of,
)
from codexpool.proxy.find_keys import carries_key, hide_key, take_key_out
from codexpool.proxy.sockets import trim
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class Exchanges(Answering):
    """All requests under way, and the sender (see `codexpool.proxy.resend`) of those on swap paths.

    Without a keeper there is nobody to send as. ``closed`` says why, and requests of swap paths are refused with
    it; where it is empty no pool was configured, and nothing is touched.
    """

    def changed(self, keeper: Keeper) -> None:
        """Something about the identities or the members has changed."""
        self.gate.follow(keeper.config)
        self.turns.follow(keeper.config.turns_at_once if keeper.config is not None else None)
        self.sockets.changed(keeper)

    # -- hooks, in the order of a request's life

    def open(self, flow: http.HTTPFlow) -> None:
        """A request's headers have come: if it is to be swapped, take the client's credential out of the flow.

        The identity is chosen at once if somebody is ready and the session is known, so that the flow is labelled
        once only; should the identity change until the request leaves, `outbound` notices.
        """
        policy = self.policy(flow.request)
        entrance = self.gate.enter(flow, policy, self.keeper, self.closed)
        is_let_in = entrance.gets is Gets.SWAPPED or (entrance.gets is Gets.UNTOUCHED and policy.swaps)
        if not is_let_in or self.keeper is None:
            return
        member, request = entrance.member, flow.request
        policy = Policy.SWAP if policy is Policy.LENT else policy
        request.stream = False
        values = headers.first_values(request.headers.fields)
        # Only a GET upgrades: a POST that says so is a request for the model, and counts as one.
        upgrade = values.get(b"upgrade", b"").lower() == b"websocket" and request.method == "GET"
        asked, source = asked_of(values, routes.normalised(request.path.partition("?")[0]))
        name = member.name if member is not None else ""
        trace = tracer.begun(flow, policy, asked, source, upgrade, name)
        asked = of_whom(asked, member, self._who_serves(member, asked) if member is not None else None)
        probe = probing.probe_of(values)
        asked = asked._replace(is_turn=False) if probe else asked
        self._under_way[flow] = exchange = Exchange(
            policy,
            address_of(request),
            asked,
            member.account_id if member is not None else values.get(headers.ACCOUNT, b"").decode("latin-1"),
            upgrade,
            trace,
            member=member,
            probe=probe,
        )
        self.history.begins(trace)
        label_now = "waiting"
        try:
            if exchange.session is not None and not self._waits_for_model(exchange):
                self.course.start(exchange)
                if exchange.tries:
                    label_now = exchange.attempt.name
        finally:
            label(flow, label_now)

    def _who_serves(self, member: Member, asked: Asked) -> frozenset[str] | None:
        assert self.keeper is not None
        lent = routes.path_policy("GET", asked.path) is Policy.LENT
        return persona.of_its_plan(self.keeper.pool, member) if lent else member.identities

    def turns_away(self, flow: http.HTTPFlow, reason: str) -> bool:
        """Answer a request of a swap path that is not to be begun with any more; whether it is one."""
        policy = self.policy(flow.request)
        if not policy.swaps or self.keeper is None:
            return False
        tracer.turned_away(self.history, flow, policy, reason)
        hide_key(flow)
        label(flow, "refused")
        flow.response = replies.failed_closed(reason, at_once=True)
        return True

    def end_sockets(self) -> None:
        """The proxy ends: open sockets are to connect again, elsewhere."""
        self.sockets.end()

    @property
    def open_sockets(self) -> int:
        """The sockets of swap paths that are open."""
        return len(self.sockets)

    async def assign(self, flow: http.HTTPFlow) -> None:
        """The request is whole: find the identity it is first sent under, or answer it."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            await self.gate.answer(flow, self.keeper)
            return
        trace = exchange.trace
        trace.whole_at, trace.request_bytes = time.time(), len(flow.request.raw_content or b"")
        keeper = self.keeper
        assert keeper is not None
        if exchange.member is not None and not await self._has_no_key_within(flow, exchange):
            return
        if exchange.is_turn and not await self.turns.begins(flow, exchange, keeper):
            return
        if not exchange.tries and self.course.goes_on(keeper, flow, exchange):
            if exchange.steps is None:
                await self._read_body(flow, exchange)
                self.course.start(exchange)
            await self.course.follow(flow, exchange)
            if exchange.tries:
                label(flow, exchange.attempt.name)
        await self.prepare(flow, exchange)

    def _waits_for_model(self, exchange: Exchange) -> bool:
        """Whether it matters which model a request asks, and only its body says so."""
        assert self.keeper is not None
        asked = exchange.asked
        return not (asked.model or asked.is_side or exchange.upgrade) and self.keeper.pool.exclusions.knows_models

    async def _read_body(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """What the headers do not say, the body may."""
        if self._waits_for_model(exchange):
            exchange.asked = exchange.asked._replace(model=await model_in_body(flow.request))
        if exchange.session is not None or (key := await prompt_cache_key(flow.request)) is None:
            return
        exchange.trace.session, exchange.trace.source = key, "prompt_cache_key"
        exchange.asked = exchange.asked._replace(session=session_of(key, exchange.member))

    async def _has_no_key_within(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Whether the body of a member's request holds no key any more; else it has an answer of ours."""
        try:
            if await take_key_out(flow):
                logger.warning("session %s: a member key was in a request, and was taken out", exchange.named)
        except UnreadableError as error:
            reason = f"the body cannot be looked into ({error}), and a member key may be in it"
            replace_response(flow, exchange, replies.unreadable(reason))
            return False
        return True

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """See `codexpool.proxy.resend.Sender`: the last look at a request before it is on the wire."""
        exchange = self._under_way.get(flow)
        wire = self._outbound(flow, exchange)
        if exchange is not None and isinstance(wire, http.Response):
            exchange.ours = True
        return wire

    def _outbound(self, flow: http.HTTPFlow, exchange: Exchange | None) -> http.Request | http.Response | None:
        try:
            if carries_key(flow.request):  # A member's own was taken out; nothing else is ever let in with one.
                hide_key(flow)
                return replies.withheld("a member key does not leave this proxy")
            if exchange is None and self.gate.answers(flow):  # Another addon has its body pass by.
                return replies.withheld("this request has its answer from here")
            if exchange is None:
                return self._unassigned(flow)
            if exchange.address != address_of(flow.request):
                return replies.failed_closed("another addon has rewritten the address of a request of the pool")
            if exchange.trace.whole_at is None:
                return replies.failed_closed("a hook of another addon raised, and this request was not looked at")
            if self.keeper is None or not exchange.tries:
                return replies.failed_closed(self.closed or "no identity was assigned; the proxy's log says why")
            if self.outdated(flow) and not self.course.begin_anew(flow, exchange):
                reason = "the identity of this request has ceased to serve meanwhile; try again"
                return replies.failed_closed(reason, at_once=True)
            if not self.gate.may_go_on(exchange.member):
                name = exchange.member.name if exchange.member is not None else ""
                why = f"the key of {name} was taken away" if name else "the pool has become one for members"
                return replies.refused(f"{why} meanwhile")
            exchange.attempt.at = time.time()
            session = self.keeper.pool.sessions.get(exchange.session)
            wire = self.dressing.request(flow.request, exchange.asked, session, exchange.attempt)
            if exchange.probe:
                return probing.answer(exchange, wire)
            exchange.attempt.is_sent = True
            exchange.attempt.trace.sent(wire.headers.fields, exchange.attempt.at)
            return wire
        except Exception as error:
            logger.exception("a request could not be dressed")
            return replies.failed_closed(f"the request could not be dressed ({type(error).__name__})")

    def _unassigned(self, flow: http.HTTPFlow) -> http.Response | None:
        self.tunnels.name(flow)  # Its hooks may have been skipped.
        nobody_configured = self.keeper is None and not self.closed
        if nobody_configured or not self.policy(flow.request).swaps:
            return None
        reason = self.closed if self.keeper is None else "no identity was assigned; the proxy's log says why"
        tracer.turned_away(self.history, flow, self.policy(flow.request), reason)
        label(flow, "refused")  # It may be recorded all the same, and the client's credential is a secret too.
        return replies.failed_closed(reason)

    def outdated(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.proxy.resend.Sender`: whether the identity of the attempt has ceased to serve meanwhile.

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

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        """A WebSocket is open from now on."""
        exchange = self._under_way.get(flow)
        if exchange is None:
            return
        self.history.socket_opened(exchange.trace)
        if exchange.is_answered:
            self.sockets.opened(flow, exchange)

    async def message_comes(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come, which may have to wait for its turn."""
        try:
            if self.keeper is not None and flow in self._under_way:
                await self.sockets.turn_begins(flow, self.keeper)
        except Exception:
            logger.exception("a message could not be made to wait for its turn")

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
        self.sockets.closed(flow, self.keeper)
        if exchange is not None and socket is not None:
            by = "the client" if socket.closed_by_client else "the backend"
            self.history.socket_closed(exchange.trace, f"by {by} ({socket.close_code})")
