"""Limits, sessions and the breaker, as the pool decides upon them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexpool.pool.breaker import FIRST_PAUSE
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, Kind, Status
from codexpool.pool.needs import no_identity
from codexpool.pool.pool import TROUBLES, Pool
from codexpool.pool.recovery import BEFORE_AGAIN, Look, NobodyServes, Pause, Relay, Try, Wait, attempts
from codexpool.pool.selection import LASTS, Selection
from codexpool.pool.states import LONGEST_RETRY_AFTER
from codexpool.pool.usage import LONGEST_LIMIT, MAIN, Limit, Window
from codexpool.pool.verdict import Answer, Verdict, classify
from tests.pool.pools import (
    MODELS,
    NOW,
    RESPONSES,
    Changes,
    bound,
    condemn,
    metadata,
    not_for_endpoint,
    ready_pool,
    refuse,
    statuses,
    unverified,
    vouch,
)

HOUR = 3600.0
LIMITED = classify(Answer(429, code="usage_limit_reached"))
THROTTLED = classify(Answer(429))
TROUBLE = classify(Answer(503, repeatable=True))
NOT_PORTABLE = classify(Answer(400, code="invalid_encrypted_content", lightens=True))
GOOD = classify(Answer(200))


def evidence(identity: Identity, at: float, status: int = 429, code: str = "usage_limit_reached") -> Evidence:
    return Evidence(at, "POST", RESPONSES, status, code, "", identity.fingerprint)


def limit(pool: Pool, name: str, until: float, at: float = NOW, family: str = MAIN) -> None:
    identity = pool.identities[name]
    pool.states.limited(name, metadata(name).key, Limit(family, until), evidence(identity, at))


def chosen(
    pool: Pool,
    session: str | None,
    at: float = NOW,
    path: str = RESPONSES,
    parent: str | None = None,
    model: str = "",
) -> str | None:
    identity = pool.choose(Asked(session, path, parent, model), at)
    return identity.name if identity is not None else None


# -- limits


def test_a_limited_identity_returns_at_its_time() -> None:
    pool = ready_pool("a", "b")
    assert chosen(pool, "s") == "a"

    limit(pool, "a", NOW + HOUR)

    assert statuses(pool) == {"a": Status.LIMITED, "b": Status.READY}
    assert {chosen(pool, f"s{n}", NOW + n) for n in range(0, 3600, 100)} == {"b"}
    assert chosen(pool, "s", NOW + 1) == "b"
    assert chosen(pool, "new", NOW + HOUR) == "a"
    assert chosen(pool, "s", NOW + HOUR) == "b"  # a session does not go back


def test_a_limit_outlives_its_token() -> None:
    pool = ready_pool("a", "b")
    limit(pool, "a", NOW + HOUR)

    pool.replace_identities([unverified("a", "at-test-new"), *[pool.identities["b"]]], Selection.DRAIN_FIRST, NOW)
    vouch(pool, "a", NOW + 1)

    assert pool.identities["a"].status is Status.LIMITED
    assert pool.identities["a"].condition.until == NOW + HOUR


def test_a_limit_is_told_again_when_it_comes_to_last_longer() -> None:
    changes = Changes()
    pool = ready_pool("a", changes=changes)

    limit(pool, "a", NOW + 10)
    limit(pool, "a", NOW + HOUR)

    assert pool.identities["a"].condition.until == NOW + HOUR
    assert changes == [("a", Status.LIMITED)] * 2


def test_a_familys_limit_counts_for_that_family_only() -> None:
    pool = ready_pool("a", "b")
    pool.learn_family("gpt-spark", "codex_spark")
    assert chosen(pool, "s") == "a"

    limit(pool, "a", NOW + HOUR, family="codex_spark")

    assert pool.identities["a"].status is Status.READY
    assert chosen(pool, "s", model="gpt-6") == "a"
    assert chosen(pool, "s", model="gpt-spark") == "b"
    # the session itself has not moved, and what was set aside stays where it is
    assert bound(pool, "s") == metadata("a").key
    assert [chosen(pool, "s", model=model) for model in ("gpt-6", "gpt-spark", "")] == ["a", "b", "a"]
    assert chosen(pool, "s", NOW + HOUR, model="gpt-spark") == "a"


def test_which_family_a_model_is_of_is_learned() -> None:
    pool = ready_pool("a")

    assert pool.learn_family("gpt-spark", "codex_spark")
    assert not pool.learn_family("gpt-spark", "codex_spark")
    assert pool.family_of(Asked("s", RESPONSES, model="gpt-spark")) == "codex_spark"
    assert pool.family_of(Asked("s", RESPONSES, model="gpt-6")) == MAIN
    assert not pool.learn_family("", "codex_spark")


def test_too_many_requests_are_a_bounded_rest() -> None:
    """As long as the answer says."""
    for seconds, rest in ((7.0, 7.0), (1e9, LONGEST_RETRY_AFTER), (0.0, 0.1), (None, 2.0)):
        pool = ready_pool("a")
        pool.states.throttled("a", evidence(pool.identities["a"], NOW), seconds)

        assert pool.identities["a"].status is Status.RESTING
        assert pool.identities["a"].condition.until == pytest.approx(NOW + rest)


def test_a_closed_workspace_is_a_pause_that_a_person_ends() -> None:
    pool = ready_pool("a", "b")

    pool.states.workspace_closed("a", evidence(pool.identities["a"], NOW, 402, "deactivated_workspace"))

    assert chosen(pool, "s", NOW + 1e6) == "b"
    assert "a: paused (402 deactivated_workspace" in no_identity(pool, Asked("s", RESPONSES), NOW).message
    pool.resumed("a", pool.identities["a"].fingerprint, NOW + 5)
    assert pool.identities["a"].status is Status.READY


def test_a_person_ends_a_limit_too() -> None:
    pool = ready_pool("a")
    limit(pool, "a", NOW + HOUR)

    pool.resumed("a", pool.identities["a"].fingerprint, NOW + 5)

    assert chosen(pool, "s", NOW + 5) == "a"


def test_backend_trouble_diverts_new_sessions_only() -> None:
    pool = ready_pool("a", "b")
    assert chosen(pool, "s") == "a"

    for _ in range(TROUBLES):
        pool.troubled("a", NOW)

    assert chosen(pool, "new") == "b"
    assert chosen(pool, "s") == "a"
    assert chosen(pool, "later", NOW + 100) == "a"
    pool.troubled("a", NOW)
    pool.succeeded("a", NOW, True)
    assert chosen(pool, "now") == "a"


# -- sessions


def test_a_sub_agent_follows_its_parent() -> None:
    pool = ready_pool("a", "b", "c", selection=Selection.ROUND_ROBIN)
    owner = chosen(pool, "parent")

    assert {chosen(pool, f"child-{n}", parent="parent") for n in range(5)} == {owner}
    # an agent whose parent is not known is a session like any other
    assert chosen(pool, "orphan", parent="nobody") is not None


def test_a_sub_agent_follows_its_parent_only_when_it_must() -> None:
    pool = ready_pool("a", "b", "c")
    assert (chosen(pool, "parent"), chosen(pool, "child", parent="parent")) == ("a", "a")
    pool.sessions.bind("parent", metadata("c").key)

    assert chosen(pool, "child", parent="parent") == "a"


def test_moves_are_counted_and_no_session_goes_back() -> None:
    pool = ready_pool("a", "b", "c")
    assert chosen(pool, "s") == "a"
    at = NOW
    for _ in range(3):
        at += 10
        name = next(i.name for i in pool.identities.values() if i.metadata and i.metadata.key == bound(pool, "s"))
        limit(pool, name, at + 15, at)
        assert chosen(pool, "s", at) not in (None, name)

    session = pool.sessions.get("s")
    assert session is not None
    assert session.moves == 3
    # All are back, and it stays.
    assert {chosen(pool, "s", at + 1000 + n) for n in range(10)} == {chosen(pool, "s", at + 1000)}
    assert session.moves == 3


def test_a_session_moves_within_its_workspace_if_possible() -> None:
    pool = ready_pool("a", "b")
    vouch_as(pool, "c", "account-a", "user-c")
    assert chosen(pool, "s") == "a"

    limit(pool, "a", NOW + HOUR)

    assert chosen(pool, "s") == "c"
    assert chosen(pool, "new") == "b"  # for a new one the file's order counts
    limit_of(pool, "c", NOW + HOUR)
    assert chosen(pool, "s") == "b"


def vouch_as(pool: Pool, name: str, account: str, user: str) -> None:
    """Add an identity of this account and user to a pool."""
    pool.replace_identities([*pool.identities.values(), unverified(name)], pool.selection, NOW)
    identity = pool.identities[name]
    known = replace(metadata(name), account_id=account, user_id=user)
    pool.states.recall(name, identity.fingerprint, known, NOW)


def limit_of(pool: Pool, name: str, until: float) -> None:
    identity = pool.identities[name]
    assert identity.metadata is not None
    pool.states.limited(name, identity.metadata.key, Limit(MAIN, until), evidence(identity, NOW))


def test_an_excluded_endpoint_does_not_move_a_session() -> None:
    pool = ready_pool("a")
    pool.replace_identities([*pool.identities.values(), unverified("login", kind=Kind.OAUTH)], pool.selection, NOW)
    vouch(pool, "login", NOW - 1)
    assert chosen(pool, "s") == "a"
    not_for_endpoint(pool, "a", MODELS)

    assert chosen(pool, "s", path=MODELS) == "login"
    assert [chosen(pool, "s", path=path) for path in (RESPONSES, MODELS)] == ["a", "login"]
    assert bound(pool, "s") == metadata("a").key


# -- headroom


def test_new_sessions_go_where_most_is_left() -> None:
    pool = ready_pool("a", "b", selection=Selection.HEADROOM)
    for name, used in (("a", 80.0), ("b", 20.0)):
        pool.states.usage(metadata(name).key).see(Window(MAIN, 300, used, NOW + 4 * HOUR, NOW))
        pool.saw_usage(metadata(name).key)

    served = [chosen(pool, f"s{n}") for n in range(10)]

    assert served.count("b") > served.count("a") > 0


@pytest.mark.parametrize("selection", [Selection.ROUND_ROBIN, Selection.HEADROOM])
def test_an_identity_serves_again_as_soon_as_its_window_is_reset(selection: Selection) -> None:
    """Its account was not limited as a whole: only the limit of one model was known."""
    pool = ready_pool("a", "b", selection=selection)
    pool.states.usage(metadata("a").key).see(Window(MAIN, 300, 100.0, NOW + 6, NOW))
    pool.saw_usage(metadata("a").key)

    before = {chosen(pool, f"before-{n}") for n in range(4)}
    after = {chosen(pool, f"after-{n}", at=NOW + 7) for n in range(4)}

    assert before == {"b"}
    assert "a" in after


@settings(max_examples=60)
@given(
    selection=st.sampled_from(Selection),
    used=st.lists(st.tuples(st.floats(0, 110), st.floats(-HOUR, 5 * HOUR)), min_size=2, max_size=6),
    steps=st.lists(
        st.tuples(st.sampled_from(["new", "limit", "usage", "wait", "rest"]), st.integers(0, 5)), max_size=25
    ),
)
def test_the_ranking_agrees_with_a_full_scan(
    selection: Selection, used: list[tuple[float, float]], steps: list[tuple[str, int]]
) -> None:
    names = [f"i{n}" for n in range(len(used))]
    pool, at = ready_pool(*names, selection=selection), NOW
    for name, (percent, resets_in) in zip(names, used, strict=True):
        pool.states.usage(metadata(name).key).see(Window(MAIN, 300, percent, NOW + resets_in, NOW))
        pool.saw_usage(metadata(name).key)
    for number, (step, index) in enumerate(steps):
        name = names[index % len(names)]
        match step:
            case "limit":
                limit(pool, name, at + 40, at)
            case "rest":
                pool.states.throttled(name, evidence(pool.identities[name], at), 25)
            case "usage":
                pool.states.usage(metadata(name).key).see(Window(MAIN, 300, index * 20.0, at + HOUR, at))
                pool.saw_usage(metadata(name).key)
            case "wait":
                at += LASTS + 1  # headroom and load change with time alone
            case _:
                ready = [i for i in pool.identities.values() if pool._is_ready(i, at)]
                best = min(ready, key=lambda i: pool._rank(i, at, MAIN), default=None)
                assert chosen(pool, f"s{number}", at) == (best.name if best is not None else None)


def test_a_new_token_does_not_make_an_identity_look_unused() -> None:
    pool = ready_pool("a", "b", "c", selection=Selection.HEADROOM)
    for number in range(90):
        chosen(pool, f"s{number}")
    pool.replace_identities(
        [unverified("a", "at-test-new"), *list(pool.identities.values())[1:]], Selection.HEADROOM, NOW
    )
    vouch(pool, "a", NOW)

    served = [chosen(pool, f"t{number}") for number in range(90)]

    assert all(25 <= served.count(name) <= 35 for name in "abc")


# -- recovery


def test_a_limited_request_goes_on_under_the_next_identity() -> None:
    pool = ready_pool("a", "b")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    first = next(steps)
    assert isinstance(first, Try)
    limit(pool, "a", NOW + HOUR)

    second = steps.send(LIMITED)

    assert isinstance(second, Try)
    assert second.identity.name == "b"
    with pytest.raises(StopIteration) as end:
        steps.send(GOOD)
    assert end.value.value == Relay()


def test_with_all_limited_the_first_return_is_known() -> None:
    pool = ready_pool("a", "b")
    limit(pool, "a", NOW + 2 * HOUR)
    limit(pool, "b", NOW + HOUR)

    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    assert isinstance(next(steps), Look)
    with pytest.raises(StopIteration) as end:
        steps.send(None)

    assert end.value.value == NobodyServes()
    why = no_identity(pool, Asked("s", RESPONSES), NOW)
    assert why.returns_at == NOW + HOUR
    assert why.summary == "codexpool: all 2 identities are at their limit"


def test_identities_that_need_a_person_are_named_too() -> None:
    pool = ready_pool("a", "b")
    limit(pool, "a", NOW + HOUR)
    refuse(pool, "b", NOW, NOW)
    condemn(pool, "b", NOW)

    why = no_identity(pool, Asked("s", RESPONSES), NOW)

    assert why.summary == "codexpool: 1 of 2 identities are at their limit; b (replace its PAT)"
    assert why.returns_at == NOW + HOUR


def test_a_short_rest_of_the_only_identity_is_waited_for() -> None:
    pool, clock = ready_pool("a"), [NOW]
    steps = attempts(pool, Asked("s", RESPONSES), lambda: clock[0], lambda: clock[0])
    assert isinstance(next(steps), Try)
    pool.states.throttled("a", evidence(pool.identities["a"], NOW), 3.0)

    assert isinstance(steps.send(THROTTLED), Wait)
    clock[0] += 3.0
    assert isinstance(steps.send(None), Try)
    # but not for ever
    pool.states.throttled("a", evidence(pool.identities["a"], clock[0]), 3.0)
    with pytest.raises(StopIteration) as end:
        steps.send(THROTTLED)
    assert end.value.value == NobodyServes()


def test_after_backend_trouble_a_request_is_retried_once() -> None:
    pool = ready_pool("a", "b")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    first = next(steps)
    assert isinstance(first, Try)

    assert steps.send(TROUBLE) == Pause(BEFORE_AGAIN)
    assert steps.send(None) == first
    with pytest.raises(StopIteration) as end:
        steps.send(TROUBLE)
    assert end.value.value == Relay()


def test_encrypted_reasoning_is_left_out_once() -> None:
    """Under the same identity; then it is relayed."""
    pool = ready_pool("a", "b")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    first = next(steps)
    assert isinstance(first, Try)

    assert steps.send(NOT_PORTABLE) == Try(first.identity, lighter=True)
    with pytest.raises(StopIteration) as end:
        steps.send(NOT_PORTABLE)
    assert end.value.value == Relay()


def test_a_host_behind_a_refusing_edge_is_asked_slowly() -> None:
    pool, clock = ready_pool("a", "b"), [NOW]
    pause = pool.edges.turned_away("https://chatgpt.com", NOW)
    steps = attempts(pool, Asked("s", RESPONSES), lambda: clock[0], lambda: clock[0])

    assert next(steps) == Pause(pause)
    clock[0] += pause
    assert isinstance(steps.send(None), Try)
    assert statuses(pool) == {"a": Status.READY, "b": Status.READY}
    # one page more makes it slower, and an answer of the backend ends that
    assert pool.edges.turned_away("https://chatgpt.com", clock[0]) == 2 * pause
    pool.succeeded("a", clock[0], True)
    assert pool.edge_pause(pool.identities["a"], clock[0]) == 0


# -- the breaker


def cascade(pool: Pool, clock: list[float], asked: dict[str, int], session: str) -> object:
    """One request while every token is dead: each is refused, and whoami says so at once."""
    steps = attempts(pool, Asked(session, RESPONSES), lambda: clock[0], lambda: clock[0])
    verdict: Verdict | None = None
    while True:
        try:
            step = steps.send(verdict)
        except StopIteration as end:
            return end.value
        if isinstance(step, Try):
            name = step.identity.name
            asked[name] = asked.get(name, 0) + 1
            refuse(pool, name, clock[0], clock[0])
            condemn(pool, name, clock[0])
            verdict = classify(Answer(401, code="token_revoked"))
        else:
            assert isinstance(step, Wait)
            clock[0] += min(step.seconds, max(0.01, (pool.next_return(clock[0]) or 1e12) - clock[0]))
            verdict = None


def test_a_cascade_costs_an_identity_one_call_at_most() -> None:
    pool, clock = ready_pool(*(f"i{n}" for n in range(50))), [NOW]
    asked: dict[str, int] = {}

    outcomes = [cascade(pool, clock, asked, f"s{number}") for number in range(20)]

    assert set(outcomes) == {NobodyServes()}
    assert set(asked.values()) == {1}
    assert len(asked) < 15  # three at once, and then one for each pause, which doubles


def test_a_served_session_goes_on_and_closes_the_breaker() -> None:
    pool = ready_pool(*"abcdef")
    assert [chosen(pool, f"of-{name}") for name in "a"] == ["a"]
    pool.sessions.bind("of-f", metadata("f").key)
    for name in "abc":
        refuse(pool, name, NOW, NOW)
        condemn(pool, name, NOW)

    assert chosen(pool, "of-a", NOW + 1) is None  # it would have to move
    assert chosen(pool, "new", NOW + 1) is None
    assert chosen(pool, "of-f", NOW + 1) == "f"
    assert "not tried" in no_identity(pool, Asked("of-a", RESPONSES), NOW + 1).message
    assert pool.succeeded("f", NOW + 1, True)
    assert chosen(pool, "of-a", NOW + 2) == "d"


def test_a_request_waits_for_its_turn_to_find_out() -> None:
    pool, clock = ready_pool(*"abcdef"), [NOW]
    for name in "abc":
        refuse(pool, name, NOW, NOW)
        condemn(pool, name, NOW)
    steps = attempts(pool, Asked("s", RESPONSES), lambda: clock[0], lambda: clock[0])

    assert isinstance(next(steps), Wait)
    assert pool.next_return(NOW) == NOW + FIRST_PAUSE
    clock[0] += FIRST_PAUSE
    assert isinstance(steps.send(None), Try)


def test_a_new_token_for_one_it_was_opened_on_closes_the_breaker() -> None:
    pool = ready_pool(*"abcd")
    for name in "abc":
        refuse(pool, name, NOW, NOW)
        condemn(pool, name, NOW)

    pool.replace_identities(
        [unverified("a", "at-test-brought-by-a-person"), *list(pool.identities.values())[1:]], pool.selection, NOW
    )
    vouch(pool, "a", NOW + 1)

    assert chosen(pool, "s", NOW + 1) == "a"


@pytest.mark.parametrize("before", [Status.UNVERIFIED, Status.READY, Status.SUSPECT, Status.RESTING])
def test_a_final_refusal_counts_from_any_status(before: Status) -> None:
    pool = ready_pool("good", "x", "y", "z")
    for name in ("x", "y", "z"):
        pool.states.condition_learned(name, pool.identities[name].fingerprint, Condition(before, NOW))
        condemn(pool, name, NOW)

    assert pool.states.breaker.names == ("x", "y", "z")
    assert chosen(pool, "s", NOW + 1) is None
    assert chosen(pool, "s", NOW + FIRST_PAUSE) == "good"


def test_a_condition_learned_from_others_does_not_count() -> None:
    pool = ready_pool("good", "x", "y", "z")
    for name in ("x", "y", "z"):
        flagged = Condition(Status.NEEDS_REPLACEMENT, NOW)
        pool.states.condition_learned(name, pool.identities[name].fingerprint, flagged)

    assert chosen(pool, "s") == "good"


# -- clock


@given(st.floats(-1e7, 1e7))
def test_a_clock_that_jumps_locks_nobody_out(jump: float) -> None:
    pool = ready_pool("a")
    limit(pool, "a", NOW + HOUR)
    at = NOW + jump

    serves = chosen(pool, "s", at) == "a"

    # what is further off than any limit can be is none
    assert serves == (not jump < HOUR <= jump + LONGEST_LIMIT)


def test_condition_of_another_source_is_a_limit_as_any_other() -> None:
    pool = ready_pool("a")
    condition = Condition(Status.LIMITED, NOW, NOW + HOUR)

    pool.states.condition_learned("a", pool.identities["a"].fingerprint, condition)

    assert chosen(pool, "s", NOW + 1) is None
    assert chosen(pool, "s", NOW + HOUR) == "a"
