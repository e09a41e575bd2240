from __future__ import annotations

from dataclasses import replace

import pytest

from codexpool.pool import exclusions
from codexpool.pool import pool as pool_module
from codexpool.pool import sessions as sessions_module
from codexpool.pool.identity import Asked, Condition, Evidence, IdentityKey, Kind, Status, Word
from codexpool.pool.selection import Selection
from codexpool.pool.states import LONGEST_REST, SHORT_REST
from tests.pool.pools import (
    MODELS,
    NOW,
    RESPONSES,
    Changes,
    asked,
    bound,
    condemn,
    metadata,
    not_for_endpoint,
    pool_of,
    ready_pool,
    refuse,
    restore,
    serving,
    statuses,
    unverified,
    vouch,
)

# -- who serves


def test_session_stays_with_its_identity_while_that_can_serve() -> None:
    pool = ready_pool("a", "b", selection=Selection.ROUND_ROBIN)
    first = pool.choose(Asked("s", RESPONSES), NOW)

    assert [pool.choose(Asked("s", RESPONSES), NOW + n) for n in range(1, 4)] == [first] * 3


def test_session_that_moved_does_not_move_back_by_itself() -> None:
    pool = ready_pool("a", "b")
    pool.choose(Asked("s", RESPONSES), NOW)
    refuse(pool, "a", NOW, NOW)
    moved = pool.choose(Asked("s", RESPONSES), NOW)

    vouch(pool, "a", NOW + 1)
    later = pool.choose(Asked("s", RESPONSES), NOW + 100)

    assert moved is later is pool.identities["b"]
    assert pool.identities["a"] in serving(pool, RESPONSES, NOW + 100)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.READY])
def test_only_ready_serves(status: Status) -> None:
    pool = ready_pool("a")
    identity = pool.identities["a"]
    pool.choose(Asked("s", RESPONSES), NOW)

    pool.states.condition_learned("a", identity.fingerprint, Condition(status, NOW))

    assert pool.choose(Asked("s", RESPONSES), NOW) is None
    assert pool.choose(Asked(None, RESPONSES), NOW) is None


def test_identity_whose_account_is_unknown_does_not_serve() -> None:
    pool = pool_of(unverified("a"))

    pool.states.condition_learned("a", pool.identities["a"].fingerprint, Condition(Status.READY, NOW))

    assert pool.choose(Asked(None, RESPONSES), NOW) is None


def test_what_an_earlier_run_found_out_is_enough_to_serve() -> None:
    pool = pool_of(unverified("a"))

    pool.states.recall("a", pool.identities["a"].fingerprint, metadata("a"), NOW)

    assert pool.choose(Asked(None, RESPONSES), NOW) is pool.identities["a"]


def test_an_earlier_word_on_another_token_does_not_count() -> None:
    pool = pool_of(unverified("a"))

    pool.states.recall("a", unverified("a", "at-test-older").fingerprint, metadata("a"), NOW)

    assert pool.choose(Asked(None, RESPONSES), NOW) is None


def test_a_token_whose_flag_was_removed_waits_for_whoami() -> None:
    pool = ready_pool("a")
    identity = pool.identities["a"]
    condemn(pool, "a", NOW)

    pool.states.condition_learned("a", identity.fingerprint, Condition(Status.UNVERIFIED, NOW))
    pool.states.recall("a", identity.fingerprint, metadata("a"), NOW)
    before = pool.choose(Asked(None, RESPONSES), NOW)
    vouch(pool, "a", NOW + 1)

    assert before is None
    assert pool.choose(Asked(None, RESPONSES), NOW + 1) is identity


def test_an_excluded_identity_loses_even_its_own_session() -> None:
    pool = ready_pool("a", "b")
    pool.choose(Asked("s", RESPONSES), NOW)

    assert pool.choose(Asked("s", RESPONSES), NOW, without=["a"]) is pool.identities["b"]
    assert pool.choose(Asked("s", RESPONSES), NOW, without=["a", "b"]) is None


