"""Counts usage: turns and tokens of each member by UTC day, identity and model.

What this process has counted is handed to ``on_spent`` as totals, never as differences: writing one twice, or losing
all but the last, changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from codexpool.protocol.token_usage import Tokens

DAY: Final = 86_400

DAYS_KEPT: Final = 4  # Today, yesterday for turns over midnight, and some for a clock that is set.
MODELS_KEPT: Final = 50  # For each member and day: clients name models, and can invent any number.
LONGEST_MODEL: Final = 64  # Characters of a model's name.
OTHER: Final = "other"  # The name of every model beyond those.

NONE: Final = Tokens(0, 0, 0, 0)


class Account(NamedTuple):
    """What is counted together.

    ``pool`` is the path of the pool.toml, ``day`` is like ``2026-11-25``, ``member`` is empty for clients without a
    key. Without an ``identity`` it counts the turns that a member has begun, whether or not they were served.
    """

    pool: str
    day: str
    member: str
    identity: str
    model: str

    @property
    def is_of_begun(self) -> bool:
        return not self.identity


class Spent(NamedTuple):
    """Usage. ``unmetered`` are turns with unknown tokens; times are unix seconds."""

    turns: int = 0
    unmetered: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


@dataclass(slots=True)
class _Day:
    spent: dict[Account, Spent] = field(default_factory=dict)  # by this process
    begun: Counter[str] = field(default_factory=Counter)  # turns by member, of all processes
    others: dict[tuple[str, str], int] = field(default_factory=dict)  # those of others, by member and process
    elsewhere: Counter[str] = field(default_factory=Counter)  # those of others as the state has just said, by member
    models: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    by_member: dict[str, Tokens] = field(default_factory=dict)  # by this process, like the next
    by_identity: dict[str, Tokens] = field(default_factory=dict)


class Ledger:
    """All methods run on the event loop, in a time that does not depend on how much was counted."""

    def __init__(self, on_spent: Callable[[Account, Spent], None]) -> None:
        """``on_spent`` is called with each account that changes, and its new total of this process."""
        self.pool = ""  # the pool.toml that members and identities belong to
        self._on_spent = on_spent
        self._days: dict[str, _Day] = {}

    def count_begun(self, member: str, at: float) -> None:
        """Count a turn that a member begins, for the day of ``at``."""
        name = day_of(at)
        day = self._day(name)
        day.begun[member] += 1
        self._spend(day, Account(self.pool, name, member, "", ""), NONE, at)

    def count_served(self, member: str, identity: str, model: str, tokens: Tokens | None, at: float) -> None:
        """Count a turn that was served and ended ``at``; ``tokens`` is None if they are unknown."""
        name = day_of(at)
        day = self._day(name)
        account = Account(self.pool, name, member, identity, _model(model, day.models[member]))
        self._spend(day, account, tokens, at)
        for sums, name in ((day.by_member, member), (day.by_identity, identity)):
            before, more = sums.get(name, NONE), tokens or NONE
            sums[name] = Tokens(*(old + new for old, new in zip(before, more, strict=True)))

    def tokens_of_member(self, member: str, at: float) -> Tokens:
        """Return the tokens of a member's turns that this process served on the day of ``at``."""
        day = self._days.get(day_of(at))
        return day.by_member.get(member, NONE) if day is not None else NONE

    def tokens_of_identity(self, identity: str, at: float) -> Tokens:
        """Return the tokens of the turns that an identity served in this process on the day of ``at``."""
        day = self._days.get(day_of(at))
        return day.by_identity.get(identity, NONE) if day is not None else NONE

    def identities_renamed(self, names: Mapping[str, str]) -> None:
        """Go on counting tokens under other names of identities, by their old ones."""
        for day in self._days.values():
            for before, name in names.items():
                if (tokens := day.by_identity.pop(before, None)) is not None:
                    day.by_identity[name] = tokens

    def turns_today(self, member: str, at: float) -> int:
        """Return the turns that a member has begun on the day of ``at``, in this proxy and those merged."""
        name = day_of(at)
        day = self._days.get(name)
        return max(day.begun[member], self.turns_on(name, member) + day.elsewhere[member]) if day is not None else 0

    def turns_on(self, name: str, member: str) -> int:
        """Return the turns that a member has begun on a day in this process."""
        day = self._days.get(name)
        begun = day.spent.get(Account(self.pool, name, member, "", "")) if day is not None else None
        return begun.turns if begun is not None else 0

    def note_elsewhere(self, member: str, day: str, turns: int) -> None:
        """Note how many turns of a member other processes have begun on a day."""
        self._day(day).elsewhere[member] = turns

    def merge(self, news: Mapping[tuple[Account, str], Spent]) -> None:
        """Merge the totals of other processes, of other proxies and earlier runs, by account and process."""
        for (account, writer), spent in news.items():
            if account.is_of_begun and account.pool == self.pool:
                day, member = self._day(account.day), account.member
                day.begun[member] += spent.turns - day.others.get((member, writer), 0)
                day.others[(member, writer)] = spent.turns

    def _day(self, name: str) -> _Day:
        if name not in self._days:
            self._days[name] = _Day()
            if len(self._days) > DAYS_KEPT:
                del self._days[next(iter(self._days))]
        return self._days[name]

    def _spend(self, day: _Day, account: Account, tokens: Tokens | None, at: float) -> None:
        before, more = day.spent.get(account, Spent(first_at=at, last_at=at)), tokens or NONE
        spent = day.spent[account] = Spent(
            before.turns + 1,
            before.unmetered + (tokens is None),
            before.input + more.input,
            before.cached + more.cached,
            before.output + more.output,
            before.reasoning + more.reasoning,
            min(before.first_at, at),
            max(before.last_at, at),
        )
        self._on_spent(account, spent)


def day_of(at: float) -> str:
    """Return the UTC day of a unix second."""
    return _day(math.floor(at / DAY))


@lru_cache(maxsize=8)
def _day(days: int) -> str:
    return datetime.fromtimestamp(days * DAY, UTC).date().isoformat()


def _model(named: str, known: set[str]) -> str:
    """Return the name to count a model under, of those ``known`` for its member."""
    name = named[:LONGEST_MODEL]
    if not name.isprintable():  # Half of a surrogate pair could not be written at all.
        name = "".join(c if c.isprintable() else "?" for c in name)
    if name not in known:
        if len(known) >= MODELS_KEPT:
            return OTHER
        known.add(name)
    return name
