"""Limits are no latch: what the backend says of an account counts, and a client waits for it only where it helps."""

from __future__ import annotations

from itertools import repeat

import pytest

from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import READ_WITHIN, Asked, Condition, Evidence, Status
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import LONGEST_LOOK, Look, NobodyServes, Step, Steps, Try, Wait, attempts
from codexpool.pool.selection import Selection
from codexpool.pool.usage import MAIN, Limit
from codexpool.pool.verdict import Answer, classify
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from tests.pool.pools import MODELS, NOW, RESPONSES, metadata, pool_of, ready_pool, statuses, unverified, vouch

HOUR = 3600.0
LIMITED = classify(Answer(429, code="usage_limit_reached"))


def report(is_open: bool | None, used: float = 0.0, family: str = MAIN) -> UsageReport:
    return UsageReport((FamilyReport(family, (Gauge(family, 300, used, NOW + HOUR),), is_open),))


def read(pool: Pool, name: str, is_open: bool | None, at: float, used: float = 0.0) -> None:
    key = metadata(name).key
    pool.states.usage(key).asked_at = at
    pool.usage_read(key, report(is_open, used), at, at)
    pool.states.usage(key).answered_at = at


def limit(pool: Pool, *names: str, at: float = NOW) -> None:
    for name in names:
        evidence = Evidence(at, "POST", RESPONSES, 429, fingerprint=pool.identities[name].fingerprint)
        pool.states.limited(name, metadata(name).key, Limit(resets_at=NOW + 5 * 86_400), evidence)


def begin(pool: Pool, at: float = NOW, path: str = RESPONSES) -> tuple[Steps, Step]:
    steps = attempts(pool, Asked("s", path), lambda: at, lambda: at)
    return steps, next(steps)


# -- both directions


def test_a_reading_limits_an_identity_before_it_is_ready() -> None:
    """The reading goes out beside routing discovery: a drained identity does not serve a single request."""
    pool = pool_of(unverified("drained"), unverified("good"))
    read(pool, "drained", False, NOW, used=100)

    for name in ("drained", "good"):
        vouch(pool, name, NOW)

    assert statuses(pool) == {"drained": Status.LIMITED, "good": Status.READY}


def test_a_reading_limits_and_lifts() -> None:
    pool = ready_pool("a")

    read(pool, "a", False, NOW, used=100)
    assert statuses(pool) == {"a": Status.LIMITED}
    assert pool.identities["a"].condition.until == NOW + HOUR
    read(pool, "a", None, NOW + 1)
    assert statuses(pool)["a"] == Status.LIMITED
    read(pool, "a", True, NOW + 2)
    assert statuses(pool)["a"] == Status.READY
    assert pool.choose(Asked("s", RESPONSES), NOW + 2) is pool.identities["a"]


def test_a_limit_that_an_answer_reports_while_a_reading_is_under_way_stays() -> None:
    pool = ready_pool("a")
    limit(pool, "a", at=NOW + 2)

    pool.usage_read(metadata("a").key, report(True), NOW + 1, NOW + 3)

    assert statuses(pool)["a"] == Status.LIMITED


def test_a_limit_noted_before_the_lift_does_not_come_back_from_the_state() -> None:
    """Another proxy may write its note of the limit late."""
    pool = ready_pool("a")
    limit(pool, "a")
    identity = pool.identities["a"]
    noted = identity.condition
    read(pool, "a", True, NOW + 1)

    pool.states.condition_learned("a", identity.fingerprint, noted)
    assert statuses(pool)["a"] == Status.READY
    pool.states.condition_learned("a", identity.fingerprint, Condition(Status.LIMITED, NOW + 2, NOW + HOUR))
    assert statuses(pool)["a"] == Status.LIMITED


def test_a_reading_in_another_process_lifts_here_too() -> None:
    here, there = ready_pool("a"), ready_pool("a")
    for pool in (here, there):
        limit(pool, "a")
    read(there, "a", True, NOW + 1)
    key = metadata("a").key

    here.usage_noted(key, there.states.usage(key).document(), NOW + 2)

    assert statuses(here)["a"] == Status.READY