def test_resting_ends_when_its_time_has_come() -> None:
    pool = ready_pool("a")
    rest = Condition(Status.RESTING, NOW, NOW + 5)
    pool.states.condition_learned("a", pool.identities["a"].fingerprint, rest)

    assert pool.choose(Asked(None, RESPONSES), NOW + 4.9) is None
    assert pool.choose(Asked(None, RESPONSES), NOW + 5) is pool.identities["a"]


def test_resting_does_not_last_as_long_as_the_clock_was_set_back() -> None:
    pool = ready_pool("a")
    rest = Condition(Status.RESTING, NOW, NOW + 5)
    pool.states.condition_learned("a", pool.identities["a"].fingerprint, rest)

    assert pool.choose(Asked(None, RESPONSES), NOW - 3600) is pool.identities["a"]


def test_session_used_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "KEPT", 2)
    pool = ready_pool("a")
    pool.choose(Asked("one", RESPONSES), NOW)
    pool.choose(Asked("two", RESPONSES), NOW)
    pool.choose(Asked("one", RESPONSES), NOW)

    pool.choose(Asked("three", RESPONSES), NOW)

    assert bound(pool, "two") is None
    assert bound(pool, "one") == bound(pool, "three") == metadata("a").key


def test_session_of_an_identity_that_left_is_served_by_another() -> None:
    pool = ready_pool("a")
    restore(pool, {"s": IdentityKey("account-gone", "user-gone")})

    assert pool.choose(Asked("s", RESPONSES), NOW) is pool.identities["a"]


# -- refusals and whoami's word


def test_refused_pat_is_flagged_once_whoami_confirms_it() -> None:
    pool = ready_pool("a")

    refuse(pool, "a", NOW, NOW + 1)
    suspect = pool.identities["a"].status
    condemn(pool, "a", NOW + 2)

    condition = pool.identities["a"].condition
    assert suspect is Status.SUSPECT
    assert condition.status is Status.NEEDS_REPLACEMENT
    assert str(condition.evidence) == "401 token_revoked on codex/responses, confirmed by whoami"


def test_healthy_pat_is_back_after_a_short_rest() -> None:
    pool = ready_pool("a")
    refuse(pool, "a", NOW, NOW + 1)

    vouch(pool, "a", NOW + 2)

    assert pool.choose(Asked(None, RESPONSES), NOW + 2) is None
    assert pool.choose(Asked(None, RESPONSES), NOW + 2 + SHORT_REST) is pool.identities["a"]


def test_rests_grow_until_a_success() -> None:
    """Each refusal that whoami contradicts is a longer rest."""
    pool, at, rests = ready_pool("a"), NOW, []
    for _ in range(8):
        refuse(pool, "a", at, at)
        vouch(pool, "a", at)
        until = pool.identities["a"].condition.until
        assert until is not None
        rests.append(until - at)
        at = until
        pool.choose(Asked(None, RESPONSES), at)

    pool.succeeded("a", NOW, True)
    refuse(pool, "a", at, at)
    vouch(pool, "a", at)

    assert rests == [2, 4, 8, 16, 32, LONGEST_REST, LONGEST_REST, LONGEST_REST]
    assert pool.identities["a"].condition.until == at + SHORT_REST


def test_twenty_refusals_at_once_lead_to_one_suspicion() -> None:
    changes = Changes()
    pool = ready_pool("a", "b", changes=changes)

    for n in range(20):
        refuse(pool, "a", NOW, NOW + n / 1000)

    assert changes == [("a", Status.SUSPECT)]


def test_late_refusals_change_nothing() -> None:
    """They were sent before whoami vouched for the token."""
    changes = Changes()
    pool = ready_pool("a", changes=changes)
    refuse(pool, "a", NOW, NOW + 1)
    vouch(pool, "a", NOW + 2)
    pool.choose(Asked(None, RESPONSES), NOW + 60)

    for n in range(20):
        refuse(pool, "a", NOW + n / 10, NOW + 60)

    assert changes == [("a", Status.SUSPECT), ("a", Status.RESTING), ("a", Status.READY)]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.READY])
