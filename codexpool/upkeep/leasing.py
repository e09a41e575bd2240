"""Keeps the leases of this proxy in agreement with the state: one exchange at a time, for all that wait.

A turn waits at most `ANSWER` for the state. After that, and while the state is out of reach, this proxy is alone: it
applies the whole bounds to its own turns, by what it knows, until the state answers in time again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from codexpool.common import tasks
from codexpool.members.leases import Use
from codexpool.members.ledger import Ledger, day_of
from codexpool.members.shares import Answer, Ask, Kind, Subject, of_member
from codexpool.members.turn_queue import TurnQueue
from codexpool.state import StateError

logger = logging.getLogger("codexpool")

ANSWER: Final = 0.25  # Seconds that a turn waits for an answer of the state.
POLL: Final = 1.0  # Seconds between two exchanges while slots are leased: turns may wait for them elsewhere.
WAIT_POLL: Final = 0.5  # Seconds between two exchanges while turns wait for slots that others use.
IDLE_POLL: Final = 0.25  # The same, while the proxy that has a slot does not use it.
ALONE: Final = "the state is slow or out of reach, so this proxy applies bounds to its own turns only"
SHARED: Final = "the state answers in time again, and this proxy shares bounds with the others"
DAY_PATIENCE: Final = 3.0  # Seconds that a turn waits for those of its day that others have leased and do not use.

Exchange = Callable[[Sequence[Ask]], Mapping[Subject, Answer]]
"""Tells the state what is kept and wanted of some bounds. For a thread; raises StateError."""


class Leasing:
    """What turns need to keep the bounds of a fleet. For the thread of the event loop."""

    def __init__(
        self, queue: TurnQueue, ledger: Ledger, exchange: Exchange, is_connected: Callable[[], bool]
    ) -> None:
        self._queue = queue
        self._leases = queue.leases
        self._leases.on_yield = self._wake_up
        self._ledger = ledger
        self._exchange_with_state = exchange
        self._is_connected = is_connected
        self._wake = asyncio.Event()
        self._asking: list[asyncio.Future[None]] = []  # Turns that wait for the next exchange.
        self._asked: list[asyncio.Future[None]] = []  # Turns that wait for the one under way.
        self._most: dict[Subject, int] = {}  # The bounds of the days below.
        self._wanted: Counter[Subject] = Counter()  # Turns that wait for one of a day.
        self._reserved: Counter[Subject] = Counter()  # Turns of a day that are taken and have not begun yet.

    async def run(self) -> None:
        """Share the bounds with the other proxies, for ever. Begin after the first heartbeat."""
        self._leases.is_shared = self._is_connected()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            self._wake.clear()
            await self._exchange()

    def has_turns_elsewhere(self, member: str) -> bool:
        """Return whether other proxies have slots of a member: one of them may have been killed."""
        held = self._leases.held.get(of_member(member))
        return self._leases.is_shared and held is not None and held.elsewhere > 0

    def ask(self, seconds: float = ANSWER) -> asyncio.Future[None] | None:
        """Ask the state for what the turns in line need now. None if it is out of reach.

        The future is done when the state has answered, or after ``seconds``.
        """
        if not self._leases.is_shared:
            return None
        if not self._is_connected():
            self._go_alone()
            return None
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = loop.call_later(seconds, self._is_late, future)
        future.add_done_callback(lambda _: timer.cancel())
        self._asking.append(future)
        self._wake.set()
        return future

    # -- turns of a day

    async def reserve(self, member: str, most: int) -> Subject | None:
        """Take one of a member's turns of today, and return its day; None if there is none left."""
        day = Subject(Kind.DAY, member, day_of(time.time()))
        if not self._is_left(day, most) and not await self._is_leased(day, most):
            return None
        self._leases.begun(day)
        self._reserved[day] += 1
        return day

    def unreserve(self, day: Subject) -> None:
        """Follow a reserved turn that was counted as begun, or has not begun."""
        self._reserved[day] -= 1
        if not self._reserved[day]:
            del self._reserved[day]

    def _is_left(self, day: Subject, most: int) -> bool:
        reserved = self._reserved[day]
        if self._leases.is_shared:
            return self._ledger.turns_on(day.day, day.member) + reserved < self._leases.slots(day, most)
        return self._ledger.turns_today(day.member, time.time()) + reserved < most

    async def _is_leased(self, day: Subject, most: int) -> bool:
        """Return whether the state leases a turn of a day, after a wait for those that others do not use."""
        self._most[day] = most
        self._wanted[day] += 1
        end = asyncio.get_running_loop().time() + DAY_PATIENCE
        try:
            while (answered := self.ask()) is not None:
                await answered
                if self._is_left(day, most):
                    return True
                held = self._leases.held.get(day)
                if held is None or not held.idle or asyncio.get_running_loop().time() >= end:
                    break
                await asyncio.sleep(IDLE_POLL)
            return self._is_left(day, most)
        finally:
            self._wanted[day] -= 1
            if not self._wanted[day]:
                del self._wanted[day]

    def _days(self) -> dict[Subject, Use]:
        """Return what is used and wanted of the days of which something is leased, reserved or wanted."""
        leased = (subject for subject in self._leases.held if subject.kind is Kind.DAY)
        days = {*self._wanted, *self._reserved, *leased}
        self._most = {day: most for day, most in self._most.items() if day in days}
        uses = {}
        for day in days:
            begun, most = self._ledger.turns_on(day.day, day.member), self._most.get(day, 0)
            uses[day] = Use(most, begun + self._reserved[day], self._wanted[day], begun)
        return uses

    # -- exchanges

    def _pause(self) -> float | None:
        if not self._leases.is_shared:
            return POLL
        if self._leases.changes_soon:
            return IDLE_POLL
        if self._wanted or self._queue.has_waiting:
            return WAIT_POLL
        return POLL if self._leases.held else None

    async def _exchange(self) -> None:
        if not self._is_connected():
            self._go_alone()
            return
        self._asked, self._asking = self._asking, []
        uses, members = self._queue.uses()
        asks = self._leases.asks(uses | self._days(), members)
        begun = self._leases.clock()
        try:
            if asks or not self._leases.is_shared:
                self._take(await self._answers(asks, begun), begun)
        except StateError as error:  # The state's own log says when it is lost, and back.
            logger.debug("state: leasing turns failed: %s", error)
            self._go_alone()
        except Exception:  # A bug of ours must not end the bounds.
            logger.exception("leasing turns failed; retrying in %.0f s", POLL)
            self._go_alone()
        finally:
            _settle(self._asked)

    async def _answers(self, asks: Sequence[Ask], begun: float) -> Mapping[Subject, Answer]:
        """Exchange once more if that fails at once: perhaps it was only the connection. Repeating it does no harm."""
        try:
            return await tasks.in_thread(self._exchange_with_state, asks, daemon=True)
        except StateError:
            if self._leases.clock() - begun > ANSWER:
                raise
            return await tasks.in_thread(self._exchange_with_state, asks, daemon=True)

    def _take(self, answers: Mapping[Subject, Answer], begun: float) -> None:
        self._leases.take(answers, begun)
        self._share(self._leases.clock() - begun <= ANSWER)
        for subject, answer in answers.items():
            if subject.kind is Kind.DAY:
                self._ledger.note_elsewhere(subject.member, subject.day, answer.elsewhere)
        self._queue.admit()

    def _is_late(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            self._go_alone()

    def _share(self, is_shared: bool) -> None:
        if is_shared is not self._leases.is_shared:
            logger.info("turns: %s", SHARED if is_shared else ALONE)
        self._leases.is_shared = is_shared

    def _go_alone(self) -> None:
        self._share(False)
        self._queue.admit()
        _settle(self._asking)
        _settle(self._asked)

    def _wake_up(self) -> None:
        self._wake.set()


def _settle(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
    futures.clear()
