"""The queue for a pool's slots: who may have a turn now, who waits, and who is next.

Members with waiting turns stand in a ring. The first that may have a slot takes one, and goes to the end if more of
its turns wait; within a member it is first come, first served. A member at its own bound keeps its position in the
ring and is skipped until it is below the bound.

With several proxies the bounds are what this one has leased (`codexpool.members.leases`): below, a bound is that, and
C are the slots of the pool that it has.

Guarantees, as long as the bounds do not change. A turn is *eligible* if it is the first waiting turn of its member
and the member is below its own bound:

1. No slot is free while a turn is eligible: nothing overtakes it from outside.
2. Of the turns admitted while a turn is eligible, at most one belongs to each other member: an admitted member goes
   to the end of the ring, and nothing after an eligible turn is admitted before it.
3. So with C slots, M waiting members and turns of at most T seconds, it waits at most ``ceil(M / C) * T`` seconds:
   all slots are taken (1), each becomes free at least once every T, which admits C turns, and it is among the first M
   (2). The k-th turn of a member without a bound of its own waits at most ``ceil(k * M / C) * T``.

For P proxies that share C slots, W is the number of members that wait, each counted once for each proxy it waits at.
While turns wait elsewhere, a slot goes back at the end of its turn, and the proxies get free slots in proportion to
the members that wait at them: until a proxy with m members has got m slots, the others have got at most W - m + P
(`codexpool.members.shares`), and by (2) one of those m is for a given eligible turn. So it waits at most
``ceil((W + P) / C) * (T + H)``, where H, about a second, is what it takes until the next proxy knows of a slot.

Whatever frees a slot or changes a bound admits turns at once and never awaits, so events have one order and the first
one decides. Three races remain, because a waiting task runs later than the event that ended its wait:

- the client leaves after its turn was admitted: the task releases the slot, and the next turn takes it.
- the client has left and a slot becomes free: the turn is dropped, because its task would never use the slot.
- the time runs out after the turn was admitted, or the reverse: the second finds the future done and does nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from codexpool.members.leases import Leases, Use
from codexpool.members.shares import POOL, Subject, Turns, of_member


class Full(NamedTuple):
    """The bound of the member, or of the pool, is met: ``at_once`` turns are under way."""

    at_once: int
    is_members: bool


class Slot:
    """The right to one turn. Release it when the turn is over, however it ended."""

    __slots__ = ("_member", "_queue")

    def __init__(self, queue: TurnQueue, member: str) -> None:
        self._queue: TurnQueue | None = queue
        self._member = member

    def release(self) -> None:
        """Give the slot to the next turn. Releasing it again does nothing."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue._released(self._member)


Waiting = asyncio.Future[Slot | Full]
"""A waiting turn, and the outcome of the wait."""


@dataclass(slots=True)
class Line:
    """The waiting turns of a member, and the member's own bound as last given."""

    at_once: int | None
    turns: OrderedDict[Waiting, None] = field(default_factory=OrderedDict)