def test_a_refusal_of_a_condemned_identity_changes_nothing(status: Status) -> None:
    pool = ready_pool("a")
    identity = pool.identities["a"]
    pool.states.condition_learned("a", identity.fingerprint, Condition(status, NOW))

    refuse(pool, "a", NOW, NOW + 1)

    assert identity.condition == Condition(status, NOW)


def test_dead_pat_is_suspected_although_the_clock_was_set_back() -> None:
    pool = ready_pool("a")

    refuse(pool, "a", NOW - 3600, NOW - 3599)

    assert pool.identities["a"].status is Status.SUSPECT


def test_refusal_of_an_older_token_changes_nothing() -> None:
    pool = ready_pool("a")
    old = pool.identities["a"]
    pool.replace_identities([unverified("a", "at-test-newer")], Selection.DRAIN_FIRST, NOW)
    vouch(pool, "a", NOW)

    evidence = Evidence(NOW + 1, "POST", RESPONSES, 401, fingerprint=old.fingerprint)
    pool.states.refused("a", evidence, NOW + 1)
    for word in Word:
        pool.states.whoami_said("a", word, asked(old, NOW + 2), metadata("somebody else"))

    assert pool.identities["a"].status is Status.READY
    assert pool.identities["a"].metadata == metadata("a")


def test_word_on_an_identity_that_left_changes_nothing() -> None:
    changes = Changes()
    pool = ready_pool("a", changes=changes)
    gone = pool.identities["a"]
    pool.replace_identities([], Selection.DRAIN_FIRST, NOW)

    pool.states.refused("a", Evidence(NOW, fingerprint=gone.fingerprint), NOW)
    pool.states.whoami_said("a", Word.REFUSED, asked(gone, NOW))
    pool.succeeded("a", NOW, True)

    assert not changes
    assert not not_for_endpoint(pool, "a", RESPONSES)


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.NEEDS_REPLACEMENT, Status.CONFLICT])
def test_whoami_asked_before_the_refusal_does_not_clear_it(status: Status) -> None:
    pool = ready_pool("a")
    evidence = Evidence(NOW, fingerprint=pool.identities["a"].fingerprint)
    pool.states.condition_learned("a", evidence.fingerprint, Condition(status, NOW, evidence=evidence))

    vouch(pool, "a", NOW - 0.1)

    assert pool.identities["a"].status is status


@pytest.mark.parametrize("status", list(Status))
def test_unreachable_whoami_says_nothing_about_the_token(status: Status) -> None:
    pool = ready_pool("a")
    identity = pool.identities["a"]
    before = Condition(status, NOW, evidence=Evidence(NOW, note="why"))
    pool.states.condition_learned("a", identity.fingerprint, before)

    said = Evidence(NOW + 1, fingerprint=identity.fingerprint, note="whoami answers 403 ip_not_authorized")
    pool.states.whoami_said("a", Word.UNREACHABLE, said)

    # who was never verified is told why; what else there is has a better reason
    assert identity.condition == (replace(before, evidence=said) if status is Status.UNVERIFIED else before)


def test_token_of_another_account_is_a_conflict_and_not_served() -> None:
    pool = ready_pool("a")
    refuse(pool, "a", NOW, NOW)

    pool.states.whoami_said("a", Word.OTHER_ACCOUNT, asked(pool.identities["a"], NOW + 1))

    assert pool.identities["a"].status is Status.CONFLICT
    assert pool.choose(Asked(None, RESPONSES), NOW + 1000) is None


def test_whoami_does_not_end_what_a_person_has_paused() -> None:
    pool = ready_pool("a")
    pool.states.condition_learned("a", pool.identities["a"].fingerprint, Condition(Status.PAUSED, NOW))

    vouch(pool, "a", NOW + 1)

    assert pool.identities["a"].status is Status.PAUSED


def test_healthy_pat_survives_an_endpoint_scoped_401() -> None:
    pool = pool_of(unverified("pat"), unverified("oauth", kind=Kind.OAUTH))
    vouch(pool, "pat", NOW)
    vouch(pool, "oauth", NOW)

    news = [not_for_endpoint(pool, "pat", RESPONSES), not_for_endpoint(pool, "pat", RESPONSES)]

    assert news == [True, False]
    assert statuses(pool) == {"pat": Status.READY, "oauth": Status.READY}
    assert pool.choose(Asked(None, RESPONSES), NOW) is pool.identities["oauth"]
    assert pool.choose(Asked(None, MODELS), NOW) is pool.identities["pat"]


