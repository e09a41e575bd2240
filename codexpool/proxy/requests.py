"""Requests, from their headers to the copy that goes upstream.

No request of a swap path leaves with the client's credential, whatever goes wrong here: `Requests.outbound` has the
last word. It asks the path policy itself, and refuses a request that no identity was assigned to.
"""

from __future__ import annotations

import logging
import time

from mitmproxy import http

from codexpool.common.addresses import address_of as peer_address
from codexpool.members import register
from codexpool.members.access import Outcome
from codexpool.members.register import Member
from codexpool.pool.needs import no_identity
from codexpool.pool.pool import Pool
from codexpool.protocol import endpoints, headers, routes
from codexpool.protocol.inflate import UnreadableError
from codexpool.protocol.routes import Policy, Route
from codexpool.proxy import replies, tracer
from codexpool.proxy.attempts import Attempts
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import (
    MAY_NAME_SESSION,
    NO_TURN,
    SHORTEST_ID,
    Attempt,
    Exchange,
    address_of,
    asked_of,
    bounded,
    client_of,
    model_in_body,
    of_whom,
    prompt_cache_key,
    replace_response,
    session_of,
    version_of,
)
from codexpool.proxy.find_keys import carries_key, hide_key, take_key_out
from codexpool.proxy.flows import Closed, Flows, Passthrough, Serving
from codexpool.proxy.gate import REFUSALS, Gate
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.probe import Outlook
from codexpool.proxy.proxy_user import identity_named
from codexpool.proxy.tunnels import Tunnels
from codexpool.proxy.turns import Turns
from codexpool.traces.history import History
from codexpool.traces.trace import AttemptTrace
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


def exchange_of(
    flow: http.HTTPFlow,
    route: Route,
    member: Member | None = None,
    only: frozenset[str] | None = None,
    named: str = "",
) -> Exchange:
    """Make the exchange of a request from its headers.

    ``only`` are the identities that may serve a member, ``named`` is the one that the client names to the proxy.
    """
    request = flow.request
    values = headers.first_values(request.headers.fields)
    # Only a GET upgrades: a POST with that header is a model request, and counts as one.
    upgrade = values.get(b"upgrade", b"").lower() == b"websocket" and request.method == "GET"
    path, _, query = request.path.partition("?")
    client = client_of(values, peer_address(flow.client_conn.peername)) if not headers.is_for_title(values) else ""
    asked, source = asked_of(values, routes.normalised(path), client)
    trace = tracer.begun(flow, route, asked, source, upgrade, member.name if member is not None else "")
    account = member.account_id if member is not None else values.get(headers.ACCOUNT, b"").decode("latin-1")
    asked = of_whom(asked, member, only)
    if named:
        asked = asked._replace(named=named)
    version = version_of(values, query, asked)
    return Exchange(route.policy, address_of(request), asked, account, upgrade, trace, member, version)


def waits_for_model(exchange: Exchange, pool: Pool) -> bool:
    """Return whether the choice of an identity depends on the model, and only the body names it."""
    asked = exchange.asked
    return not (asked.model or asked.is_side or exchange.upgrade) and pool.knows_models


async def read_body(flow: http.HTTPFlow, exchange: Exchange, pool: Pool | None) -> None:
    """Read the model and the session from the body, if they are needed and the headers do not name them."""
    if pool is not None and waits_for_model(exchange, pool):
        exchange.asked = exchange.asked._replace(model=await model_in_body(flow.request))
    if exchange.session is None and (key := await prompt_cache_key(flow.request)) is not None:
        exchange.trace.session, exchange.trace.source = key, "prompt_cache_key"
        exchange.asked = exchange.asked._replace(session=session_of(key, exchange.member))
    if exchange.session is None and exchange.asked.is_turn and pool is not None:
        name_session(flow, exchange, pool)


