"""What this proxy has leased of each bound: how many turns may be under way, what it asks for and what it gives back.

A *slot* is leased from the state, where the claims of all proxies are (`codexpool.members.shares`). It stays leased
for some seconds after its turn, so that the next turn costs no query. If turns wait for it elsewhere, it goes back as
soon as its turn ends, and this proxy's own turns wait for their share like all others.

Two rules keep the bound, whatever is lost on the way to the state: what is given back is not used any more from the
moment it is offered, and what is asked for is not used before the state has answered. So the state never has fewer
slots for this proxy than it uses. Without an answer the proxy is *alone*, and the whole bound is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from codexpool.members.shares import Answer, Ask, Kind, Subject, Turns

KEEP: Final = 5.0  # Seconds for which a slot without a turn stays leased.
VALID_FOR: Final = 12.0  # Seconds for which a lease is used after an exchange: it ends after 15 (a missed heartbeat).


class Use(NamedTuple):
    """What the turns of this proxy need of a bound.

    ``used`` are the turns under way, of a day those begun and reserved; of these, ``spent`` (the begun ones of a day)
    never come back. ``waiting`` are the turns that wait.
    """

    bound: int = 0
    used: int = 0
    waiting: int = 0
    spent: int = 0


UNUSED: Final = Use()


@dataclass(slots=True)
class Held:
    """What is leased of a bound, and what the state said about it."""

    bound: int = 0  # As a turn last had it.
    slots: int = 0
    elsewhere: int = 0
    idle: int = 0
    is_full: bool = False
    is_contended: bool = False
    has_idle: bool = False  # Whether there are slots without a turn here.
    active_at: float = 0.0  # When a turn last needed it.
    ended: int = 0  # Turns that ended since the last exchange began, and whose slots go back.
    waits: bool = False  # Whether the state was told last that turns wait.
    is_known: bool = True  # Whether the state is known to lease no more than ``slots``.

    def keeps(self, use: Use, now: float, *, of_pool: bool) -> int:
        """Return the slots to keep: those of turns, and for some seconds the others, unless turns wait elsewhere."""
        needed = self.slots
        if self.is_contended or now - self.active_at > KEEP:
            # A turn that has the slot of its member, and waits for one of the pool, does not give it up.
            needed = use.used if of_pool else use.used + use.waiting
        return max(use.used, min(self.slots, needed))


@dataclass
class Leases:
    """The leases of one proxy. Times are seconds of a monotonic clock."""

    clock: Callable[[], float] = time.monotonic
    on_yield: Callable[[], None] = field(default=lambda: None, compare=False)  # A slot goes back, and should soon.
    is_shared: bool = False  # Whether the state answers. Otherwise this proxy is alone.
    held: dict[Subject, Held] = field(default_factory=dict)
    _valid_until: float = 0.0

    def slots(self, subject: Subject, bound: int) -> int:
        """Return how many turns may be under way here, of those that the bound allows."""
        if not self.is_shared:
            return bound
        held = self.held.get(subject)
        return min(bound, held.slots) if held is not None and self.clock() < self._valid_until else 0

    def begun(self, subject: Subject) -> None:
        """Note that a turn of a day has begun: the rest of what is leased stays for the next ones."""
        if (held := self.held.get(subject)) is not None:
            held.active_at = self.clock()

    def ended(self, subject: Subject) -> None:
        """Note that a turn has ended. Its slot goes back if turns wait for it elsewhere."""
        if (held := self.held.get(subject)) is None:
            return
        held.active_at, held.has_idle = self.clock(), True
        if self.is_shared and held.is_contended:
            held.slots = max(0, held.slots - 1)
            held.ended += 1
            self.on_yield()

    def asks(self, uses: Mapping[Subject, Use], members: tuple[Turns, ...]) -> list[Ask]:
        """Return what to tell the state now. From here on, slots that are not kept are not used.

        ``members`` has the turns that need a slot of the pool.
        """
        now = self.clock()
        asks = []
        for subject in {**self.held, **uses}:
            held, use = self.held.setdefault(subject, Held()), uses.get(subject, UNUSED)
            held.bound = use.bound or held.bound
            if use.used > use.spent or use.waiting:
                held.active_at = now
            of_pool = subject.kind is Kind.POOL
            keep = held.keeps(use, now, of_pool=of_pool)
            if held.is_known and keep == held.slots == use.spent and not (held.ended or held.waits or use.waiting):
                del self.held[subject]
                continue
            asks.append(Ask(subject, held.bound, use.used, keep, use.waiting, members if of_pool else ()))
        for ask in asks:
            held = self.held[ask.subject]
            held.slots, held.ended, held.is_known = min(held.slots, ask.keep), 0, False
            held.waits, held.has_idle = ask.waiting > 0, ask.keep > ask.used
        return asks

    def take(self, answers: Mapping[Subject, Answer], asked_at: float) -> None:
        """Use what the state has answered to what was asked at ``asked_at``."""
        self._valid_until = asked_at + VALID_FOR
        for subject, answer in answers.items():
            held = self.held[subject]
            held.slots, held.is_known = max(0, answer.slots - held.ended), True
            held.elsewhere, held.idle = answer.elsewhere, answer.idle
            held.is_full, held.is_contended = answer.is_full, answer.is_contended

    @property
    def changes_soon(self) -> bool:
        """Whether a slot without a turn is about to go to a turn that waits at another proxy: here or there."""
        return any((held.is_full and held.has_idle) or (held.waits and held.idle) for held in self.held.values())
