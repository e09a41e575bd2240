"""Drive the recovery of `codexpool.pool.recovery`: its steps become attempts, waits, or an answer of the proxy."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from mitmproxy import http

from codexpool.pool import recovery
from codexpool.pool.identity import Status
from codexpool.pool.needs import no_identity
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import Look, LookUp, NobodyServes, Pause, Relay, Renew, Try, Wait, advance
from codexpool.pool.verdict import Verdict
from codexpool.protocol.lent_usage import NOTHING_KNOWN, seen_by_client
from codexpool.protocol.routes import Policy
from codexpool.proxy import replies, tracer
from codexpool.proxy.dressed_copy import label
from codexpool.proxy.exchange import Attempt, Exchange, comment, replace_response
from codexpool.proxy.flows import Flows
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.shared_usage import SharedUsage
from codexpool.tokens.bearer import Bearer
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")


class Identities(Protocol):
    """A pool, and the token of each identity."""

    @property
    def pool(self) -> Pool: ...

    def bearer(self, name: str) -> Bearer: ...


def start(exchange: Exchange, identities: Identities) -> None:
    """Begin with the first attempt, or with a wait for one."""
    exchange.steps = recovery.attempts(identities.pool, exchange.asked, time.time, time.monotonic)
    follow_verdict(exchange, identities, None)


def follow_verdict(exchange: Exchange, identities: Identities, verdict: Verdict | None) -> None:
    """Take the next step of the recovery, and begin it if it is an attempt."""
    assert exchange.steps is not None
    exchange.step = advance(exchange.steps, verdict)
    if isinstance(exchange.step, Try):
        begin(exchange, identities, exchange.step)


def begin(exchange: Exchange, identities: Identities, step: Try) -> None:
    """Add an attempt to an exchange. Raises RuntimeError if the identity changed since it was chosen."""
    identity, bearer = step.identity, identities.bearer(step.identity.name)
    if identity.metadata is None or identity.fingerprint != bearer.fingerprint:
        # Never the token of one identity with the account of another: pool.toml changed in between.
        raise RuntimeError(f"{identity.name} has changed since it was chosen")
    trace = tracer.attempted(identities.pool, exchange, identity, bearer.fingerprint, step.lighter)
    exchange.tries.append(Attempt(identity, bearer, identity.metadata, time.time(), trace, step.lighter))


class Attempts:
    """Takes the exchanges of a serving pool from one attempt to the next."""

    def __init__(self, flows: Flows, dressing: Dressing, history: History) -> None:
        self._flows = flows
        self._dressing = dressing
        self._history = history
        self.usage = SharedUsage()
        self._logged = ""
        """The last logged reason why no identity can serve."""

    def start(self, exchange: Exchange) -> None:
        """Begin with the first attempt, or with a wait for one. Raises NotServingError."""
        start(exchange, self._flows.keeper)
        self._note(exchange)

    def judged(self, exchange: Exchange, verdict: Verdict | None) -> None:
        """Take the next step after a verdict. Raises NotServingError."""
        follow_verdict(exchange, self._flows.keeper, verdict)
        self._note(exchange)

    def _note(self, exchange: Exchange) -> None:
        match exchange.step:
            case Try():
                self._history.assigned(exchange.trace)
            case LookUp(sessions, seconds):  # While the rest of the request comes, and it waits for its slot.
                exchange.looking_up = self._flows.keeper.look_up(sessions, seconds)

    async def prepare(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Prepare the body of the next attempt."""
        if exchange.tries and (keeper := self._flows.keeper_if_any) is not None:
            session = keeper.pool.sessions.get(exchange.session)
            await self._dressing.prepare(flow.request, exchange.asked, session, exchange.attempt)

    async def share(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Answer a client that asks what is left if its identity has just told another client."""
        if exchange.policy is not Policy.LENT or not exchange.tries:
            return False
        document = await self.usage.answer(exchange.attempt.metadata.key)
        if document is None:
            return False
        exchange.tries.pop()
        exchange.trace.attempts.pop()
        exchange.trace.replied("as the identity answered another client a moment ago")
        replace_response(flow, exchange, replies.document(seen_by_client(document, exchange.client_account)))
        return True

    async def follow(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Wait as the recovery says, until there is an attempt or an outcome. Raises NotServingError."""
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
                case Look(identities, seconds):
                    await keeper.look(identities, exchange.asked, seconds)
                case LookUp() if exchange.looking_up is not None:
                    await asyncio.wait({exchange.looking_up})  # It may be cancelled: the pool is reloaded.
            if step is not None:
                tracer.waited(exchange.trace, step, time.monotonic() - begun)
            if not self.goes_on(keeper, flow, exchange):
                return
            self.judged(exchange, None)
        if isinstance(exchange.step, NobodyServes):
            self._nobody_serves(flow, exchange)

    def goes_on(self, keeper: Keeper, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Return whether the pool a request waited for still serves; if not, have the client retry."""
        if self._flows.keeper_if_any is keeper:
            return True
        reason = "the pool was reloaded while this request waited; try again"
        replace_response(flow, exchange, replies.failed_closed(reason, at_once=True))
        return False

    def served(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Note that the last attempt has a good answer. Raises NotServingError."""
        if not exchange.asked.is_usage:
            self._logged = ""
        exchange.attempt.trace.verdict = tracer.GOOD
        asked = exchange.asked._replace(is_turn=False) if exchange.upgrade else exchange.asked
        self._flows.keeper.served(exchange.attempt.name, asked, exchange.attempt.at)
        comment(flow, exchange)

    def is_outdated(self, exchange: Exchange) -> bool:
        """Return whether the identity of the last attempt no longer serves it, or has another token by now."""
        keeper, attempt = self._flows.keeper_if_any, exchange.attempt
        identity = keeper.pool.identities.get(attempt.name) if keeper is not None else None
        if keeper is None or identity is None or not keeper.pool.may_serve(identity.name, exchange.asked):
            return True
        is_at_limit = exchange.asked.is_usage and identity.status is Status.LIMITED
        return not (identity.serves_on or is_at_limit) or identity.fingerprint != attempt.bearer.fingerprint

    def choose_again(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Replace an attempt that was not sent; by one under the same identity, if there is no other.

        Return False if that identity may not be used any more: it was removed, paused or condemned meanwhile.
        """
        assert exchange.steps is not None
        step = exchange.steps.send(None)
        assert isinstance(step, Try)
        keeper = self._flows.keeper_if_any
        if keeper is None or not keeper.pool.may_be_tried(step.identity, exchange.asked):
            return False
        exchange.tries.pop()
        exchange.trace.attempts.pop()
        begin(exchange, keeper, step)
        self._history.assigned(exchange.trace)
        label(flow, exchange.attempt.name)
        return True

    def _nobody_serves(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        now = time.time()
        why = no_identity(self._flows.keeper.pool, exchange.asked, now)
        if why.message != self._logged and not exchange.asked.is_usage:
            logger.warning("session %s: %s", exchange.named, why.message)
            self._logged = why.message  # Every client gets the reason; the log only when it changes.
        if exchange.policy is Policy.SWAP_IDS and exchange.client_account:
            answer = replies.discovered(exchange.client_account)
        elif exchange.asked.is_usage:
            answer = replies.document(NOTHING_KNOWN)
        else:
            answer = replies.unservable(why.message, why.summary, exchange.upgrade, why.returns_at, why.is_limit, now)
        exchange.trace.replied(why.message)
        replace_response(flow, exchange, answer)
        comment(flow, exchange)
