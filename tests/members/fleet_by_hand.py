"""Proxies that share a state, all by hand: each step of an exchange is one's own, and the clock stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codexpool.members.leases import Leases
from codexpool.members.shares import Answer, Ask, Claim, Settled, Standing, Subject, settle
from tests.members.by_hand import Pool, Turn

ALIVE = 15.0
"""Seconds for which a proxy counts as alive after an exchange."""


@dataclass
class Store:
    """What the database does: the claims of each bound, with a lock that nobody sees."""

    now: float = 1000.0
    claims: dict[Subject, dict[str, Claim]] = field(default_factory=dict)
    clocks: dict[Subject, float] = field(default_factory=dict)
    seen_at: dict[str, float] = field(default_factory=dict)
    begun: dict[Subject, dict[str, int]] = field(default_factory=dict)
    """The turns of a day that each proxy has begun."""

    def is_alive(self, holder: str) -> bool:
        return self.now - self.seen_at.get(holder, -ALIVE) < ALIVE

    def alive(self, subject: Subject) -> list[Claim]:
        return [claim for claim in self.claims.get(subject, {}).values() if self.is_alive(claim.holder)]

    def exchange(self, holder: str, asks: Sequence[Ask]) -> dict[Subject, Answer]:
        found = {
            ask.subject: Standing(
                self.clocks.get(ask.subject, 0.0), self.alive(ask.subject), self.begun.get(ask.subject, {})
            )
            for ask in asks
        }
        settled: Mapping[Subject, Settled] = settle(holder, asks, found)
        for subject, (claim, clock, _) in settled.items():
            self.claims.setdefault(subject, {})[holder] = claim
            self.clocks[subject] = clock
        self.seen_at[holder] = self.now
        return {subject: outcome.answer for subject, outcome in settled.items()}


@dataclass(eq=False)
class Proxy:
    """A queue that leases from a store."""

    name: str
    store: Store
    at_once: int | None = None
    turns: list[Turn] = field(default_factory=list)
    asked: tuple[list[Ask], float] | None = None
    answers: dict[Subject, Answer] | None = None

    def __post_init__(self) -> None:
        self.pool = Pool(self.at_once)
        self.queue = self.pool.queue
        self.queue.leases = Leases(clock=lambda: self.store.now, is_shared=True)

    def comes(self, member: str, own: int | None) -> Turn:
        turn = self.pool.ask(member, own)
        self.turns.append(turn)
        return turn

    @property
    def under_way(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.is_let_in]

    @property
    def waiting(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.task is not None]

    def leaves(self, turn: Turn) -> None:
        turn.leave()
        self.turns.remove(turn)
        self.hears()

    def goes_away(self, turn: Turn) -> None:
        assert turn.task is not None
        turn.task.cancel()
        self.turns.remove(turn)
        self.hears()

    def hears(self) -> None:
        self.pool.loop.settle()
        for turn in self.turns:
            self.pool.heard(turn)

    # -- the steps of an exchange

    def asks(self) -> None:
        """Tell the state what is kept and wanted; on the way it may get lost."""
        asks = self.queue.leases.asks(*self.queue.uses())
        if asks:
            self.asked = asks, self.store.now

    def commits(self) -> None:
        if self.asked is not None and self.answers is None:
            self.answers = self.store.exchange(self.name, self.asked[0])

    def takes(self) -> None:
        if self.asked is not None and self.answers is not None:
            self.queue.leases.take(self.answers, self.asked[1])
            self.queue.admit()
            self.hears()
        self.is_lost()

    def is_lost(self) -> None:
        self.asked = self.answers = None

    def exchanges(self) -> None:
        self.is_lost()
        self.asks()
        self.commits()
        self.takes()
