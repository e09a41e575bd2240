"""What others say of a token counts by one table; nothing that is old, odd or repeated condemns a healthy one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import Condition, Evidence, Identity, Kind, Status, Word
from codexpool.pool.news import TABLE, Effect, effect
from codexpool.pool.states import CONDEMNED, REFUSED_FOR_GOOD
from tests.pool.pools import NOW, unverified

TOKEN = unverified("a").fingerprint
CLOSED = Evidence(NOW - 5, status=402, code="deactivated_workspace")
DEAD = Evidence(NOW - 5, status=401, code="token_revoked", fingerprint=TOKEN, whoami=Word.REFUSED)
OVER = Evidence(NOW - 5, code="refresh_token_reused", fingerprint=TOKEN, note="its login is over")

PROVED = {
    Status.LIMITED: Condition(Status.LIMITED, NOW - 5, NOW + 60),
    Status.PAUSED: Condition(Status.PAUSED, NOW - 5, evidence=CLOSED),
    Status.NEEDS_REPLACEMENT: Condition(Status.NEEDS_REPLACEMENT, NOW - 5, evidence=DEAD),
    Status.NEEDS_LOGIN: Condition(Status.NEEDS_LOGIN, NOW - 5, evidence=OVER),
}
"""Words that count, five seconds old."""

KIND = {Status.NEEDS_LOGIN: Kind.OAUTH}


def identity(status: Status = Status.READY, kind: Kind = Kind.PAT) -> Identity:
    known = unverified("a", kind=kind)
    known.condition = Condition(status, NOW - 60)
    return known


@pytest.mark.parametrize("word", PROVED)
def test_a_word_that_counts_is_taken_over(word: Status) -> None:
    assert effect(identity(kind=KIND.get(word, Kind.PAT)), PROVED[word], NOW) is Effect.SAME


@pytest.mark.parametrize("here", Status)
@pytest.mark.parametrize("word", PROVED)
def test_a_word_changes_only_the_statuses_of_its_row(word: Status, here: Status) -> None:
    kind = KIND.get(word, Kind.PAT)

    found = effect(identity(here, kind), PROVED[word], NOW)

    if here is Status.NEEDS_REPLACEMENT and word not in REFUSED_FOR_GOOD:
        assert found is Effect.VERIFIED  # A later word of a token that lives.
    else:
        assert found is (Effect.SAME if here in TABLE[word].here else Effect.NONE)


@pytest.mark.parametrize("kind", Kind)
def test_a_death_counts_for_the_kinds_that_can_die_so(kind: Kind) -> None:
    of_whoami = effect(identity(kind=kind), PROVED[Status.NEEDS_REPLACEMENT], NOW)
    of_the_token_endpoint = effect(identity(kind=kind), PROVED[Status.NEEDS_LOGIN], NOW)

    assert (of_whoami is Effect.SAME) == (kind in (Kind.PAT, Kind.AGENT))
    assert (of_the_token_endpoint is Effect.SAME) == (kind is Kind.OAUTH)


ODD = {
    "no evidence": {"evidence": None},
    "whoami was not asked": {"evidence": replace(DEAD, whoami="")},
    "whoami was not reached": {"evidence": replace(DEAD, whoami=Word.UNREACHABLE)},
    "whoami found it healthy": {"evidence": replace(DEAD, whoami=Word.HEALTHY)},
    "about another token": {"evidence": replace(DEAD, fingerprint="0123456789ab")},
    "from the future": {"since": NOW + 60},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_word_condemns_nothing(odd: str) -> None:
    word = replace(PROVED[Status.NEEDS_REPLACEMENT], **ODD[odd])  # type: ignore[arg-type]

    assert effect(identity(), word, NOW) is Effect.NONE


def test_an_identity_that_has_served_since_is_verified_and_not_condemned() -> None:
    known, vouched = identity(), identity()
    known.served_at = vouched.vouched_at = NOW - 4

    assert effect(known, PROVED[Status.NEEDS_REPLACEMENT], NOW) is Effect.VERIFIED
    assert effect(vouched, PROVED[Status.NEEDS_REPLACEMENT], NOW) is Effect.VERIFIED


def test_a_death_from_before_it_is_verified_here_does_not_end_that() -> None:
    """A person has removed the flag, and wants to know again."""
    doubted, started = identity(Status.UNVERIFIED), identity(Status.UNVERIFIED)
    doubted.condition = Condition(Status.UNVERIFIED, NOW - 1)

    assert effect(doubted, PROVED[Status.NEEDS_REPLACEMENT], NOW) is Effect.NONE
    assert effect(started, PROVED[Status.NEEDS_REPLACEMENT], NOW) is Effect.SAME


@pytest.mark.parametrize("word", [Status.LIMITED, Status.PAUSED])
def test_what_a_person_has_ended_does_not_come_back(word: Status) -> None:
    known = identity()
    known.resumed_at = NOW - 4
    assert effect(known, PROVED[word], NOW) is Effect.NONE
    known.resumed_at = NOW - 6
    assert effect(known, PROVED[word], NOW) is Effect.SAME


@pytest.mark.parametrize("word", [status for status in Status if status not in REFUSED_FOR_GOOD])
def test_a_later_word_of_life_has_a_dead_token_verified(word: Status) -> None:
    dead = identity(Status.NEEDS_REPLACEMENT)

    assert effect(dead, Condition(word, NOW - 59), NOW) is Effect.VERIFIED
    assert effect(dead, Condition(word, NOW - 60), NOW) is Effect.NONE


TIME = st.floats(NOW - 1000, NOW + 1000)
EVIDENCE = st.none() | st.builds(
    Evidence,
    at=TIME,
    status=st.sampled_from([0, 200, 401, 402, 403]),
    code=st.sampled_from(["", "token_revoked", "deactivated_workspace"]),
    fingerprint=st.sampled_from(["", TOKEN, "0123456789ab"]),
    whoami=st.sampled_from(["", *Word]),
)
CONDITION = st.builds(
    Condition, status=st.sampled_from(Status), since=TIME, until=st.none() | TIME, evidence=EVIDENCE
)


@given(
    word=CONDITION,
    here=st.sampled_from(Status),
    kind=st.sampled_from(Kind),
    served_at=TIME,
    vouched_at=TIME,
    resumed_at=TIME,
)
def test_no_word_condemns_what_this_proxy_knows_to_be_good(
    word: Condition, here: Status, kind: Kind, served_at: float, vouched_at: float, resumed_at: float
) -> None:
    known = identity(here, kind)
    known.served_at, known.vouched_at, known.resumed_at = served_at, vouched_at, resumed_at

    found = effect(known, word, NOW)

    assert word.since <= NOW or found is Effect.NONE
    if found is Effect.SAME and word.status in CONDEMNED:
        evidence = word.evidence
        assert evidence is not None
        assert evidence.fingerprint == TOKEN
        if word.status is Status.NEEDS_REPLACEMENT:
            assert evidence.whoami == Word.REFUSED
            assert not any(word.since < then <= NOW for then in (served_at, vouched_at))
    if found is Effect.SAME:
        # Applied twice, it changes nothing.
        known.condition = word
        assert effect(known, word, NOW) is Effect.NONE
