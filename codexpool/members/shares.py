"""How several proxies share a bound: what each may lease of it now. A rule, without a clock or a database.

A proxy *claims* slots of a bound: so many are leased to it, and so many turns wait for more. In each exchange with
the state one proxy says what it keeps and wants, sees the claims of the others, and gets its share of the free slots:

1. All slots leased are at most the bound, unless a proxy had begun turns without the state. Then there is no new slot
   until enough of them have ended.
2. Free slots are shared by start-time fair queueing: a proxy that begins to wait starts at the clock, each slot
   advances it by ``1 / weight``, and the one that is least advanced is next. The weight is the number of members
   whose turns wait at it. A slot that is due to another proxy is left to it.
3. So while the same members wait, a proxy of weight w gets w slots before another one of weight v has had v + 2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

CHUNK: Final = 16  # Turns of a day that are leased at once, at most.
PARTS: Final = 8  # Of the turns that are left of a day, all proxies together lease in advance one part of so many.


class Kind(StrEnum):
    """What is bounded. A ``DAY`` counts turns that were begun: they do not come back."""

    POOL = "pool"
    MEMBER = "member"
    DAY = "day"


class Subject(NamedTuple):
    """A bound: of the turns of a pool at once, of those of a member, or of those of a member and a day."""

    kind: Kind
    member: str = ""
    day: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.day, self.member) if part)


POOL: Final = Subject(Kind.POOL)


def of_member(member: str) -> Subject:
    """Return the bound of a member's turns at once."""
    return Subject(Kind.MEMBER, member)


class Turns(NamedTuple):
    """The turns of a member in a proxy: under way and waiting. ``subject`` is None if the member has no bound."""

    subject: Subject | None
    under_way: int
    waiting: int


class Ask(NamedTuple):
    """What a proxy declares about a bound: turns under way (of a day: begun), slots it keeps and turns that wait.

    Repeating one changes nothing. Turns that wait for a slot of the pool are in ``members``: those that wait for a
    slot of their member, too, count only once they have that one.
    """

    subject: Subject
    bound: int
    used: int
    keep: int
    waiting: int = 0
    members: tuple[Turns, ...] = ()


