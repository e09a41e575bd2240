"""A queue with its event loop in one's own hands: one callback at a time, and a clock that stands still.

So whatever can come between two callbacks can be made to, and nobody waits for real.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVarTuple

from codexpool.members.turn_queue import Full, Slot, TurnQueue

LONG = 1e6
"""Seconds that nobody waits in a test."""

Ts = TypeVarTuple("Ts")


class ByHand(asyncio.BaseEventLoop):
    """An event loop that runs one callback when it is told to. There is nothing of it to be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ready: deque[asyncio.Handle] = deque()
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def __del__(self) -> None:
        """No warning."""

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.ready.append(asyncio.Handle(callback, args, self, context))
        return self.ready[-1]

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.timers.append(asyncio.TimerHandle(self.now + delay, callback, args, self, context))
        return self.timers[-1]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "exception" in context:  # Or a test is over, and somebody waits still.
            raise context["exception"]

    def run(self, handle: asyncio.Handle) -> None:
        asyncio._set_running_loop(self)
        try:
            if not handle.cancelled():
                handle._run()
        finally:
            asyncio._set_running_loop(None)

    def settle(self) -> None:
        while self.ready:
            self.run(self.ready.popleft())

    def passes(self, seconds: float) -> None:
        """What is due by then is ready, behind what was ready before; nothing has run yet."""
        self.now += seconds
        self.timers.sort(key=asyncio.TimerHandle.when)
        while self.timers and self.timers[0].when() <= self.now:
            self.ready.append(self.timers.pop(0))


@dataclass(eq=False)
class Turn:
    """What somebody has asked for. ``is_members`` tells which bound it was refused for."""

    who: str
    task: asyncio.Task[Slot | Full] | None = None
    timer: asyncio.TimerHandle | None = None
    slot: Slot | None = None
    is_members: bool | None = None
    is_gone: bool = False
    passed_by: Counter[str] = field(default_factory=Counter)

    @property
    def is_let_in(self) -> bool:
        return self.slot is not None

    def leave(self) -> None:
        assert self.slot is not None
        self.slot.release()


class Pool:
    """A queue, and the turns that are asked of it."""

    def __init__(self, at_once: int | None = None) -> None:
        self.loop = ByHand()
        self.queue = TurnQueue(at_once)

    def ask(self, who: str, at_once: int | None = None, seconds: float = LONG) -> Turn:
        """Somebody comes, and is in line if there is no place: its task has begun, and no other task has run."""
        before = len(self.loop.timers)
        task = asyncio.Task(self.queue.acquire(who, at_once, seconds), loop=self.loop)
        turn = Turn(who, task)
        self.loop.run(self.loop.ready.pop())
        turn.timer = self.loop.timers[-1] if len(self.loop.timers) > before else None
        self.heard(turn)
        return turn

    def asks(self, *names: str, at_once: int | None = None) -> list[Turn]:
        return [self.ask(name, at_once) for name in names]

    def heard(self, turn: Turn) -> bool:
        """Whether a turn has an answer by now, which it takes."""
        task = turn.task
        if task is None or not task.done():
            return False
        turn.task = None
        if not task.cancelled():
            got = task.result()
            if isinstance(got, Slot):
                turn.slot = got
            else:
                turn.is_members = got.is_members
        return True

    def leave_one_by_one(self, turns: list[Turn]) -> Iterator[Turn]:
        """Those who are in leave, as they came in; whoever was let in for that."""
        inside = deque(turn for turn in turns if turn.is_let_in)
        while inside:
            inside.popleft().leave()
            self.loop.settle()
            for turn in turns:
                if self.heard(turn) and turn.is_let_in:
                    inside.append(turn)
                    yield turn
