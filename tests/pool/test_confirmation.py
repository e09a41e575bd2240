"""When a word against a token is final: who said it, what others say, and what a client's request has met with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.confirmation import CONFIRMED_AFTER, DISCOVERY, LASTS, TOGETHER
from codexpool.pool.identity import WHOAMI, Evidence, Status, Word
from codexpool.pool.pool import Pool
from codexpool.pool.verdict import DEAD_TOKEN_CODES, says_dead
from tests.pool.pools import NOW, metadata, pool_of, ready_pool, refuse, statuses, unverified, vouch, whoami_refuses


def says(pool: Pool, name: str, at: float, word: Word = Word.REFUSED, path: str = WHOAMI) -> Status:
    """Say this of an identity's token. Return the identity's status after it."""
    evidence = Evidence(at, "GET", path, fingerprint=pool.identities[name].fingerprint)
    pool.states.whoami_said(name, word, evidence)
    return pool.identities[name].status


def test_an_unprompted_word_of_whoami_needs_a_second_one() -> None:
    pool = pool_of(unverified("a"))

    first = says(pool, "a", NOW)
    too_soon = says(pool, "a", NOW + CONFIRMED_AFTER - 0.1)
    second = says(pool, "a", NOW + CONFIRMED_AFTER)

    assert (first, too_soon, second) == (Status.UNVERIFIED, Status.UNVERIFIED, Status.NEEDS_REPLACEMENT)


def test_a_good_word_in_between_ends_it() -> None:
    pool = pool_of(unverified("a"))
    says(pool, "a", NOW)

    vouch(pool, "a", NOW + 1)

    assert says(pool, "a", NOW + 60) is Status.READY
    assert says(pool, "a", NOW + 60 + CONFIRMED_AFTER) is Status.NEEDS_REPLACEMENT


def test_a_refused_request_needs_no_second_word() -> None:
    pool = ready_pool("a", "b", "c")
    for name in "abc":
        refuse(pool, name, NOW, NOW)
        whoami_refuses(pool, name, NOW + 1)

    assert set(statuses(pool).values()) == {Status.NEEDS_REPLACEMENT}


def test_a_refused_request_confirms_whoami_for_ever() -> None:
    """However long whoami could not be asked."""
    pool = ready_pool("a")
    refuse(pool, "a", NOW, NOW)

    assert says(pool, "a", NOW + 10 * LASTS) is Status.NEEDS_REPLACEMENT


def test_several_refused_at_once_must_stay_refused() -> None:
    pool = pool_of(*map(unverified, "abc"))
    seen: dict[str, list[float]] = {}
    for seconds in range(0, int(LASTS) + 60, 15):
        for name in "abc":
            if says(pool, name, NOW + seconds) is Status.NEEDS_REPLACEMENT:
                seen.setdefault(name, []).append(seconds)

    assert {name: times[0] for name, times in seen.items()} == dict.fromkeys("abc", LASTS)


def test_an_older_token_of_the_same_identity_is_no_company() -> None:
    pool = pool_of(unverified("a"))
    says(pool, "a", NOW)
    pool.replace_identities([unverified("a", "at-test-a-newer")], pool.selection, NOW + 1)

    first = says(pool, "a", NOW + 2)

    assert (first, says(pool, "a", NOW + 2 + CONFIRMED_AFTER)) == (Status.UNVERIFIED, Status.NEEDS_REPLACEMENT)


def test_one_refused_request_confirms_the_others() -> None:
    pool = ready_pool("a", "b", "c")
    for at in (NOW, NOW + 15):
        for name in "ab":
            says(pool, name, at)
    assert set(statuses(pool).values()) == {Status.READY}

    refuse(pool, "c", NOW + 20, NOW + 20)
    for name in "cab":
        says(pool, name, NOW + 21)

    assert set(statuses(pool).values()) == {Status.NEEDS_REPLACEMENT}


def test_refusals_minutes_apart_have_separate_causes() -> None:
    pool = pool_of(*map(unverified, "ab"))
    says(pool, "a", NOW)
    says(pool, "a", NOW + CONFIRMED_AFTER)

    later = NOW + CONFIRMED_AFTER + TOGETHER
    says(pool, "b", later)

    assert says(pool, "b", later + CONFIRMED_AFTER) is Status.NEEDS_REPLACEMENT


def test_a_missing_account_is_believed_after_ten_minutes() -> None:
    pool = pool_of(unverified("a"))

    becomes = [says(pool, "a", NOW + seconds, Word.OTHER_ACCOUNT, DISCOVERY) for seconds in range(0, 630, 30)]

    assert becomes.index(Status.CONFLICT) == LASTS / 30


def test_a_tokens_own_claims_are_believed_at_once() -> None:
    pool = pool_of(unverified("a"))

    assert says(pool, "a", NOW, Word.OTHER_ACCOUNT, "") is Status.CONFLICT


def test_why_an_identity_is_still_unverified_is_said() -> None:
    pool = pool_of(unverified("a"))
    whoami_refuses(pool, "a", NOW)

    assert str(pool.identities["a"].condition.evidence) == "401 token_revoked on whoami"


@given(
    words=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30), st.sampled_from(Word)), max_size=60),
)
def test_less_than_ten_minutes_condemn_no_two_at_once(
    words: list[tuple[str, float, Word]],
) -> None:
    # given words of whoami in any order, none of which a request bears out, and of all three in each minute
    pool, at = pool_of(*map(unverified, "abc")), NOW
    for name in "abc":
        says(pool, name, at)
    for name, pause, word in words:
        at = min(at + pause, NOW + LASTS - 1)
        if word is Word.HEALTHY:
            vouch(pool, name, at)
        else:
            says(pool, name, at, word)
        for other in "abc":
            says(pool, other, at)

    assert not {Status.NEEDS_REPLACEMENT, Status.CONFLICT} & set(statuses(pool).values())


@pytest.mark.parametrize("code", DEAD_TOKEN_CODES)
def test_a_dead_token_is_a_401_in_json_with_a_known_code(code: str) -> None:
    assert DEAD_TOKEN_CODES[code]
    assert says_dead(401, code, is_json=True, from_edge=False)
    assert says_dead(401, code.upper(), is_json=True, from_edge=False)
    assert not any(says_dead(status, code, True, False) for status in (200, 400, 403, 404, 429, 503))
    assert not says_dead(401, code, is_json=False, from_edge=False)
    assert not says_dead(401, code, is_json=True, from_edge=True)


@given(st.text().filter(lambda code: code.lower() not in DEAD_TOKEN_CODES))
def test_no_other_code_says_so(code: str) -> None:
    assert not says_dead(401, code, is_json=True, from_edge=False)


def test_metadata_is_kept_while_it_is_doubted() -> None:
    pool = ready_pool("a")
    says(pool, "a", NOW)

    assert pool.identities["a"].metadata == metadata("a")
