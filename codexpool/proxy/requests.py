"""The way out: from the headers of a request to the copy that goes upstream.

Nothing here, and nothing that goes wrong here, lets a request of a swap path leave with the client's credential:
`Requests.outbound` has the last word, asks the path policy itself, and refuses what has no identity assigned.
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
from codexpool.proxy.attempts import Attempts
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
from codexpool.proxy.flows import Flows, Passthrough
from codexpool.proxy.gate import Gate
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.tunnels import Tunnels
from codexpool.proxy.turns import Turns
from codexpool.traces.history import History

logger = logging.getLogger("codexpool")


class Requests:
    """What happens to a request until it leaves."""

    def __init__(
        self,
        flows: Flows,
        attempts: Attempts,
        dressing: Dressing,
        gate: Gate,
        tunnels: Tunnels,
        turns: Turns,
        history: History,
    ) -> None:
        self._flows = flows
        self._attempts = attempts
        self._dressing = dressing
        self._gate = gate
        self._tunnels = tunnels
        self._turns = turns
        self._history = history

    # -- hooks, in the order of a request's life

    def open(self, flow: http.HTTPFlow) -> None:
        """A request's headers have come: if it is to be swapped, take the client's credential out of the flow.

        The identity is chosen at once if somebody is ready and the session is known, so that the flow is labelled
        once only; should the identity change until the request leaves, `outbound` notices.
        """
        policy = self._flows.policy(flow.request)
        entrance = self._gate.enter(flow, policy, self._flows.keeper_if_any, self._flows.closed)
        is_let_in = entrance.gets is Gets.SWAPPED or (entrance.gets is Gets.UNTOUCHED and policy.swaps)
        if not is_let_in or not self._flows.serves:
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
        exchange = Exchange(
            policy,
            address_of(request),
            asked,
            member.account_id if member is not None else values.get(headers.ACCOUNT, b"").decode("latin-1"),
            upgrade,
            trace,
            member=member,
            probe=probe,
        )
        self._flows[flow] = exchange
        self._history.began(trace)
        label_now = "waiting"
        try:
            if exchange.session is not None and not self._waits_for_model(exchange):
                self._attempts.start(exchange)
                if exchange.tries:
                    label_now = exchange.attempt.name
        finally:
            label(flow, label_now)

    def _who_serves(self, member: Member, asked: Asked) -> frozenset[str] | None:
        lent = routes.path_policy("GET", asked.path) is Policy.LENT
        return persona.of_its_plan(self._flows.keeper.pool, member) if lent else member.identities

    def turns_away(self, flow: http.HTTPFlow, reason: str) -> bool:
        """Answer a request of a swap path that is not to be begun with any more; whether it is one."""
        policy = self._flows.policy(flow.request)
        if not policy.swaps or not self._flows.serves:
            return False
        tracer.turned_away(self._history, flow, policy, reason)
        hide_key(flow)
        label(flow, "refused")
        flow.response = replies.failed_closed(reason, at_once=True)
        return True

    async def assign(self, flow: http.HTTPFlow) -> None:
        """The request is whole: find the identity it is first sent under, or answer it."""
        exchange = self._flows.get(flow)
        if exchange is None:
            await self._gate.answer(flow, self._flows.keeper_if_any)
            return
        trace = exchange.trace
        trace.whole_at, trace.request_bytes = time.time(), len(flow.request.raw_content or b"")
        keeper = self._flows.keeper
        if exchange.member is not None and not await self._has_no_key_within(flow, exchange):
            return
        if exchange.is_turn and not await self._turns.begins(flow, exchange, keeper):
            return
        if not exchange.tries and self._attempts.goes_on(keeper, flow, exchange):
            if exchange.steps is None:
                await self._read_body(flow, exchange)
                self._attempts.start(exchange)
            await self._attempts.follow(flow, exchange)
            if exchange.tries:
                label(flow, exchange.attempt.name)
        await self._attempts.prepare(flow, exchange)

    def _waits_for_model(self, exchange: Exchange) -> bool:
        """Whether it matters which model a request asks, and only its body says so."""
        asked, pool = exchange.asked, self._flows.keeper.pool
        return not (asked.model or asked.is_side or exchange.upgrade) and pool.exclusions.knows_models

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
        exchange = self._flows.get(flow)
        wire = self._outbound(flow, exchange)
        if exchange is not None and isinstance(wire, http.Response):
            exchange.ours = True
        return wire

    def _outbound(self, flow: http.HTTPFlow, exchange: Exchange | None) -> http.Request | http.Response | None:
        try:
            if carries_key(flow.request):  # A member's own was taken out; nothing else is ever let in with one.
                hide_key(flow)
                return replies.withheld("a member key does not leave this proxy")
            if exchange is None and self._gate.answers(flow):  # Another addon has its body pass by.
                return replies.withheld("this request has its answer from here")
            if exchange is None:
                return self._unassigned(flow)
            if exchange.address != address_of(flow.request):
                return replies.failed_closed("another addon has rewritten the address of a request of the pool")
            if exchange.trace.whole_at is None:
                return replies.failed_closed("a hook of another addon raised, and this request was not looked at")
            if not self._flows.serves or not exchange.tries:
                reason = self._flows.closed or "no identity was assigned; the proxy's log says why"
                return replies.failed_closed(reason)
            if self.outdated(flow) and not self._attempts.begin_anew(flow, exchange):
                reason = "the identity of this request has ceased to serve meanwhile; try again"
                return replies.failed_closed(reason, at_once=True)
            if not self._gate.may_go_on(exchange.member):
                name = exchange.member.name if exchange.member is not None else ""
                why = f"the key of {name} was taken away" if name else "the pool has become one for members"
                return replies.refused(f"{why} meanwhile")
            exchange.attempt.at = time.time()
            session = self._flows.keeper.pool.sessions.get(exchange.session)
            wire = self._dressing.request(flow.request, exchange.asked, session, exchange.attempt)
            if exchange.probe:
                return probing.answer(exchange, wire)
            exchange.attempt.is_sent = True
            exchange.attempt.trace.sent(wire.headers.fields, exchange.attempt.at)
            return wire
        except Exception as error:
            logger.exception("a request could not be dressed")
            return replies.failed_closed(f"the request could not be dressed ({type(error).__name__})")

    def _unassigned(self, flow: http.HTTPFlow) -> http.Response | None:
        self._tunnels.name(flow)  # Its hooks may have been skipped.
        if isinstance(self._flows.mode, Passthrough) or not self._flows.policy(flow.request).swaps:
            return None
        reason = self._flows.closed or "no identity was assigned; the proxy's log says why"
        tracer.turned_away(self._history, flow, self._flows.policy(flow.request), reason)
        label(flow, "refused")  # It may be recorded all the same, and the client's credential is a secret too.
        return replies.failed_closed(reason)

    def outdated(self, flow: http.HTTPFlow) -> bool:
        """See `codexpool.proxy.resend.Sender`: whether the identity of the attempt has ceased to serve meanwhile.

        One that is about to have another token has not: the session is to stay with it, and a refusal costs nothing.
        """
        try:
            exchange = self._flows.get(flow)
            if exchange is None or not exchange.tries:
                return False
            exchange.attempt.has_left = True  # Unless it is, and then another attempt takes its place.
            return self._attempts.is_outdated(exchange)
        except Exception:
            logger.exception("it could not be told whether a request is to leave as it is")
            return True  # `outbound` is asked once more, and has the last word.
