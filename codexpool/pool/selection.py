"""Which identity serves a new session. Pure: candidates in, one of them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

HALF_LIFE = 900.0
"""Seconds after which a new session counts half: by then answers have told what it uses.

Longer, and the number of sessions outweighs what the backend says; shorter, and long sessions are overlooked (tried
with tests/pool/simulation.py)."""

STEP = 1.1
"""Identities whose headroom differs by less than about this factor take turns: a small difference is no reason to
prefer one for long."""


class Selection(StrEnum):
    """How new sessions are spread; ``selection`` in pool.toml."""

    HEADROOM = "headroom"
    ROUND_ROBIN = "round-robin"
    DRAIN_FIRST = "drain-first"


class Because(StrEnum):
    """Why a request is sent under an identity."""

    OWN = "the session is with it"
    PARENT = "the session that started this one is with it"
    PREFERRED = "the request stays with it"
    ASIDE = "it serves this endpoint or model for the session"
    NEW = "a new session"
    MOVED = "the session moves to it"
    NO_SESSION = "the request names no session"
    EXPIRED = "no other could serve, though its token is expected to have expired"


class Load(NamedTuple):
    """Sessions begun under an identity, decayed by `HALF_LIFE`; ``at`` is the unix second of ``sessions``."""

    sessions: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        """The load at a later second. A clock that was set back does not make it grow."""
        return self.sessions * float(0.5 ** (max(0.0, at - self.at) / HALF_LIFE))

    def with_session(self, at: float) -> Load:
        return Load(self.now(at) + 1.0, at)


class Candidate(NamedTuple):
    """An identity that could serve.

    ``headroom`` is what it has left (see `codexpool.pool.usage`; 0: used up), ``order`` its place in the file,
    ``last_picked`` the number of the pick that chose it last. One that ``is_doubtful`` comes after all others: its
    token is expected to have expired, or the backend has had trouble with it lately.
    """

    name: str
    load: Load = Load()
    last_picked: int = 0
    headroom: float = 1.0
    order: int = 0
    priority: int = 0
    is_doubtful: bool = False


Rank = tuple[bool, bool, float, int, int]
"""The smallest is selected; among equals, the first of the file."""


def rank(selection: Selection, candidate: Candidate, at: float) -> Rank:
    """Return the rank of a candidate at the unix second ``at``. One that is used up comes after all that are not."""
    c = candidate
    first = (c.is_doubtful, c.headroom <= 0)
    match selection:
        case Selection.DRAIN_FIRST:
            return (*first, -c.priority, 0, c.order)
        case Selection.ROUND_ROBIN:
            return (*first, 0, c.last_picked, c.order)
        case Selection.HEADROOM:
            steps = round(math.log(max(c.headroom, 1e-3) / (1.0 + c.load.now(at)), STEP))
            return (*first, -steps, c.last_picked, c.order)


def select(selection: Selection, candidates: Sequence[Candidate], at: float) -> str:
    return min(candidates, key=lambda c: rank(selection, c, at)).name
