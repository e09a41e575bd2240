"""Drives the recovery of `codexpool.pool.recovery`: its steps become attempts, waiting, or an answer of our own."""

from __future__ import annotations

import asyncio
import logging
import time

from mitmproxy import http

from codexpool.pool import recovery
from codexpool.pool.needs import nobody
from codexpool.pool.recovery import NobodyServes, Pause, Relay, Renew, Try, Wait
from codexpool.pool.verdict import Verdict
from codexpool.protocol.routes import Policy
from codexpool.proxy import replies, tracer
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import Attempt, Exchange, comment, replace_response
from codexpool.proxy.flows import Flows
from codexpool.proxy.outgoing import Dressing
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class Attempts:
    """Takes exchanges from one attempt to the next."""

    def __init__(self, flows: Flows, dressing: Dressing, history: History) -> None:
        self._flows = flows
        self._dressing = dressing
        self._history = history
        self._logged = ""
        """Why no identity can serve, as logged last."""

    def start(self, exchange: Exchange) -> None:
        """Make the first attempt, unless that means waiting. Raises NotServingError."""
        exchange.steps = recovery.attempts(self._flows.keeper.pool, exchange.asked, time.time, time.monotonic)
        self.judged(exchange, None)

    def judged(self, exchange: Exchange, verdict: Verdict | None) -> None:
        """Ask the recovery for the next step after a verdict, and begin it if it is an attempt."""
        assert exchange.steps is not None
        try:
            exchange.step = exchange.steps.send(verdict)
        except StopIteration as end:
            exchange.step = end.value
        if isinstance(exchange.step, Try):
            self._begin(exchange, exchange.step)

    async def prepare(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Prepare the body of the next attempt."""
        if exchange.tries and self._flows.serves:
            session = self._flows.keeper.pool.sessions.get(exchange.session)
            await self._dressing.prepare(flow.request, exchange.asked, session, exchange.attempt)

    async def follow(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Wait as the recovery says, until there is an attempt or an end. Raises NotServingError."""
        keeper = self._flows.keeper
        while not isinstance(exchange.step, Try | Relay | NobodyServes):
            step, begun = exchange.step, time.monotonic()
            match step:
                case Wait(seconds):
                    await keeper.change(seconds)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Renew(identity, seconds):
                    await keeper.renewal(identity, seconds)
            if step is not None:
                tracer.waited(exchange.trace, step, time.monotonic() - begun)
            if not self.goes_on(keeper, flow, exchange):
                return
            self.judged(exchange, None)
        if isinstance(exchange.step, NobodyServes):
            self._nobody_serves(flow, exchange)

    def goes_on(self, keeper: Keeper, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Tell whether the pool is still the one a request began to wait for; else have the client retry.

        The proxy may be ending, or the addon or another pool.toml was loaded.
        """
        if self._flows.keeper_if_any is keeper:
            return True
        reason = "the pool was loaded again while this request waited; try again"
        replace_response(flow, exchange, replies.failed_closed(reason, at_once=True))
        return False

    def served(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Note that the last attempt has a good answer. Raises NotServingError."""
        self._logged = ""
        exchange.attempt.trace.verdict = tracer.GOOD
        asked = exchange.asked._replace(is_turn=False) if exchange.upgrade else exchange.asked
        self._flows.keeper.served(exchange.attempt.name, asked, exchange.attempt.at)
        comment(flow, exchange)

    def is_outdated(self, exchange: Exchange) -> bool:
        """Tell whether the identity of the last attempt has stopped serving, or has another token by now."""
        if not self._flows.serves:
            return True
        attempt = exchange.attempt
        identity = self._flows.keeper.pool.identities.get(attempt.name)
        return identity is None or not identity.serves_on or identity.fingerprint != attempt.bearer.fingerprint

    def begin_anew(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Choose an identity again for an attempt that was not sent; the same one, if there is no other.

        Returns False if that one may not be used any more: it was removed, paused or condemned meanwhile.
        """
        assert exchange.steps is not None
        step = exchange.steps.send(None)
        assert isinstance(step, Try)
        if not self._flows.serves or not self._flows.keeper.pool.may_be_tried(step.identity):
            return False
        exchange.tries.pop()
        exchange.trace.attempts.pop()
        self._begin(exchange, step)
        label(flow, exchange.attempt.name)
        return True

    def _begin(self, exchange: Exchange, step: Try) -> None:
        keeper, identity = self._flows.keeper, step.identity
        bearer = keeper.bearer(identity.name)
        if identity.metadata is None or identity.fingerprint != bearer.fingerprint:
            # Never one identity's token with the account of another: pool.toml has changed in between.
            raise RuntimeError(f"{identity.name} has changed since it was chosen")
        trace = tracer.attempted(keeper.pool, exchange, identity, bearer.fingerprint, step.lighter)
        exchange.tries.append(Attempt(identity.name, bearer, identity.metadata, time.time(), trace, step.lighter))
        self._history.assigned(exchange.trace)

    def _nobody_serves(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        now = time.time()
        why = nobody(self._flows.keeper.pool, exchange.asked, now)
        if why.message != self._logged:
            logger.warning("session %s: %s", exchange.named, why.message)
            self._logged = why.message  # Each client is told, but the log only when it changes.
        if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
            answer = replies.discovered(exchange.client_account)
        else:
            answer = replies.unservable(why.message, why.summary, exchange.upgrade, why.returns_at, why.is_limit, now)
        exchange.trace.replied(why.message)
        replace_response(flow, exchange, answer)
        comment(flow, exchange)
