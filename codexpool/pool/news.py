"""What another proxy's word on a token does to its identity here.

| the word | it counts if | of an identity that | what follows |
|---|---|---|---|
| limited | it is not over, and no person has resumed it since | serves or rests | the same |
| paused | its workspace does not serve it, and no person has resumed it since | serves or will soon | the same |
| needs_replacement | whoami has refused this very token | is not condemned yet | the same |
| needs_login | the token endpoint has refused this very login | is not condemned yet | the same |
| any other, or that nothing is wrong | it is newer than the refusal | needs_replacement | it is verified here |

No word that is old or odd condemns a token: if whoami has vouched for it since, or it has served a request, this
proxy knows better, and verifies it itself. While that is under way, only a word from after its beginning counts.

What each proxy finds out by itself is not taken over: a doubt, a rest, another account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from codexpool.pool.identity import Condition, Identity, Kind, Status, Word
from codexpool.pool.needs import is_of_workspace
from codexpool.pool.states import CONDEMNED, REFUSED_FOR_GOOD, SERVING_OR_SOON


class Effect(StrEnum):
    NONE = "nothing"
    SAME = "it has the same condition"
    VERIFIED = "its token is verified here"


class Row(NamedTuple):
    """The credentials and statuses that a word changes, and whether it counts at a unix second."""

    kinds: frozenset[Kind]
    here: frozenset[Status]
    counts: Callable[[Identity, Condition, float], bool]


def _is_limited(identity: Identity, condition: Condition, at: float) -> bool:
    return condition.until is not None and at < condition.until and identity.resumed_at < condition.since


def _is_closed(identity: Identity, condition: Condition, at: float) -> bool:
    return is_of_workspace(condition) and identity.resumed_at < condition.since


def _is_dead(identity: Identity, condition: Condition, at: float) -> bool:
    evidence = condition.evidence
    return evidence is not None and (evidence.whoami, evidence.fingerprint) == (Word.REFUSED, identity.fingerprint)


def _is_over(identity: Identity, condition: Condition, at: float) -> bool:
    evidence = condition.evidence
    return evidence is not None and evidence.code != "" and evidence.fingerprint == identity.fingerprint


ANY: Final = frozenset(Kind)
NOT_CONDEMNED: Final = frozenset(Status) - CONDEMNED

TABLE: Final[Mapping[Status, Row]] = {
    Status.LIMITED: Row(ANY, frozenset({Status.READY, Status.RESTING}), _is_limited),
    Status.PAUSED: Row(ANY, frozenset(SERVING_OR_SOON), _is_closed),
    Status.NEEDS_REPLACEMENT: Row(frozenset({Kind.PAT, Kind.AGENT}), NOT_CONDEMNED, _is_dead),
    Status.NEEDS_LOGIN: Row(frozenset({Kind.OAUTH}), NOT_CONDEMNED, _is_over),
}
"""The words that are taken over."""


def effect(identity: Identity, condition: Condition, at: float) -> Effect:
    """Return what follows for an identity from another proxy's word on its present token."""
    if condition.since > at:  # It was noted while a clock was ahead, and says nothing about now.
        return Effect.NONE
    if condition.status not in REFUSED_FOR_GOOD and may_be_good(identity, condition.since):
        return Effect.VERIFIED
    row = TABLE.get(condition.status)
    if row is None or identity.kind not in row.kinds or identity.status not in row.here:
        return Effect.NONE
    if not row.counts(identity, condition, at):
        return Effect.NONE
    if condition.status is Status.NEEDS_REPLACEMENT:
        if any(condition.since < then <= at for then in (identity.vouched_at, identity.served_at)):
            return Effect.VERIFIED
        if identity.status is Status.UNVERIFIED and condition.since < identity.condition.since:
            return Effect.NONE
    return Effect.SAME


def may_be_good(identity: Identity, at: float) -> bool:
    """Return whether a word of that time, which does not condemn its token, is newer than the one that does."""
    return identity.status is Status.NEEDS_REPLACEMENT and identity.condition.since < at
