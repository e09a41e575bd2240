"""The course of a request: the recovery is asked what is next, and that is carried out.

`codexpool.pool.recovery` decides. Here its steps become attempts of an exchange, waiting, and the answer of ours that
a client gets when nobody serves.
"""

from __future__ import annotations

import asyncio
import logging
import time

from mitmproxy import http

from codexpool.pool.needs import nobody
from codexpool.pool.recovery import NobodyServes, Pause, Relay, Renew, Try, Wait, attempts
from codexpool.pool.verdict import Verdict
from codexpool.protocol.routes import Policy
from codexpool.proxy import replies, tracer
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import Attempt, Exchange, comment, replace_response
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class Course:
    """Takes exchanges through their steps. ``keeper`` knows the identities; without one nothing can be begun."""

    def __init__(self, history: History) -> None:
        self.keeper: Keeper | None = None
        self._history = history
        self._said = ""
        """Why nobody serves, as it was said last."""

    def start(self, exchange: Exchange) -> None:
        """Begin with the attempts, as far as that needs no waiting."""
        assert self.keeper is not None
        exchange.steps = attempts(self.keeper.pool, exchange.asked, time.time, time.monotonic)
        self.judged(exchange, None)

    def judged(self, exchange: Exchange, verdict: Verdict | None) -> None:
        """Ask the recovery what is next after a verdict; an attempt is begun at once."""
        assert exchange.steps is not None
        try:
            exchange.step = exchange.steps.send(verdict)
        except StopIteration as end:
            exchange.step = end.value
        if isinstance(exchange.step, Try):
            self._begin(exchange, exchange.step)

    async def follow(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Wait, as often as the recovery says so, until there is an attempt or an end."""
        keeper = self.keeper
        assert keeper is not None
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
        """Whether the pool is still the one that a request has begun to wait for; else the client is to ask again.

        The proxy ends, or the addon or another pool.toml was loaded.
        """
        if self.keeper is keeper:
            return True
        reason = "the pool was loaded again while this request waited; try again"
        replace_response(flow, exchange, replies.failed_closed(reason, at_once=True))
        return False

    def served(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The last attempt has a good answer: its identity serves."""
        assert self.keeper is not None
        self._said = ""
        exchange.attempt.trace.verdict = tracer.GOOD
        asked = exchange.asked._replace(is_turn=False) if exchange.upgrade else exchange.asked
        self.keeper.served(exchange.attempt.name, asked, exchange.attempt.at)
        comment(flow, exchange)

    def is_outdated(self, exchange: Exchange) -> bool:
        """Whether the identity of the last attempt has ceased to serve, or has another token, since it was chosen."""
        if self.keeper is None:
            return True
        attempt = exchange.attempt
        identity = self.keeper.pool.identities.get(attempt.name)
        return identity is None or not identity.serves_on or identity.fingerprint != attempt.bearer.fingerprint

    def begin_anew(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """The attempt was not sent: under whom now? Under the same identity, if there is nobody else.

        False where that one may not speak for anybody any more: it was removed, paused or condemned meanwhile.
        """
        assert exchange.steps is not None
        step = exchange.steps.send(None)
        assert isinstance(step, Try)
        if self.keeper is None or not self.keeper.pool.may_be_tried(step.identity):
            return False
        exchange.tries.pop()
        exchange.trace.attempts.pop()
        self._begin(exchange, step)
        label(flow, exchange.attempt.name)
        return True

    def _begin(self, exchange: Exchange, step: Try) -> None:
        assert self.keeper is not None
        identity = step.identity
        bearer = self.keeper.bearer(identity.name)
        if identity.metadata is None or identity.fingerprint != bearer.fingerprint:
            # Never one identity's token with another one's account: pool.toml has changed in between.
            raise RuntimeError(f"{identity.name} is not who it was when it was chosen")
        trace = tracer.attempted(self.keeper.pool, exchange, identity, bearer.fingerprint, step.lighter)
        exchange.tries.append(Attempt(identity.name, bearer, identity.metadata, time.time(), trace, step.lighter))
        self._history.assigned(exchange.trace)

    def _nobody_serves(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        assert self.keeper is not None
        now = time.time()
        why = nobody(self.keeper.pool, exchange.asked, now)
        if why.message != self._said:
            logger.warning("session %s: %s", exchange.named, why.message)
            self._said = why.message  # Until it changes, the client is told each time, and the log once.
        if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
            answer = replies.discovered(exchange.client_account)
        else:
            answer = replies.unservable(
                *(why.message, why.summary, exchange.upgrade, why.returns_at, why.is_limit, now)
            )
        exchange.trace.says(why.message)
        replace_response(flow, exchange, answer)
        comment(flow, exchange)
