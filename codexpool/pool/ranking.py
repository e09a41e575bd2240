"""The candidates in the order in which they are selected, kept so that a decision need not look at them all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from codexpool.pool.selection import Candidate, Selection, rank

LASTS = 300.0
"""Seconds after which the order is made anew: headroom and load change with time alone, and slowly. (Whoever is used,
limited or rests is put in its place at once.)"""

Entry = tuple[bool, bool, float, int, int, str]
"""A rank, and the name of whom it is."""


class Ranking:
    """Who is next. ``candidate`` gives what an identity's name stands for now; None where it cannot serve."""

    def __init__(self, candidate: Callable[[str, float], Candidate | None]) -> None:
        self._candidate = candidate
        self._order: list[Entry] = []
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()
        self._made_at = float("-inf")
        self._selection: Selection | None = None

    def change(self, name: str) -> None:
        """Something about an identity is other than it was."""
        self._changed.add(name)

    def forget(self) -> None:
        """There are other identities."""
        self._selection = None

    def names(self, selection: Selection, names: Iterable[str], at: float) -> Iterator[str]:
        """Those out of ``names`` who can serve, the one that a new session gets first."""
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