def test_an_excluded_endpoint_is_tried_again_later() -> None:
    pool = ready_pool("a")
    not_for_endpoint(pool, "a", RESPONSES)

    assert pool.choose(Asked(None, RESPONSES), NOW + exclusions.ENDPOINT_LASTS - 1) is None
    assert pool.choose(Asked(None, RESPONSES), NOW + exclusions.ENDPOINT_LASTS) is pool.identities["a"]


def test_remembered_endpoints_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusions, "KEPT", 3)
    pool = ready_pool("a")

    for n in range(10):
        not_for_endpoint(pool, "a", f"/backend-api/codex/memories/{n}")

    asked = [Asked(None, f"/backend-api/codex/memories/{n}") for n in range(10)]
    refused = [not pool.is_for(pool.identities["a"], one, NOW) for one in asked]
    assert refused == [False] * 7 + [True] * 3


# -- pool.toml changes


def test_reload_keeps_the_state_of_tokens_that_stay() -> None:
    pool = ready_pool("a", "b")
    kept, refused = pool.identities["a"], pool.identities["b"]
    refuse(pool, "b", NOW, NOW)

    pool.replace_identities([unverified("b"), unverified("c"), unverified("a")], Selection.DRAIN_FIRST, NOW)

    assert list(pool.identities) == ["b", "c", "a"]
    assert (pool.identities["a"], pool.identities["b"]) == (kept, refused)
    assert statuses(pool) == {"b": Status.SUSPECT, "c": Status.UNVERIFIED, "a": Status.READY}


def test_new_token_clears_the_flag_and_gets_the_sessions_back() -> None:
    pool = ready_pool("a", "b")
    pool.choose(Asked("s", RESPONSES), NOW)
    condemn(pool, "a", NOW)

    pool.replace_identities([unverified("a", "at-test-newer"), unverified("b")], Selection.DRAIN_FIRST, NOW)
    cleared = pool.identities["a"].status
    vouch(pool, "a", NOW + 1)

    assert cleared is Status.UNVERIFIED
    assert pool.choose(Asked("s", RESPONSES), NOW + 1) is pool.identities["a"]


def test_reload_leaves_the_times_of_conditions_as_they_were() -> None:
    pool = ready_pool("a")
    before = pool.identities["a"].condition

    pool.replace_identities([unverified("a")], Selection.DRAIN_FIRST, NOW + 1000)

    assert pool.identities["a"].condition == before


def test_listener_is_told_of_a_status_once() -> None:
    changes = Changes()
    pool = ready_pool("a", changes=changes)

    for until in (NOW + 10, NOW + 20):
        rest = Condition(Status.RESTING, NOW, until)
        pool.states.condition_learned("a", pool.identities["a"].fingerprint, rest)

    assert changes == [("a", Status.RESTING)]


def test_listener_is_told_when_a_limit_comes_to_last_longer() -> None:
    changes = Changes()
    pool = ready_pool("a", changes=changes)

    for until in (NOW + 10, NOW + 20, NOW + 20):
        limit = Condition(Status.LIMITED, NOW, until)
        pool.states.condition_learned("a", pool.identities["a"].fingerprint, limit)

    assert changes == [("a", Status.LIMITED)] * 2


# -- two tokens for one account and user


def twins(order: str = "ab", changes: Changes | None = None) -> pool_module.Pool:
    """Two tokens of one account and user, vouched for in the order that is given; the file's order is a, b."""
    pool = pool_of(unverified("a"), unverified("b"), changes=changes)
    for name in order:
        vouch(pool, name, NOW, who="same")
    return pool