@pytest.mark.parametrize(("is_open", "read_at"), [(True, NOW - 1), (True, NOW + 1), (False, NOW + 1)])
def test_a_newer_reading_in_another_process_lifts_a_limit_for_one_model(is_open: bool, read_at: float) -> None:
    """`codexpool check` is such a process."""
    here, there = ready_pool("a"), ready_pool("a")
    evidence = Evidence(NOW, "POST", RESPONSES, 429, fingerprint=here.identities["a"].fingerprint)
    here.limited_for_model("a", "gpt-x", evidence, NOW + HOUR, is_limit=True)
    read(there, "a", is_open, read_at)
    key = metadata("a").key

    here.usage_noted(key, there.states.usage(key).document(), NOW + 2)

    limited = here.limited_until(here.identities["a"], Asked("s", RESPONSES, model="gpt-x"), NOW + 2)
    assert (limited is None) == (is_open and read_at > NOW)


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.READY, Status.LIMITED, Status.RESTING)])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_reading_changes_no_other_status(status: Status, is_open: bool) -> None:
    pool = ready_pool("a")
    pool.identities["a"].condition = Condition(status, NOW)

    read(pool, "a", is_open, NOW + 1, used=100)

    assert pool.identities["a"].status is status


def test_of_two_tokens_of_one_account_the_one_that_serves_is_limited_and_the_other_stays_paused() -> None:
    pool = pool_of(unverified("a"), unverified("twin"))
    vouch(pool, "a", NOW)
    vouch(pool, "twin", NOW, who="a")

    read(pool, "a", False, NOW + 1)
    assert statuses(pool) == {"a": Status.LIMITED, "twin": Status.PAUSED}
    read(pool, "a", True, NOW + 2)
    assert statuses(pool) == {"a": Status.READY, "twin": Status.PAUSED}


def test_a_reading_of_an_account_that_has_left_the_pool_changes_nothing() -> None:
    pool = ready_pool("a", "b")
    pool.replace_identities([pool.identities["b"]], Selection.DRAIN_FIRST, NOW)

    read(pool, "a", False, NOW + 1)

    assert statuses(pool) == {"b": Status.READY}


def test_a_limit_for_one_model_is_lifted_with_its_family() -> None:
    """Such a limit is what remains of a refusal that looked like the request's own fault."""
    pool = ready_pool("a")
    evidence = Evidence(NOW, "POST", RESPONSES, 429, fingerprint=pool.identities["a"].fingerprint)
    for model in ("gpt-x", "spark"):
        pool.limited_for_model("a", model, evidence, NOW + HOUR, is_limit=True)
    pool.learn_family("spark", "codex_spark")
    families = (FamilyReport(MAIN, (), True), FamilyReport("codex_spark", (), False))

    pool.usage_read(metadata("a").key, UsageReport(families), NOW + 1, NOW + 1)

    assert pool.limited_until(pool.identities["a"], Asked("s", RESPONSES, model="gpt-x"), NOW + 1) is None
    assert pool.limited_until(pool.identities["a"], Asked("s", RESPONSES, model="spark"), NOW + 1) is not None
    owner = subjects("", metadata("a")).owner
    assert [entry[2] for entry in pool.exclusions.document(owner)["entries"]] == ["spark"]


# -- before a client is told that nobody can serve


def test_limited_identities_are_looked_at_before_nobody_serves() -> None:
    pool = ready_pool("a", "b", "paused")
    limit(pool, "a", "b")
    pool.states.workspace_closed("paused", Evidence(NOW, fingerprint=pool.identities["paused"].fingerprint))

    steps, step = begin(pool)
    assert isinstance(step, Look)
    assert ([i.name for i in step.identities], step.seconds) == (["a", "b"], LONGEST_LOOK)

    read(pool, "b", True, NOW + 1)
    found = steps.send(None)
    assert isinstance(found, Try)
    assert found.identity.name == "b"


def test_a_look_in_vain_is_not_repeated_within_a_minute_by_any_client() -> None:
    pool = ready_pool("a")
    limit(pool, "a")
    looks = 0
    for second in range(180):
        clock = repeat(NOW + second).__next__
        if next(attempts(pool, Asked("s", RESPONSES), clock, clock), None) is not None:
            looks += 1
            read(pool, "a", False, NOW + second)

    assert looks == 3


def test_a_client_joins_a_look_that_is_under_way() -> None:
    pool = ready_pool("a")
    limit(pool, "a")
    pool.states.usage(metadata("a").key).asked_at = NOW

    _, step = begin(pool, NOW + 1)

    assert isinstance(step, Look)


