"""The places of a pool: who may have a turn now, who waits for one, and who of them is next.

Members who wait stand in a round. The first that may have a turn has one, and goes to the end if more of its turns
wait; within a member it is first come, first served. A member at its own bound keeps its place in the round, and is
passed over until it is below it.

What holds, as long as the bounds stay as they are, and a turn *may have a place* if it is the first that waits of its
member, and the member is below its own bound:

1. No place is idle while a turn waits that may have it: nobody overtakes it from outside.
2. Of the turns that are let in while a turn may have a place, at most one is of each other member. For a member that
   is let in goes behind, or comes back there, and nobody is let in who stands behind one that may have a place.
3. So with C places, M members that wait, and turns of at most T seconds, it waits at most ``ceil(M / C) * T`` seconds
   from then on: all places are taken (1), each is free once in every T at least, and that lets C turns in; after M it
   has had its turn (2). The turn that comes k-th of its member waits ``ceil(k * M / C) * T`` at most, without a bound
   of the member's own.

The states of a turn, and what ends them:

- waits: it is in the line of its member. A place, the end of its time, or its client's leaving ends it.
- let in: a place is its own from that moment, though its task has not heard of it yet. `Ticket.leave` ends it.
- late, gone: it is in no line and has no place.

Whatever changes places or bounds lets in at once who may have one, and never awaits: so there is one order of events,
and the first of them decides. Three come before their task has run:

- its client leaves after it was let in: the task gives the place back, and the next one has it.
- its client has left, and a place is free: it is dropped from its line, as nobody would come.
- its time is over after it was let in, or the other way round: the second one finds it done, and does nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Bound(StrEnum):
    """What turns under way are counted against."""

    MEMBER = "member"
    POOL = "pool"


class Full(NamedTuple):
    """A bound is met: ``at_once`` turns are under way."""

    bound: Bound
    at_once: int


class Ticket:
    """A place. Whoever has it gives it back, whatever becomes of the turn."""

    __slots__ = ("_turnstile", "_who")

    def __init__(self, turnstile: Turnstile, who: str) -> None:
        self._turnstile: Turnstile | None = turnstile
        self._who = who

    def leave(self) -> None:
        """The turn is over, and the next one may have its place. More than once is the same as once."""
        turnstile, self._turnstile = self._turnstile, None
        if turnstile is not None:
            turnstile._left(self._who)


Waiting = asyncio.Future[Ticket | Full]
"""A turn that waits, and what has become of it."""


@dataclass(slots=True)
class Line:
    """A member's turns that wait. ``at_once`` is its bound, as it was said last."""

    at_once: int | None
    turns: OrderedDict[Waiting, None] = field(default_factory=OrderedDict)


class Turnstile:
    """Of one event loop. It keeps nothing of a member without a turn that is under way or waits."""

    def __init__(self, at_once: int | None = None) -> None:
        self._at_once = at_once
        self._total = 0
        self._under_way: dict[str, int] = {}
        self._round: OrderedDict[str, Line] = OrderedDict()

    @property
    def at_once(self) -> int | None:
        """Turns of the whole pool at once; None is no bound. Nobody has to leave where there are too many."""
        return self._at_once

    @at_once.setter
    def at_once(self, at_once: int | None) -> None:
        self._at_once = at_once
        self._let_in()

    def under_way(self, who: str) -> int:
        """Turns of a member now."""
        return self._under_way.get(who, 0)

    def enter(self, who: str, at_once: int | None) -> Ticket | None:
        """A place for a member's turn, if it may have one at once; None if it has to `wait`.

        ``at_once`` is the member's own bound, also for its turns that wait already.
        """
        line = self._round.get(who)
        if line is not None and line.at_once != at_once:
            line.at_once = at_once
            self._let_in()
        # Where there is a place now, nobody who waits may have it, of this member or another.
        return self._place(who) if self._met(who, at_once) is None else None

    async def wait(self, who: str, at_once: int | None, seconds: float) -> Ticket | Full:
        """A place for a member's turn, once it may have one; which bound is met, if that takes longer than this.

        If it is cancelled it has no place. (Not to be put into `asyncio.wait_for`, which loses what it was given if
        it is cancelled just then.)
        """
        if (ticket := self.enter(who, at_once)) is not None:
            return ticket
        loop = asyncio.get_running_loop()
        turn: Waiting = loop.create_future()
        self._round.setdefault(who, Line(at_once)).turns[turn] = None
        timer = loop.call_later(seconds, self._late, who, turn)
        try:
            return await turn
        except BaseException:  # Cancelled, or closed with its loop.
            self._gone(who, turn)
            raise
        finally:
            timer.cancel()

    # -- what ends a state

    def _left(self, who: str) -> None:
        self._total -= 1
        if (left := self._under_way[who] - 1) > 0:
            self._under_way[who] = left
        else:
            del self._under_way[who]
        if self._round:
            self._let_in()

    def _late(self, who: str, turn: Waiting) -> None:
        if turn.done():
            return
        full = self._met(who, self._round[who].at_once)
        assert full is not None, "it could have been let in"
        self._drop(who, turn)
        turn.set_result(full)

    def _gone(self, who: str, turn: Waiting) -> None:
        if turn.done() and not turn.cancelled():
            if isinstance(got := turn.result(), Ticket):
                got.leave()
        else:
            self._drop(who, turn)

    # -- who is next

    def _met(self, who: str, at_once: int | None) -> Full | None:
        """Which bound keeps a member's turn out now."""
        if at_once is not None and self._under_way.get(who, 0) >= at_once:
            return Full(Bound.MEMBER, at_once)
        if self._at_once is not None and self._total >= self._at_once:
            return Full(Bound.POOL, self._at_once)
        return None

    def _let_in(self) -> None:
        """Let in all that may have a place."""
        while (who := self._next()) is not None:
            turn = next(iter(self._round[who].turns))
            self._drop(who, turn)
            if not turn.done():
                if who in self._round:
                    self._round.move_to_end(who)
                turn.set_result(self._place(who))

    def _next(self) -> str | None:
        """The first member of the round that may have a place."""
        if self._at_once is not None and self._total >= self._at_once:
            return None
        return next((who for who, line in self._round.items() if self._met(who, line.at_once) is None), None)

    def _place(self, who: str) -> Ticket:
        self._total += 1
        self._under_way[who] = self._under_way.get(who, 0) + 1
        return Ticket(self, who)

    def _drop(self, who: str, turn: Waiting) -> None:
        """Take a turn out of its line, if it is in it; the last one takes its member out of the round."""
        line = self._round.get(who)
        if line is not None:
            line.turns.pop(turn, None)
            if not line.turns:
                del self._round[who]
