from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import Asked, Condition, Evidence, Status, Word
from codexpool.pool.needs import NEED, no_identity, reasons_of
from tests.pool.pools import (
    NOW,
    RESPONSES,
    asked,
    condemn,
    metadata,
    not_for_endpoint,
    pool_of,
    ready_pool,
    refuse,
    unverified,
    vouch,
)

times = st.floats(NOW, NOW + 1e6)
evidences = st.builds(
    Evidence,
    at=times,
    path=st.sampled_from([RESPONSES, "whoami"]),
    status=st.sampled_from([0, 200, 401]),
    code=st.sampled_from(["", "token_revoked"]),
    whoami=st.sampled_from(["", *Word]),
    note=st.sampled_from(["", "paused by hand"]),
)
conditions = st.builds(Condition, st.sampled_from(Status), times, st.none() | times, st.none() | evidences)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), conditions, min_size=1, max_size=5))
def test_every_identity_is_named_with_what_it_needs_and_no_token(states: dict[str, Condition]) -> None:
    tokens = {name: f"at-test-secret-of-{name}" for name in states}
    pool = pool_of(*[unverified(name, tokens[name]) for name in states])
    for name, condition in states.items():
        vouch(pool, name, NOW)
        pool.states.condition_learned(name, pool.identities[name].fingerprint, condition)

    line = no_identity(pool, Asked(None, RESPONSES), NOW).message

    for name, condition in states.items():
        assert f"{name}: {NEED.get(condition.status, 'refused this request')}" in line
        assert tokens[name] not in line
    assert "at-" not in line
    assert "\n" not in line


def test_every_status_but_ready_has_its_words() -> None:
    assert set(NEED) == set(Status) - {Status.READY}


def test_a_dead_pat_is_named_with_reason_and_time() -> None:
    pool = ready_pool("work")
    refuse(pool, "work", NOW, NOW)
    condemn(pool, "work", NOW + 60)

    assert no_identity(pool, Asked(None, RESPONSES), NOW).message == (
        "codexpool: no identity can serve. work: replace its PAT "
        "(401 token_revoked on codex/responses, confirmed by whoami, 08:01 UTC)"
    )


def test_time_until_which_an_identity_rests_is_told() -> None:
    pool = ready_pool("work")
    pool.states.condition_learned(
        "work", pool.identities["work"].fingerprint, Condition(Status.LIMITED, NOW, NOW + 600)
    )

    assert no_identity(pool, Asked(None, RESPONSES), NOW).message.endswith("work: limited until 08:10 UTC")


def test_an_excluded_endpoint_is_named_with_reason_and_end() -> None:
    pool = ready_pool("work")

    not_for_endpoint(pool, "work", RESPONSES)

    assert no_identity(pool, Asked(None, RESPONSES), NOW).message == (
        "codexpool: no identity can serve. work: not used on codex/responses until 08:15 UTC "
        "(401 no_matching_rule on codex/responses)"
    )


def test_conflict_is_told_from_a_refusal() -> None:
    pool = ready_pool("work")
    refuse(pool, "work", NOW, NOW)
    pool.states.whoami_said("work", Word.OTHER_ACCOUNT, asked(pool.identities["work"], NOW), metadata("another"))

    assert "work: its token belongs to another account" in no_identity(pool, Asked(None, RESPONSES), NOW).message


def test_pool_without_identities_says_where_to_look() -> None:
    line = no_identity(pool_of(), Asked(None, RESPONSES), NOW).message

    assert "pool.toml" in line
    assert "log" in line


def test_each_reason_is_named_once() -> None:
    pool = ready_pool("a", "b", "c")
    for name in "ab":
        refuse(pool, name, NOW, NOW)
        condemn(pool, name, NOW + 1)

    assert reasons_of(pool, ["a", "b", "gone"]) == " (401 token_revoked on codex/responses, confirmed by whoami)"
    assert reasons_of(pool, ["c"]) == ""
