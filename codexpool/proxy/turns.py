"""Turns of members: whether one may begin, and what it has used in the end.

A turn is one request for the model. With bounds it may have to wait for a slot, or is denied. Without bounds it costs
a few dictionary operations.
"""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

from mitmproxy import http

from codexpool.common.tasks import harmless
from codexpool.config.model import MemberSpec
from codexpool.members.ledger import DAY
from codexpool.members.register import Member
from codexpool.members.turn_queue import Full, Slot
from codexpool.pool.verdict import is_held
from codexpool.protocol.token_usage import Tokens
from codexpool.proxy import replies
from codexpool.proxy.exchange import Exchange, replace_response
from codexpool.state.fleet import DEAD_AFTER
from codexpool.upkeep.keeper import Keeper
from codexpool.upkeep.leasing import ANSWER

OWN_PATIENCE: Final = 10.0  # seconds a turn waits for another turn of its own member to end
ELSEWHERE_PATIENCE: Final = DEAD_AFTER + 5.0  # the same, if that is at another proxy, which may have been killed
# Seconds a turn waits for a slot in a pool that is full. (A client gives up after 300 seconds without a byte.)
PATIENCE: Final = 240.0
WORTH_TRACING: Final = 0.001  # seconds of waiting that a trace shows
TRY_AGAIN: Final = 5.0  # seconds after which a client that got no slot may ask again


class Denied(NamedTuple):
    """A turn may not begin before the unix second ``returns_at``. ``is_limit``: a limit of the member, shown as
    one."""

    message: str
    returns_at: float
    is_limit: bool


class Turns:
    """Begins turns and ends them. Those under way are in the keeper's queue."""

    async def admit(self, flow: http.HTTPFlow, exchange: Exchange, keeper: Keeper) -> bool:
        """Return whether a turn over HTTP has got its slot; if not, the client has its answer."""
        begun = time.monotonic()
        got = await self.begin(keeper, exchange.member)
        if (seconds := time.monotonic() - begun) > WORTH_TRACING:
            exchange.trace.waited("its turn", seconds)
        if isinstance(got, Slot):
            exchange.slot = got
            return True
        exchange.trace.replied(got.message)
        replace_response(flow, exchange, replies.denied(got.message, got.returns_at, got.is_limit, time.time()))
        return False

    @harmless
    def ended(self, flow: http.HTTPFlow, exchange: Exchange, keeper: Keeper | None) -> None:
        """Release the slot of a turn over HTTP, and count what it has used."""
        if exchange.slot is not None:
            exchange.slot.release()
            exchange.slot = None
        response, reading, exchange.incoming.reading = flow.response, exchange.incoming.reading, None
        if keeper is None or reading is None or response is None:
            return
        if exchange.is_answered and not is_held(response.status_code):
            if not response.stream and response.raw_content:
                reading.take(response.raw_content)
            if not reading.has_failed:
                served(keeper, exchange, reading.tokens)

    async def begin(self, keeper: Keeper, member: Member | None, *, may_wait: bool = True) -> Slot | Denied:
        """Begin a turn, after a bounded wait if necessary and allowed."""
        name = member.name if member is not None else ""
        spec = _spec_now(keeper, member)
        if spec is None or spec.turns_a_day is None:
            return await self._with_slot(keeper, name, spec, ANSWER, may_wait=may_wait)
        asked_at = time.monotonic()
        day = await keeper.leasing.reserve(name, spec.turns_a_day)
        if day is None:
            return _day_used_up(name, spec.turns_a_day)
        waited = time.monotonic() - asked_at  # For the state, or for turns that other proxies had leased.
        try:
            seconds = ANSWER - waited if waited < ANSWER else ANSWER
            return await self._with_slot(keeper, name, spec, seconds, may_wait=may_wait)
        finally:
            keeper.leasing.unreserve(day)

    @staticmethod
    async def _with_slot(
        keeper: Keeper, name: str, spec: MemberSpec | None, answer: float, *, may_wait: bool
    ) -> Slot | Denied:
        """Begin a turn with a slot. The state, if it has to be asked for one, has ``answer`` seconds."""
        at_once = spec.turns_at_once if spec is not None else None
        got: Slot | Full | None = keeper.queue.acquire_now(name, at_once)
        if got is None:

            def own_seconds() -> float:
                return min(seconds, ELSEWHERE_PATIENCE if keeper.leasing.has_turns_elsewhere(name) else OWN_PATIENCE)

            seconds, answered = PATIENCE if may_wait else 0.0, keeper.leasing.ask(answer)
            got = await keeper.queue.acquire(name, at_once, seconds, own_seconds, answered)
        if isinstance(got, Full):
            return _no_slot(got, name)
        if spec is not None:
            keeper.ledger.count_begun(name, time.time())
        return got


def _spec_now(keeper: Keeper, member: Member | None) -> MemberSpec | None:
    """Return what pool.toml says about a member now: a socket may have been opened under other settings."""
    if member is None:
        return None
    return keeper.config.member(member.name) or member.spec


def _day_used_up(name: str, most: int) -> Denied:
    message = f"codexpool: {name} has used today's {_turns(most)}; the count starts again at 00:00 UTC"
    return Denied(message, math.floor(time.time() / DAY + 1) * DAY, True)


def _no_slot(full: Full, name: str) -> Denied:
    at = time.time() + TRY_AGAIN
    if full.is_members:
        return Denied(f"codexpool: {name} already has {_turns(full.at_once)} under way, its maximum", at, True)
    return Denied(f"codexpool: the pool already has {_turns(full.at_once)} under way, its maximum", at, False)


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"


def served(keeper: Keeper, exchange: Exchange, tokens: Tokens | None, model: str = "") -> None:
    """Count a turn that was served to its end; ``model`` is the one it named, if not that of the exchange."""
    name = exchange.member.name if exchange.member is not None else ""
    keeper.pool.sessions.note_served(exchange.asked.client, exchange.attempt.metadata.key)
    keeper.ledger.count_served(name, exchange.attempt.name, model or exchange.asked.model, tokens, time.time())
