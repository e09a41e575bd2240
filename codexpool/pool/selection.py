"""Which identity serves a new session. Pure: candidates in, one of them out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

HALF_LIFE = 3600.0
"""Seconds after which a session that was begun counts half: old sessions weigh little, and none is looked up."""


class Selection(StrEnum):
    """How new sessions are spread; ``selection`` in pool.toml."""

    HEADROOM = "headroom"
    ROUND_ROBIN = "round-robin"
    DRAIN_FIRST = "drain-first"


class Load(NamedTuple):
    """Sessions begun under an identity, decayed by `HALF_LIFE`; ``at`` is the unix second of ``sessions``."""

    sessions: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        """The load at a later second. A clock that was set back does not make it grow."""
        return self.sessions * float(0.5 ** (max(0.0, at - self.at) / HALF_LIFE))

    def with_session(self, at: float) -> Load:
        """The load once another session has begun."""
        return Load(self.now(at) + 1.0, at)


class Candidate(NamedTuple):
    """An identity that could serve. ``last_picked`` counts the pool's picks: the smallest is the longest ago."""

    name: str
    load: Load
    last_picked: int


def select(selection: Selection, candidates: Sequence[Candidate], at: float) -> str:
    """The name of the candidate that a new session gets.

    Candidates stand in the order of the file, and there is at least one; ``at`` is the unix second of now. As
    long as nothing is known of what an identity has left, ``headroom`` goes by the sessions each one was given.
    """
    match selection:
        case Selection.DRAIN_FIRST:
            return candidates[0].name
        case Selection.ROUND_ROBIN:
            return min(candidates, key=lambda c: c.last_picked).name
        case Selection.HEADROOM:
            return min(candidates, key=lambda c: (c.load.now(at), c.last_picked)).name