def test_a_users_second_token_replaces_a_dead_first_one() -> None:
    pool = twins()
    first, second = pool.identities["a"], pool.identities["b"]

    condemn(pool, "a", NOW + 1)

    assert (first.status, second.status) == (Status.NEEDS_REPLACEMENT, Status.READY)
    assert pool.choose(Asked(None, RESPONSES), NOW + 2) is second


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_first_of_two_tokens_serves(order: str) -> None:
    """Whichever is verified first."""
    pool = twins(order)

    assert statuses(pool) == {"a": Status.READY, "b": Status.PAUSED}
    assert pool.states.by_keys[metadata("same").key] is pool.identities["a"]
    assert str(pool.identities["b"].condition.evidence) == "its token is of the same account and user as that of a"


def test_second_serves_as_soon_as_the_first_has_left() -> None:
    pool = twins()
    pool.choose(Asked("s", RESPONSES), NOW)

    pool.replace_identities([unverified("b")], Selection.DRAIN_FIRST, NOW)

    assert pool.choose(Asked("s", RESPONSES), NOW) is pool.identities["b"]


def test_the_second_token_serves_until_the_first_is_verified() -> None:
    pool = twins()
    pool.replace_identities([unverified("a", "at-test-newer"), unverified("b")], Selection.DRAIN_FIRST, NOW)
    meanwhile = statuses(pool)

    vouch(pool, "a", NOW + 1, who="same")

    assert meanwhile == {"a": Status.UNVERIFIED, "b": Status.READY}
    assert statuses(pool) == {"a": Status.READY, "b": Status.PAUSED}


def test_two_tokens_of_a_user_swap_with_their_order() -> None:
    pool = twins()

    pool.replace_identities([unverified("b"), unverified("a")], Selection.DRAIN_FIRST, NOW)

    assert statuses(pool) == {"b": Status.READY, "a": Status.PAUSED}


def test_a_third_token_does_not_serve_beside_the_second() -> None:
    pool = pool_of(unverified("a"), unverified("b"), unverified("c"))
    for name in "cba":
        vouch(pool, name, NOW, who="same")

    pool.replace_identities([unverified("b"), unverified("c")], Selection.DRAIN_FIRST, NOW)

    assert statuses(pool) == {"b": Status.READY, "c": Status.PAUSED}


def test_a_dead_token_stays_flagged_when_a_twin_comes_and_goes() -> None:
    pool = pool_of(unverified("a"), unverified("b"))
    vouch(pool, "b", NOW, who="same")
    condemn(pool, "b", NOW)
    flagged = pool.identities["b"].condition

    vouch(pool, "a", NOW + 1, who="same")
    beside = statuses(pool)
    pool.replace_identities([unverified("b")], Selection.DRAIN_FIRST, NOW)

    assert beside == {"a": Status.READY, "b": Status.NEEDS_REPLACEMENT}
    assert pool.identities["b"].condition == flagged


def test_a_suspect_token_does_not_serve_beside_its_twin() -> None:
    pool = pool_of(unverified("a"), unverified("b"))
    vouch(pool, "b", NOW, who="same")
    refuse(pool, "b", NOW, NOW)
    vouch(pool, "a", NOW, who="same")

    vouch(pool, "b", NOW + 1, who="same")

    assert statuses(pool) == {"a": Status.READY, "b": Status.PAUSED}
    assert serving(pool, RESPONSES, NOW + 1000) == [pool.identities["a"]]


def test_a_rest_of_an_earlier_run_releases_no_twin() -> None:
    pool = twins()
    pool.states.condition_learned("b", pool.identities["b"].fingerprint, Condition(Status.RESTING, NOW, NOW + 5))

    assert serving(pool, RESPONSES, NOW + 1000) == [pool.identities["a"]]


def test_a_dead_second_token_is_flagged_not_paused() -> None:
    pool = twins()

    condemn(pool, "b", NOW + 1)

    condition = pool.identities["b"].condition
    assert condition.status is Status.NEEDS_REPLACEMENT
    assert "whoami" in str(condition.evidence)


def test_pausing_a_second_token_tells_the_listener_once() -> None:
    changes = Changes()

    twins("ab", changes)

    assert changes == [("a", Status.READY), ("b", Status.PAUSED)]
