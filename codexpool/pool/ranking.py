"""The identities in the order in which new sessions get them, kept so that a decision reads few of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

from codexpool.pool.identity import Identity
from codexpool.pool.selection import Candidate, Selection, rank

LASTS = 300.0
"""Seconds after which all are ranked again: headroom and load change slowly with time. (An identity that is used,
limited or rests is ranked again at once.)"""

Entry = tuple[bool, bool, float, int, int, str]
"""A rank, and the name of the identity."""


class Ranking:
    """The order. ``candidate`` gives an identity's candidate by name; None if it cannot serve."""

    def __init__(self, candidate: Callable[[str, float], Candidate | None]) -> None:
        self._candidate = candidate
        self._order: list[Entry] = []
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()
        self._times: list[tuple[float, str]] = []  # A heap: when time alone changes an identity's rank.
        self._known: dict[str, tuple[float | None, float]] = {}
        self._made_at = float("-inf")
        self._selection: Selection | None = None

    def change(self, identity: Identity) -> None:
        """Rank an identity again before the next decision, and when its rest or limit ends."""
        self._changed.add(identity.name)
        times = (identity.returns_at, identity.avoided_until)
        if self._known.get(identity.name) != times:
            self._known[identity.name] = times
            for time in filter(None, times):
                heappush(self._times, (time, identity.name))

    def forget(self) -> None:
        """Rank all again: there are other identities."""
        self._selection = None

    def names(self, selection: Selection, names: Iterable[str], at: float) -> Iterator[str]:
        """Those of ``names`` that can serve, the one for the next new session first."""
        while self._times and self._times[0][0] <= at:
            self._changed.add(heappop(self._times)[1])
        if selection is not self._selection or not self._made_at <= at < self._made_at + LASTS:
            self._make(selection, names, at)
        changed, self._changed = self._changed, set()
        for name in changed:
            self._place(name, selection, at)
        return (entry[5] for entry in self._order)

    def _make(self, selection: Selection, names: Iterable[str], at: float) -> None:
        entries = ((name, self._entry(name, selection, at)) for name in names)
        self._entries = {name: entry for name, entry in entries if entry is not None}
        self._order = sorted(self._entries.values())
        self._selection, self._made_at, self._changed = selection, at, set()

    def _place(self, name: str, selection: Selection, at: float) -> None:
        if (old := self._entries.pop(name, None)) is not None:
            del self._order[bisect_left(self._order, old)]
        if (entry := self._entry(name, selection, at)) is not None:
            self._entries[name] = entry
            insort(self._order, entry)

    def _entry(self, name: str, selection: Selection, at: float) -> Entry | None:
        candidate = self._candidate(name, at)
        return (*rank(selection, candidate, at), name) if candidate is not None else None