class TurnQueue:
    """Use it from one event loop only. It remembers nothing about members without turns."""

    def __init__(self, at_once: int | None = None, leases: Leases | None = None) -> None:
        self.leases = leases or Leases()
        self._at_once = at_once
        self._total = 0
        self._under_way: dict[str, int] = {}
        self._bounds: dict[str, int] = {}  # of members with turns under way
        self._ring: OrderedDict[str, Line] = OrderedDict()

    def limit(self, at_once: int | None) -> None:
        """Bound the turns of the whole pool; None is no bound. No turn under way is ended."""
        if at_once != self._at_once:
            self._at_once = at_once
            self.admit()

    def under_way(self, member: str) -> int:
        """Return how many turns of a member are under way."""
        return self._under_way.get(member, 0)

    @property
    def has_waiting(self) -> bool:
        return bool(self._ring)

    def acquire_now(self, member: str, at_once: int | None) -> Slot | None:
        """Return a slot, or None if the member has to wait for one.

        ``at_once`` is the member's own bound from now on, also for its waiting turns.
        """
        line = self._ring.get(member)
        if line is not None and line.at_once != at_once:
            line.at_once = at_once
            self.admit()
        # A slot that is still free is one that no waiting turn may have.
        return self._slot(member, at_once) if self._bound_met(member, at_once) is None else None

    async def acquire(
        self,
        member: str,
        at_once: int | None,
        seconds: float,
        own_seconds: Callable[[], float] | None = None,
        answered: asyncio.Future[None] | None = None,
    ) -> Slot | Full:
        """Return a slot, waiting at most ``seconds`` for it, or the bound that is still met then.

        If the bound of the member is met, a turn waits ``own_seconds``. Which bound that is, and so the time, is
        known when ``answered`` is done.

        Cancelling leaves no slot taken. Do not wrap this in `asyncio.wait_for`, which loses the slot if it is
        cancelled just as the slot is granted.
        """
        if (slot := self.acquire_now(member, at_once)) is not None:
            return slot
        loop = asyncio.get_running_loop()
        turn: Waiting = loop.create_future()
        self._ring.setdefault(member, Line(at_once)).turns[turn] = None
        timer: asyncio.TimerHandle | None = None
        try:
            if answered is not None:
                await asyncio.wait((turn, answered), return_when=asyncio.FIRST_COMPLETED)
            full = self._bound_met(member, at_once)
            if own_seconds is not None and full is not None and full.is_members:
                seconds = own_seconds()
            timer = loop.call_later(seconds, self._time_out, member, turn)
            return await turn
        except BaseException:  # Cancelled, or closed with its loop.
            self._abandon(member, turn)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def uses(self) -> tuple[dict[Subject, Use], tuple[Turns, ...]]:
        """Return what the turns need of each bound, and those that need a slot of the pool."""
        uses: dict[Subject, Use] = {}
        members = []
        for member in self._under_way.keys() | self._ring.keys():
            line, under_way = self._ring.get(member), self._under_way.get(member, 0)
            bound, waiting = self._bounds.get(member), 0
            if line is not None:
                bound, waiting = line.at_once, len(line.turns)
            if bound is not None:
                uses[of_member(member)] = Use(bound, under_way, waiting)
            if waiting:
                members.append(Turns(of_member(member) if bound is not None else None, under_way, waiting))
        if self._at_once is not None and (self._total or members):
            uses[POOL] = Use(self._at_once, self._total, sum(turns.waiting for turns in members))
        return uses, tuple(members)

    # -- what ends a wait or a turn

    def _released(self, member: str) -> None:
        self._total -= 1
        if (left := self._under_way[member] - 1) > 0:
            self._under_way[member] = left
        else:
            del self._under_way[member]
        if self._at_once is not None:
            self.leases.ended(POOL)
        if member in self._bounds:
            self.leases.ended(of_member(member))
            if not left:
                del self._bounds[member]
        if self._ring:
            self.admit()

    def _time_out(self, member: str, turn: Waiting) -> None:
        if turn.done():
            return
        full = self._bound_met(member, self._ring[member].at_once)
        assert full is not None, "the turn could have been admitted"
        self._drop(member, turn)
        turn.set_result(full)

    def _abandon(self, member: str, turn: Waiting) -> None:
        if turn.done() and not turn.cancelled():
            if isinstance(slot := turn.result(), Slot):
                slot.release()
        else:
            self._drop(member, turn)

    # -- who is next

    def _bound_met(self, member: str, at_once: int | None) -> Full | None:
        if at_once is not None and self._under_way.get(member, 0) >= self.leases.slots(of_member(member), at_once):
            return Full(at_once, is_members=True)
        if self._at_once is not None and self._total >= self.leases.slots(POOL, self._at_once):
            return Full(self._at_once, is_members=False)
        return None

    def admit(self) -> None:
        """Give slots to all turns that may have one."""
        while (member := self._next()) is not None:
            line = self._ring[member]
            turn = next(iter(line.turns))
            self._drop(member, turn)
            if not turn.done():
                if member in self._ring:
                    self._ring.move_to_end(member)
                turn.set_result(self._slot(member, line.at_once))

    def _next(self) -> str | None:
        """Return the first member of the ring that may have a slot."""
        if self._at_once is not None and self._total >= self.leases.slots(POOL, self._at_once):
            return None
        return next(
            (member for member, line in self._ring.items() if self._bound_met(member, line.at_once) is None), None
        )

    def _slot(self, member: str, at_once: int | None) -> Slot:
        if at_once is not None:
            self._bounds[member] = at_once
        self._total += 1
        self._under_way[member] = self._under_way.get(member, 0) + 1
        return Slot(self, member)

    def _drop(self, member: str, turn: Waiting) -> None:
        """Remove a turn from its line if it is there, and the member from the ring with its last turn."""
        line = self._ring.get(member)
        if line is not None:
            line.turns.pop(turn, None)
            if not line.turns:
                del self._ring[member]
