"""The table of an identity's states says what happens, and the methods do that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from codexpool.pool.identity import WHOAMI, Condition, Evidence, Kind, Status, Word
from codexpool.pool.pool import Pool
from codexpool.pool.states import DOUBTS, TRANSITIONS, Event
from codexpool.pool.usage import MAIN, Limit
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from tests.pool.pools import NOW, metadata, ready_pool

AT = NOW + 1_000


def evidence(pool: Pool, path: str = "/backend-api/codex/responses", status: int = 401) -> Evidence:
    return Evidence(AT, "POST", path, status, "code", fingerprint=pool.identities["a"].fingerprint)


def whoami(pool: Pool, word: Word) -> None:
    given = metadata("a") if word is Word.HEALTHY else None
    for _ in range(2):  # A word against a token that no request was refused with counts once it is confirmed.
        pool.states.confirmation.request_refused(pool.identities["a"].fingerprint)
        pool.states.whoami_said("a", word, evidence(pool, WHOAMI), given)


def issued(pool: Pool) -> None:
    pool.identities["a"].kind, pool.identities["a"].issued_at = Kind.OAUTH, AT - 1
    pool.states.refused("a", evidence(pool), AT)


def doubted(pool: Pool) -> None:
    for _ in range(DOUBTS):
        pool.states.doubted("a", evidence(pool, status=403))


def recalled(pool: Pool) -> None:
    known, pool.identities["a"].metadata = pool.identities["a"].metadata, None
    assert known is not None
    pool.states.recall("a", pool.identities["a"].fingerprint, known, AT)
    pool.identities["a"].metadata = known


def lifted(pool: Pool) -> None:
    report = UsageReport((FamilyReport(MAIN, (), is_open=True),))
    pool.usage_read(metadata("a").key, report, AT, AT)


def of(pool: Pool) -> str:
    return pool.identities["a"].fingerprint


HAPPENS: dict[Event, Callable[[Pool], object]] = {
    Event.REFUSED: lambda pool: pool.states.refused("a", evidence(pool), AT),
    Event.REFUSED_WHEN_NEW: issued,
    Event.THROTTLED: lambda pool: pool.states.throttled("a", evidence(pool, status=429), None),
    Event.DOUBTED: doubted,
    Event.LIMITED: lambda pool: pool.states.limited(
        "a", metadata("a").key, Limit(MAIN, AT + 60), evidence(pool, status=429)
    ),
    Event.LIFTED: lifted,
    Event.WORKSPACE_CLOSED: lambda pool: pool.states.workspace_closed("a", evidence(pool, status=402)),
    Event.VOUCHED: lambda pool: whoami(pool, Word.HEALTHY),
    Event.OTHER_ACCOUNT: lambda pool: whoami(pool, Word.OTHER_ACCOUNT),
    Event.CONFIRMED_DEAD: lambda pool: whoami(pool, Word.REFUSED),
    Event.LOGIN_OVER: lambda pool: pool.states.login_over("a", of(pool), evidence(pool)),
    Event.RENEWED: lambda pool: pool.states.renewed("a", of(pool), "0" * 12, AT, issued=True),
    Event.UNUSABLE: lambda pool: pool.states.unusable("a", of(pool), evidence(pool)),
    Event.UNRENEWED: lambda pool: pool.states.unrenewed("a", of(pool), evidence(pool), AT, None),
    Event.RECALLED: recalled,
    Event.TIME_UP: lambda pool: pool.states.return_if_due(pool.identities["a"], AT),
    Event.RESUMED: lambda pool: pool.resumed("a", of(pool), AT),
}


def test_every_event_has_a_row() -> None:
    assert set(HAPPENS) == set(TRANSITIONS) == set(Event)


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("status", Status)
def test_an_event_does_what_the_table_says(status: Status, event: Event) -> None:
    pool = ready_pool("a")
    pool.identities["a"].condition = Condition(status, NOW, NOW + 1 if status in ("limited", "resting") else None)

    HAPPENS[event](pool)

    assert pool.identities["a"].status is TRANSITIONS[event].get(status, status)


def test_vouching_for_a_paused_identity_closes_the_breaker() -> None:
    """The pause comes from pool.toml in the moment whoami answers; that a good token is there counts all the same."""
    pool = ready_pool("a")
    identity = pool.identities["a"]
    identity.condition, identity.paused = Condition(Status.UNVERIFIED, NOW), True
    pool.states.breaker.opened_at, pool.states.breaker.names = NOW, ("a",)

    pool.states.whoami_said("a", Word.HEALTHY, evidence(pool, WHOAMI), metadata("a"))

    assert identity.status is Status.PAUSED
    assert pool.states.breaker.opened_at is None