def name_session(flow: http.HTTPFlow, exchange: Exchange, pool: Pool) -> None:
    """Name the session of a turn that the client does not name."""
    headers, asked = flow.request.headers, exchange.asked
    sent = ((name, headers.get(name, "")) for name in MAY_NAME_SESSION)
    ids = [(name, bounded(value)) for name, value in sent if len(value) >= SHORTEST_ID]
    named = pool.names.name(asked.client, ids, time.time())
    exchange.trace.session, exchange.trace.source = named.session, named.source
    parent = session_of(named.parent, exchange.member) if named.parent is not None else None
    session = session_of(named.session, exchange.member)
    exchange.asked = asked._replace(session=session, parent=asked.parent or parent)


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
        """Begin a request to swap: take the client's credential out of the flow, and choose an identity if possible.

        The identity may still change until the request leaves: see `outbound`.
        """
        route = self._flows.route(flow.request)
        keeper = self._flows.keeper_if_any
        entrance = self._gate.enter(flow, route, keeper, self._flows.closed)
        outcome = entrance.outcome
        is_let_in = outcome is Outcome.SWAPPED or (outcome is Outcome.UNTOUCHED and route.policy.takes_identity)
        if not is_let_in or keeper is None:
            return
        flow.request.stream = False
        member = entrance.member
        only = self._serving(keeper, member, flow.request.path) if member is not None else None
        named = self._named(flow, keeper, only)
        if route.policy is Policy.LENT_TO_MEMBERS:
            is_usage = route.path == endpoints.USAGE
            route = route._replace(policy=Policy.LENT if is_usage else Policy.SWAP)
        exchange = exchange_of(flow, route, member, only, named)
        self._flows[flow] = exchange
        self._history.began(exchange.trace)
        shown = "waiting"
        try:
            if exchange.session is not None and not waits_for_model(exchange, keeper.pool):
                self._attempts.start(exchange)
                if exchange.tries:
                    shown = exchange.attempt.name
        finally:
            label(flow, shown)

    @staticmethod
    def _named(flow: http.HTTPFlow, keeper: Keeper, only: frozenset[str] | None) -> str:
        """Return the identity that the client names to the proxy; empty if none.

        An unknown one is refused where the client shows the reason to a person, and not with what it asks before.
        """
        name = identity_named(flow.client_conn)
        if not name or (name in keeper.pool.identities and (only is None or name in only)):
            return name
        return "" if routes.normalised(flow.request.path.partition("?")[0]) in NO_TURN else name

    @staticmethod
    def _serving(keeper: Keeper, member: Member, path: str) -> frozenset[str] | None:
        """Return the identities that may serve a member's request; None for all."""
        is_policy_of_workspace = routes.normalised(path.partition("?")[0]) == endpoints.CONFIG_BUNDLE
        return register.names_of_its_plan(keeper.pool, member) if is_policy_of_workspace else member.identities

    def dry_run(self, flow: http.HTTPFlow) -> Outlook:
        """Return what would become of a request, without any effect (see `codexpool.proxy.probe`)."""
        match self._flows.mode:
            case Passthrough():
                return Outlook(pool=False)
            case Closed(reason):
                return Outlook(status=503, reason=reason)
            case Serving(keeper):
                return self._dry_run(flow, keeper)

    def _dry_run(self, flow: http.HTTPFlow, keeper: Keeper) -> Outlook:
        request, policy, now = flow.request, self._flows.policy(flow.request), time.time()
        self._gate.follow(keeper.config)
        entrance = self._gate.consider(flow, policy)
        outcome, member = entrance.outcome, entrance.member
        name = member.name if member is not None else ""
        if outcome in REFUSALS:
            return Outlook(member=name, status=401, reason=entrance.why)
        if outcome is not Outcome.SWAPPED and not (outcome is Outcome.UNTOUCHED and policy.takes_identity):
            return Outlook(member=name)
        only = self._serving(keeper, member, request.path) if member is not None else None
        values = headers.first_values(request.headers.fields)
        asked, _ = asked_of(values, routes.normalised(request.path.partition("?")[0]))
        # Without a session there is none to begin, and what is no turn counts for nothing.
        asked = of_whom(asked, member, only)._replace(session=None, parent=None, is_turn=False)
        asked = asked._replace(named=self._named(flow, keeper, only))
        identity = keeper.pool.choose(asked, now)
        if identity is None or (metadata := identity.metadata) is None:
            why = no_identity(keeper.pool, asked, now)
            return Outlook(member=name, status=503 if why.returns_at is None else 429, reason=why.message)
        bearer, because = keeper.bearer(identity.name), keeper.pool.because
        facts = (identity.name, identity.kind, bearer.fingerprint, metadata.account_id, metadata.origin, because)
        attempt = Attempt(identity, bearer, metadata, now, AttemptTrace(*facts))
        wire = self._dressing.request(request, asked, None, attempt)
        return Outlook(identity=identity.name, member=name, leaves=wire.headers.fields)

    def turns_away(self, flow: http.HTTPFlow, reason: str) -> bool:
        """Refuse a request of a swap path because the proxy is ending; return whether it was one."""
        route = self._flows.route(flow.request)
        if not route.policy.swaps or self._flows.keeper_if_any is None:
            return False
        tracer.turned_away(self._history, flow, route, reason)
        hide_key(flow)
        label(flow, "refused")
        flow.response = replies.failed_closed(reason, at_once=True)
        return True

    async def assign(self, flow: http.HTTPFlow) -> None:
        """Assign the identity of the first attempt to a whole request, or answer it."""
        exchange = self._flows.get(flow)
        if exchange is None:
            await self._gate.answer(flow, self._flows.keeper_if_any)
            return
        trace = exchange.trace
        trace.whole_at, trace.request_bytes = time.time(), len(flow.request.raw_content or b"")
        keeper = self._flows.keeper
        if exchange.member is not None and not await self._take_key_out(flow, exchange):
            return
        if exchange.asked.path == routes.MODELS and self._answers_models(flow, exchange, keeper):
            return
        if exchange.is_turn and not await self._turns.admit(flow, exchange, keeper):
            return
        if not exchange.tries and self._attempts.goes_on(keeper, flow, exchange):
            if exchange.steps is None:
                await read_body(flow, exchange, keeper.pool)
                self._attempts.start(exchange)
            await self._attempts.follow(flow, exchange)
            if exchange.tries:
                label(flow, exchange.attempt.name)
        if not await self._attempts.share(flow, exchange):
            await self._attempts.prepare(flow, exchange)

    @staticmethod
    def _answers_models(flow: http.HTTPFlow, exchange: Exchange, keeper: Keeper) -> bool:
        """Answer a request for the models with those of all identities, if they are known; return whether it did."""
        if flow.request.method != "GET" or not exchange.version:
            return False
        catalogue = keeper.pool.catalogue(exchange.asked, exchange.version)
        keeper.models.client_asks(exchange.version, is_answered=catalogue is not None)
        if catalogue is None:
            return False
        answer = replies.model_list(catalogue, flow.request.headers.get("if-none-match", ""))
        replace_response(flow, exchange, answer)
        exchange.trace.replied("the models of all identities")
        flow.comment = "codexpool: the models of all identities"
        return True

    async def _take_key_out(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Remove member keys from a body; return False if it was answered because the body is not readable."""
        try:
            if await take_key_out(flow):
                logger.warning("session %s: removed a member key from the body of a request", exchange.named)
        except UnreadableError as error:
            reason = f"the body cannot be checked for a member key ({error})"
            replace_response(flow, exchange, replies.unreadable(reason))
            return False
        return True

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """Return what leaves for a flow, or the answer to a request that must not leave (see `resend.Sender`)."""
        exchange = self._flows.get(flow)
        wire = self._outbound(flow, exchange)
        if exchange is not None and isinstance(wire, http.Response):
            exchange.ours = True
        return wire

    def _outbound(self, flow: http.HTTPFlow, exchange: Exchange | None) -> http.Request | http.Response | None:
        try:
            if carries_key(flow.request):  # A member's own key was removed; no other is let in.
                hide_key(flow)
                return replies.withheld("a member key must not leave this proxy")
            if exchange is None and self._gate.answers(flow):  # Another addon streams its body.
                return replies.withheld("the proxy answers this request itself")
            if exchange is None:
                return self._unassigned(flow)
            if exchange.address != address_of(flow.request):
                return replies.failed_closed("another addon changed the address of a request of the pool")
            if exchange.trace.whole_at is None:
                return replies.failed_closed("a hook of another addon raised, and this request was not read")
            keeper = self._flows.keeper_if_any
            if keeper is None or not exchange.tries:
                reason = self._flows.closed or "no identity was assigned; see the proxy's log"
                return replies.failed_closed(reason)
            if self.is_outdated(flow) and not self._attempts.choose_again(flow, exchange):
                reason = "the identity of this request stopped serving meanwhile; try again"
                return replies.failed_closed(reason, at_once=True)
            if not self._gate.may_go_on(exchange.member):
                name = exchange.member.name if exchange.member is not None else ""
                why = f"the key of {name} was revoked" if name else "the pool now serves members only"
                return replies.refused(why)
            exchange.attempt.at = time.time()
            session = keeper.pool.sessions.get(exchange.session)
            wire = self._dressing.request(flow.request, exchange.asked, session, exchange.attempt)
            exchange.attempt.is_sent = True
            exchange.attempt.trace.sent(wire.headers.fields, exchange.attempt.at)
            return wire
        except Exception as error:
            logger.exception("preparing a request to leave failed")
            return replies.failed_closed(f"preparing the request failed ({type(error).__name__})")

    def _unassigned(self, flow: http.HTTPFlow) -> http.Response | None:
        self._tunnels.name(flow)  # Our hooks may have been skipped.
        if isinstance(self._flows.mode, Passthrough) or not self._flows.policy(flow.request).swaps:
            return None
        reason = self._flows.closed or "no identity was assigned; see the proxy's log"
        tracer.turned_away(self._history, flow, self._flows.route(flow.request), reason)
        label(flow, "refused")  # A dump may have it, and the client's credential is a secret too.
        return replies.failed_closed(reason)

    def is_outdated(self, flow: http.HTTPFlow) -> bool:
        """Return whether the identity of the attempt stopped serving since it was chosen (see `resend.Sender`).

        An identity whose token is being renewed still serves: its session stays with it, and a refusal costs nothing.
        """
        try:
            exchange = self._flows.get(flow)
            if exchange is None or not exchange.tries:
                return False
            exchange.attempt.has_left = True  # If it is outdated, another attempt replaces it.
            return self._attempts.is_outdated(exchange)
        except Exception:
            logger.exception("checking the identity of a request failed")
            return True  # `outbound` is called again, and has the last word.