def test_a_request_does_not_ask_about_the_identity_that_has_just_refused_it() -> None:
    pool = ready_pool("a")
    steps, step = begin(pool)
    assert isinstance(step, Try)
    limit(pool, "a")

    with pytest.raises(StopIteration) as end:
        steps.send(LIMITED)

    assert end.value.value == NobodyServes()


def test_one_request_looks_once_and_its_patience_has_an_end() -> None:
    pool = ready_pool("a", "b")
    limit(pool, "a", "b")
    at = NOW
    steps = attempts(pool, Asked("s", RESPONSES), lambda: at, lambda: at)
    step = next(steps)
    assert isinstance(step, Look)
    at += step.seconds

    with pytest.raises(StopIteration):
        steps.send(None)
    assert at - NOW < PATIENCE


def test_an_identity_that_a_member_may_not_use_is_not_looked_at() -> None:
    pool = ready_pool("a", "b")
    limit(pool, "a", "b")
    steps = attempts(pool, Asked("s", RESPONSES, only=frozenset({"b"})), lambda: NOW, lambda: NOW)

    step = next(steps)

    assert isinstance(step, Look)
    assert [i.name for i in step.identities] == ["b"]


# -- after a restart, before anything is known


def unread_pool(*names: str) -> Pool:
    pool = ready_pool(*names)
    for name in names:
        pool.states.unread(name, NOW)
    return pool


def test_a_turn_waits_for_the_first_reading_and_goes_to_an_identity_with_something_left() -> None:
    pool = unread_pool("drained", "good")

    steps, step = begin(pool)
    assert isinstance(step, Wait)
    assert step.seconds == READ_WITHIN
    read(pool, "drained", False, NOW, used=100)
    step = steps.send(None)
    assert isinstance(step, Wait)
    read(pool, "good", True, NOW)
    step = steps.send(None)

    assert isinstance(step, Try)
    assert step.identity.name == "good"


def test_a_new_session_prefers_an_identity_whose_usage_is_known() -> None:
    pool = unread_pool("a", "b")
    read(pool, "b", True, NOW, used=90)

    _, step = begin(pool)

    assert isinstance(step, Try)
    assert step.identity.name == "b"


@pytest.mark.parametrize("how", ["time is up", "the reading failed", "no turn", "the clock was set back"])
def test_nothing_waits_for_a_reading_for_long(how: str) -> None:
    pool = unread_pool("a")
    at = {"time is up": NOW + READ_WITHIN, "the clock was set back": NOW - HOUR}.get(how, NOW)
    if how == "the reading failed":
        pool.states.read_failed(metadata("a").key)

    if how == "no turn":
        step = next(attempts(pool, Asked("s", MODELS, is_turn=False), lambda: at, lambda: at))
    else:
        _, step = begin(pool, at)

    assert isinstance(step, Try)


def test_a_session_waits_for_its_own_identity_only() -> None:
    pool = ready_pool("a", "b")
    pool.choose(Asked("s", RESPONSES), NOW)
    pool.states.unread("a", NOW)
    assert pool.unread_pause(Asked("s", RESPONSES), NOW) == READ_WITHIN

    assert pool.unread_pause(Asked("other", RESPONSES), NOW) == 0


# -- spread by what is left


def sessions(pool: Pool, number: int) -> dict[str, int]:
    served = [pool.choose(Asked(f"s{n}", RESPONSES), NOW + n) for n in range(number)]
    return {name: sum(i is not None and i.name == name for i in served) for name in pool.identities}


def test_eight_sessions_on_four_equal_identities_are_two_each() -> None:
    pool = ready_pool("a", "b", "c", "d", selection=Selection.HEADROOM)
    for name in pool.identities:
        read(pool, name, True, NOW, used=10)

    assert sessions(pool, 8) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_a_fresh_identity_is_not_passed_over_and_a_nearly_used_one_gets_the_fewest() -> None:
    pool = ready_pool("a", "b", "used", "fresh", selection=Selection.HEADROOM)
    for name, used in {"a": 20, "b": 20, "used": 90, "fresh": 0}.items():
        read(pool, name, True, NOW, used=used)

    served = sessions(pool, 8)

    assert served["used"] == min(served.values())
    assert served["used"] < served["a"]
    assert served["fresh"] == max(served.values())
