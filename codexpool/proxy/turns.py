"""Turns, as members have them: whether one may begin, and what it has used in the end.

A turn is one request for the model. Where there are bounds it may have to wait for its place, or is told that there
is none; where there are none it costs a few dictionary operations.
"""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

from mitmproxy import http

from codexpool.common.never_raises import harmless
from codexpool.config import MemberSpec
from codexpool.members.ledger import DAY, Ledger
from codexpool.members.register import Member
from codexpool.members.turn_queue import Bound, Full, Slot, TurnQueue
from codexpool.pool.verdict import is_held
from codexpool.protocol.token_usage import Tokens
from codexpool.proxy import replies
from codexpool.proxy.exchange import Exchange, replace_response
from codexpool.upkeep.keeper import Keeper

OWN_PATIENCE: Final = 10.0
"""Seconds that a turn waits for another one of its own member to end."""

PATIENCE: Final = 240.0
"""Seconds that a turn waits for its place in a pool that is full. (After 300 without a byte a client gives up.)"""

WORTH_SAYING: Final = 0.001
"""Seconds of waiting that a trace speaks of."""

TRY_AGAIN: Final = 5.0
"""Seconds after which a client may ask again that has found no place."""


class Denied(NamedTuple):
    """A turn may not begin. ``returns_at`` is the unix second from which on it may; ``is_limit`` says that this is a
    bound of the member's day, and no matter of moments."""

    message: str
    returns_at: float
    is_limit: bool


class Turns:
    """All turns under way. ``at_once`` of its queue is what pool.toml says of the pool."""

    def __init__(self) -> None:
        self.queue = TurnQueue()

    def follow(self, at_once: int | None) -> None:
        """Take over the bound of the pool."""
        if self.queue.at_once != at_once:
            self.queue.at_once = at_once

    async def begins(self, flow: http.HTTPFlow, exchange: Exchange, keeper: Keeper) -> bool:
        """Whether a turn over HTTP has got its place; else the client has its answer."""
        begun = time.monotonic()
        got = await self.begin(keeper, exchange.member)
        if (seconds := time.monotonic() - begun) > WORTH_SAYING:
            exchange.trace.waited("its turn", seconds)
        if isinstance(got, Slot):
            exchange.slot = got
            return True
        exchange.trace.replied(got.message)
        replace_response(flow, exchange, replies.denied(got.message, got.returns_at, got.is_limit, time.time()))
        return False

    @harmless
    def ended(self, flow: http.HTTPFlow, exchange: Exchange, keeper: Keeper | None) -> None:
        """A turn over HTTP is over, however it has ended: the next one may have its place."""
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
        """Begin a turn, as soon as it may; how long that takes is bounded. One that may not wait is one that would
        wait for itself."""
        name = member.name if member is not None else ""
        spec = _as_of_now(keeper, member)
        if (denied := _has_had_its_day(keeper.ledger, spec)) is not None:
            return denied
        at_once = spec.turns_at_once if spec is not None else None
        got: Slot | Full | None = self.queue.acquire_now(name, at_once)
        if got is None:
            is_own = at_once is not None and self.queue.under_way(name) >= at_once
            seconds = (OWN_PATIENCE if is_own else PATIENCE) if may_wait else 0.0
            got = await self.queue.acquire(name, at_once, seconds)
            if isinstance(got, Slot) and (denied := _has_had_its_day(keeper.ledger, spec)) is not None:
                got.release()  # Others of its member have begun while it waited.
                return denied
        if isinstance(got, Full):
            return _no_place(got, name)
        if member is not None:
            keeper.ledger.begun(name, time.time())
        return got


def _as_of_now(keeper: Keeper, member: Member | None) -> MemberSpec | None:
    """What pool.toml says of a member now: a socket may be open for longer than that stays so."""
    if member is None:
        return None
    now = keeper.config.member(member.name) if keeper.config is not None else None
    return now or member.spec


def _has_had_its_day(ledger: Ledger, spec: MemberSpec | None) -> Denied | None:
    most, now = spec.turns_a_day if spec is not None else None, time.time()
    if spec is None or most is None or ledger.turns_today(spec.name, now) < most:
        return None
    message = f"codexpool: {spec.name} has had its {most} turns of today (UTC), and may have no more"
    return Denied(message, math.floor(now / DAY + 1) * DAY, True)


def _no_place(full: Full, name: str) -> Denied:
    at = time.time() + TRY_AGAIN
    if full.bound is Bound.MEMBER:
        turns = "turn" if full.at_once == 1 else "turns"
        return Denied(f"codexpool: {name} has {full.at_once} {turns} under way, as many as it may at once", at, True)
    return Denied(f"codexpool: all {full.at_once} places of the pool are taken", at, False)


def served(keeper: Keeper, exchange: Exchange, tokens: Tokens | None, model: str = "") -> None:
    """A turn has been served to its end; ``model`` is the one it has asked, if it was another one than the first."""
    name = exchange.member.name if exchange.member is not None else ""
    keeper.ledger.served(name, exchange.attempt.name, model or exchange.asked.model, tokens, time.time())
