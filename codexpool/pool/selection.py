"""The order in which new sessions get the identities, by the strategy of pool.toml."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from heapq import heappop, heappush

from codexpool.pool.identity import Identity

STEP = 1.1
"""Identities whose headroom differs by less than about this factor take turns: a small difference is no reason to
prefer one for long."""

LASTS = 300.0
"""Seconds after which all are ranked again: headroom and load change slowly with time. (An identity that is used,
limited or rests is ranked again at once.)"""


class Selection(StrEnum):
    """How new sessions are spread; ``selection`` in pool.toml."""

    HEADROOM = "headroom"
    ROUND_ROBIN = "round-robin"
    DRAIN_FIRST = "drain-first"


class Because(StrEnum):
    """Why a request is sent under an identity."""

    OWN = "the session is with it"
    PINNED = "the session is pinned to it"
    NAMED = "the client names it to the proxy"
    PARENT = "the session that started this one is with it"
    PREFERRED = "the request stays with it"
    ASIDE = "it serves this endpoint or model for the session"
    CLIENT = "it served the last turn of this client"
    USAGE = "it can say what is left, though it is at its limit"
    NEW = "a new session"
    MOVED = "the session moves to it"
    NO_SESSION = "the request names no session"
    EXPIRED = "no other could serve, though its token is expected to have expired"


Rank = tuple[bool, bool, float, int, int]  # The smallest is selected; among equals, the first of the file.


def rank(selection: Selection, identity: Identity, headroom: float, at: float) -> Rank:
    """Return the rank of an identity; ``headroom`` as `codexpool.pool.usage` weighs it. Doubtful ones come last."""
    i = identity
    first = (i.is_doubtful(at), headroom <= 0)
    match selection:
        case Selection.DRAIN_FIRST:
            return (*first, -i.priority, 0, i.order)
        case Selection.ROUND_ROBIN:
            return (*first, 0, i.last_picked, i.order)
        case Selection.HEADROOM:
            steps = round(math.log(max(headroom, 1e-3) / (1.0 + i.load.now(at)), STEP))
            return (*first, -steps, i.last_picked, i.order)


Entry = tuple[bool, bool, float, int, int, str]  # A rank, and the name of the identity.


class Ranking:
    """The order. ``rank`` gives the rank of an identity by name, and until when time alone does not change it.

    The rank is None if the identity cannot serve.
    """

    def __init__(self, rank: Callable[[str, float], tuple[Rank | None, float]]) -> None:
        self._rank = rank
        self._order: list[Entry] = []
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()
        self._times: list[tuple[float, str]] = []  # A heap: when time alone changes a rank.
        self._soonest: dict[str, float] = {}  # The first of these of each name: no other one is needed.
        self._made_at = -math.inf

    def change(self, identity: Identity) -> None:
        """Rank an identity again before the next decision."""
        self._changed.add(identity.name)

    def forget(self) -> None:
        """Rank all again: there are other identities."""
        self._made_at = -math.inf

    def names(self, names: Iterable[str], at: float) -> Iterator[str]:
        """Those of ``names`` that can serve, the one for the next new session first."""
        if not self._made_at <= at < self._made_at + LASTS:
            self._times, self._soonest = [], {}
            entries = ((name, self._entry(name, at)) for name in names)
            self._entries = {name: entry for name, entry in entries if entry is not None}
            self._order = sorted(self._entries.values())
            self._made_at, self._changed = at, set()
        while self._times and self._times[0][0] <= at:
            name = heappop(self._times)[1]
            self._soonest.pop(name, None)
            self._changed.add(name)
        changed, self._changed = self._changed, set()
        for name in changed:
            self._place(name, at)
        return (entry[5] for entry in self._order)

    def _place(self, name: str, at: float) -> None:
        if (old := self._entries.pop(name, None)) is not None:
            del self._order[bisect_left(self._order, old)]
        if (entry := self._entry(name, at)) is not None:
            self._entries[name] = entry
            insort(self._order, entry)

    def _entry(self, name: str, at: float) -> Entry | None:
        rank, until = self._rank(name, at)
        if until < self._soonest.get(name, math.inf):
            self._soonest[name] = until
            heappush(self._times, (until, name))
        return (*rank, name) if rank is not None else None
