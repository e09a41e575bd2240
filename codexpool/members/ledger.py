"""Who has used what: turns and tokens of each member, under which identity and with which model, day by day. Pure.

Days are those of UTC. What this process has counted is handed to ``on_spent`` as totals, never as differences: to
write one twice, or to lose all but the last, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple

from codexpool.protocol.token_usage import Tokens

DAY: Final = 86_400

DAYS_KEPT: Final = 4
"""Days in memory: today, the one before for turns over midnight, and some for a clock that is set."""

MODELS_KEPT: Final = 50
"""Models that are told apart for a member within a day: clients name them, and can name as many as they like."""

LONGEST_MODEL: Final = 64
"""Characters of a model's name that are kept."""

OTHER: Final = "other"
"""In place of the name of every model beyond those."""


NONE: Final = Tokens(0, 0, 0, 0)


class Account(NamedTuple):
    """What is counted together.

    ``pool`` is the path of the pool.toml: two of them may use one name. ``day`` is as in ``2026-11-25``; ``member``
    is empty for everybody without a key. Without an ``identity`` it is about the turns that a member has begun,
    whoever served them, and whether anybody did.
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
    """What has been used. ``unmetered`` are turns whose tokens are not known; times are unix seconds."""

    turns: int = 0
    unmetered: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


class Ledger:
    """Counts. Every method belongs to the thread of the event loop, and takes about as long however much there is."""

    def __init__(self, on_spent: Callable[[Account, Spent], None]) -> None:
        """``on_spent`` is called with each account that has changed, and its new total of this process."""
        self.pool = ""
        """The pool.toml that members and identities are those of."""
        self._on_spent = on_spent
        self._days: dict[str, _Day] = {}

    def begun(self, member: str, at: float) -> None:
        """A member begins a turn. It counts for the day it has begun in, whatever becomes of it."""
        name = day_of(at)
        day = self._day(name)
        day.begun[member] = day.begun.get(member, 0) + 1
        self._spend(day, Account(self.pool, name, member, "", ""), NONE, at)

    def served(self, member: str, identity: str, model: str, tokens: Tokens | None, at: float) -> None:
        """A turn of a member has been served, and has ended ``at``; without ``tokens`` where nobody said how many."""
        name = day_of(at)
        day = self._day(name)
        self._spend(day, Account(self.pool, name, member, identity, day.model(member, model)), tokens, at)

    def turns_today(self, member: str, at: float) -> int:
        """The turns that a member has begun on the day of ``at``, in all proxies of this pool on the machine.

        Those of other proxies are counted as soon as they have said so (`take`).
        """
        day = self._days.get(day_of(at))
        return day.begun.get(member, 0) if day is not None else 0

    def take(self, news: Mapping[tuple[Account, str], Spent]) -> None:
        """Count what others have: totals by account and by who counted them, of other proxies and earlier runs."""
        for (account, writer), spent in news.items():
            if account.is_of_begun and account.pool == self.pool:
                day, member = self._day(account.day), account.member
                more = spent.turns - day.others.get((member, writer), 0)
                day.others[(member, writer)] = spent.turns
                day.begun[member] = day.begun.get(member, 0) + more

    def _day(self, name: str) -> _Day:
        day = self._days.get(name)
        if day is None:
            day = self._days[name] = _Day()
            if len(self._days) > DAYS_KEPT:
                del self._days[next(iter(self._days))]
        return day

    def _spend(self, day: _Day, account: Account, tokens: Tokens | None, at: float) -> None:
        spent = day.spent[account] = _more(day.spent.get(account), tokens, at)
        self._on_spent(account, spent)


class _Day:
    """What is known of a day."""

    __slots__ = ("begun", "models", "others", "spent")

    def __init__(self) -> None:
        self.spent: dict[Account, Spent] = {}
        """By this process."""
        self.begun: dict[str, int] = {}
        """Turns by member, of all processes."""
        self.others: dict[tuple[str, str], int] = {}
        """Those of them that others have counted, by member and by who did."""
        self.models: dict[str, set[str]] = {}

    def model(self, member: str, named: str) -> str:
        """The name a model is counted under."""
        name = named[:LONGEST_MODEL]
        if not name.isprintable():  # also what could not be written down: half of a surrogate pair
            name = "".join(c if c.isprintable() else "?" for c in name)
        known = self.models.setdefault(member, set())
        if name not in known:
            if len(known) >= MODELS_KEPT:
                return OTHER
            known.add(name)
        return name


def day_of(at: float) -> str:
    """The day of a unix second."""
    return _named(int(at // DAY))


@lru_cache(maxsize=8)
def _named(day: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + day).isoformat()


def _more(spent: Spent | None, tokens: Tokens | None, at: float) -> Spent:
    """What has been used with one more turn."""
    spent = spent or Spent(first_at=at, last_at=at)
    metered = tokens or NONE
    return Spent(
        spent.turns + 1,
        spent.unmetered + (tokens is None),
        spent.input + metered.input,
        spent.cached + metered.cached,
        spent.output + metered.output,
        spent.reasoning + metered.reasoning,
        min(spent.first_at, at),
        max(spent.last_at, at),
    )
