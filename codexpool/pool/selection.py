"""The order in which new sessions get the identities, by the strategy of pool.toml."""

from __future__ import annotations

import math
from enum import StrEnum

from codexpool.pool.identity import Identity

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


Rank = tuple[bool, bool, float, int, int]
"""The smallest is selected; among equals, the first of the file."""


def rank(selection: Selection, identity: Identity, headroom: float, at: float) -> Rank:
    """Return the rank of an identity at the unix second ``at``; ``headroom`` as `codexpool.pool.usage` weighs it.

    One that is used up comes after all that are not, and one that is doubtful after both.
    """
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