class Claim(NamedTuple):
    """What a proxy has of a bound. ``finish``: how far its slots have advanced it in the order of the proxies."""

    holder: str
    slots: int = 0
    used: int = 0
    waiting: int = 0
    weight: int = 1
    finish: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What the state says about a bound: the claims of proxies that are alive, and the clock of their order.

    ``begun`` has the turns that were begun on the day, by proxy, also by those that have ended.
    """

    clock: float = 0.0
    claims: Collection[Claim] = ()
    begun: Mapping[str, int] = field(default_factory=dict)


class Answer(NamedTuple):
    """What a proxy has from now on. ``elsewhere``: slots that others have, of a day the turns they have begun.

    ``idle`` are the slots that others keep without a turn; ``is_full`` tells that no slot is free, ``is_contended``
    that turns wait elsewhere, or that more slots are leased than there are.
    """

    slots: int
    elsewhere: int
    idle: int
    is_full: bool
    is_contended: bool


class Settled(NamedTuple):
    """The outcome for one bound: the new claim of the proxy that asked, the new clock, and its answer."""

    claim: Claim
    clock: float
    answer: Answer


def settle(holder: str, asks: Iterable[Ask], found: Mapping[Subject, Standing]) -> dict[Subject, Settled]:
    """Return what a proxy gets. ``found`` has what the state says about each of the bounds."""
    settled: dict[Subject, Settled] = {}
    # Members first: only a turn that has a slot of its member needs one of the pool.
    for ask in sorted(asks, key=lambda ask: ask.subject.kind is Kind.POOL):
        standing = found.get(ask.subject, Standing())
        if ask.subject.kind is Kind.DAY:
            settled[ask.subject] = _of_day(holder, ask, standing)
        else:
            waiting, weight = _waiting(ask, settled)
            settled[ask.subject] = _at_once(holder, ask, standing, waiting, weight)
    return settled


def _waiting(ask: Ask, settled: Mapping[Subject, Settled]) -> tuple[int, int]:
    """Return how many turns could use a slot, and of how many members they are."""
    if not ask.members:
        return ask.waiting, 1
    able = [
        turns.waiting
        if turns.subject is None or turns.subject not in settled
        else max(0, min(turns.waiting, settled[turns.subject].answer.slots - turns.under_way))
        for turns in ask.members
    ]
    return sum(able), max(1, sum(count > 0 for count in able))


def _kept(holder: str, ask: Ask, standing: Standing) -> tuple[Claim, list[Claim]]:
    """Return what the proxy keeps of its claim, and the claims of the others.

    A turn under way takes a slot whatever the state says: it may have begun without the state. Any other slot is the
    proxy's only if the state has it leased to it: the lease may have ended while the proxy was cut off.
    """
    mine = next((claim for claim in standing.claims if claim.holder == holder), Claim(holder))
    slots = max(ask.used, min(ask.keep, mine.slots))
    return mine._replace(slots=slots, used=ask.used), [claim for claim in standing.claims if claim.holder != holder]


def _at_once(holder: str, ask: Ask, standing: Standing, waiting: int, weight: int) -> Settled:
    mine, others = _kept(holder, ask, standing)
    elsewhere = sum(claim.slots for claim in others)
    waiting = max(0, min(waiting, ask.bound - mine.slots))
    if waiting and not mine.waiting:
        mine = mine._replace(finish=max(mine.finish, standing.clock))
    mine = mine._replace(waiting=waiting, weight=weight)
    free = ask.bound - mine.slots - elsewhere
    mine, clock = _share(mine, [claim for claim in others if claim.waiting > 0], free, standing.clock)
    is_contended = any(claim.waiting for claim in others) or elsewhere + mine.slots > ask.bound
    idle = sum(max(0, claim.slots - claim.used) for claim in others)
    is_full = elsewhere + mine.slots >= ask.bound
    return Settled(mine, clock, Answer(mine.slots, elsewhere, idle, is_full, is_contended))


def _share(mine: Claim, others: Iterable[Claim], free: int, clock: float) -> tuple[Claim, float]:
    """Give free slots to proxies in their order, and return the claim of one of them with its slots."""
    ring = {claim.holder: claim for claim in (mine, *others) if claim.waiting > 0}
    for _ in range(free):
        if mine.holder not in ring:
            break
        head = min(ring.values(), key=lambda claim: (claim.finish, claim.holder))
        served = head._replace(
            slots=head.slots + 1, waiting=head.waiting - 1, finish=head.finish + 1 / max(1, head.weight)
        )
        if head.holder == mine.holder:
            mine, clock = served, max(clock, head.finish)
        if served.waiting:
            ring[head.holder] = served
        else:
            del ring[head.holder]
    return mine, clock


def _of_day(holder: str, ask: Ask, standing: Standing) -> Settled:
    """Lease turns of a day: those that wait, and some in advance as long as many are left."""
    mine, others = _kept(holder, ask, standing)
    begun = {name: count for name, count in standing.begun.items() if name != holder}
    begun |= {claim.holder: max(claim.used, begun.get(claim.holder, 0)) for claim in others}
    idle = sum(max(0, claim.slots - begun[claim.holder]) for claim in others)
    elsewhere = sum(begun.values())
    left = max(0, ask.bound - elsewhere - idle - mine.slots)
    in_advance = min(CHUNK, left // (PARTS * (1 + len(others)))) if ask.waiting else 0
    short = max(0, ask.used + ask.waiting - mine.slots)
    granted = min(left, short + in_advance)
    mine = mine._replace(slots=mine.slots + granted, waiting=max(0, short - granted))
    is_contended = any(claim.waiting for claim in others)
    return Settled(mine, standing.clock, Answer(mine.slots, elsewhere, idle, granted == left, is_contended))
