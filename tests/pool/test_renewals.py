"""Credentials of which another token may be had: what becomes of their identities, and of requests meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.causes import Cause
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, Kind, Status
from codexpool.pool.needs import expiry
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import MOST_RENEWALS, NobodyServes, Relay, Renew, Try, Wait, attempts
from codexpool.pool.states import JUST_ISSUED, LONGEST_REST, RENEWED_AGAIN, SHORT_REST
from codexpool.pool.verdict import Answer, Verdict, classify
from tests.pool.pools import (
    NOW,
    RESPONSES,
    Changes,
    bound,
    metadata,
    pool_of,
    refusal,
    refuse,
    statuses,
    unverified,
    vouch,
)

GOOD = classify(Answer(200))
DAY = 86_400.0
RENEWABLE = pytest.mark.parametrize("kind", [Kind.OAUTH, Kind.COMMAND])


def a_pool(kind: Kind, *pats: str, changes: Changes | None = None) -> Pool:
    """ "login" of that kind, and these PATs after it, all ready."""
    pool = pool_of(unverified("login", kind=kind), *map(unverified, pats), changes=changes)
    for name in pool.identities:
        vouch(pool, name, NOW - 1)
    if changes is not None:
        changes.clear()
    return pool


def renew(pool: Pool, token: str, at: float = NOW, issued: bool = True) -> None:
    pool.states.renewed("login", pool.identities["login"].fingerprint, token, at, issued)


def refused(kind: Kind, current: bool = True) -> Verdict:
    return classify(Answer(401, code="token_expired", kind=kind, current=current))


@RENEWABLE
def test_a_refused_token_is_renewed_and_sent_again(kind: Kind) -> None:
    pool = a_pool(kind, "a")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    assert isinstance(step := next(steps), Try)
    assert step.identity.name == "login"
    refuse(pool, "login", NOW, NOW)

    assert steps.send(refused(kind)) == Renew(pool.identities["login"], PATIENCE)
    renew(pool, "new")
    step = steps.send(None)

    assert isinstance(step, Try)
    assert (step.identity.name, step.identity.fingerprint) == ("login", "new")
    with pytest.raises(StopIteration) as end:
        steps.send(GOOD)
    assert end.value.value == Relay()


@RENEWABLE
def test_renewals_are_bounded_for_a_client_always_refused(kind: Kind) -> None:
    changes = Changes()
    pool = pool_of(*(unverified(name, kind=kind) for name in "abcd"), changes=changes)
    for name in pool.identities:
        vouch(pool, name, NOW - 1)
    wanted = changes.doubted
    cause = Cause.of(Asked("odd", RESPONSES), "401")

    for second in range(60):
        at = NOW + second
        for identity in pool.identities.values():
            pool.can_serve(Asked(None, RESPONSES), at)  # Rests that are over end.
            before = len(wanted)
            pool.states.refused(identity.name, refusal(identity, at), at, cause)
            if identity.status is Status.SUSPECT:
                wanted.append(identity.name)
            if len(wanted) > before:
                pool.states.renewed(identity.name, identity.fingerprint, f"{identity.name} {second}", at, True)
            pool.succeeded(identity.name, at, True)  # Another client is served.

    assert {name: wanted.count(name) <= 60 / RENEWED_AGAIN for name in "abcd"} == dict.fromkeys("abcd", True)


@RENEWABLE
def test_where_there_is_no_other_token_the_next_identity_is_next(kind: Kind) -> None:
    pool = a_pool(kind, "a")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    next(steps)
    refuse(pool, "login", NOW, NOW)
    steps.send(refused(kind))
    pool.states.unrenewed("login", pool.identities["login"].fingerprint, Evidence(NOW, note="no"), NOW, until=None)

    step = steps.send(None)

    assert isinstance(step, Try)
    assert step.identity.name == "a"
    assert bound(pool, "s") == metadata("a").key


@RENEWABLE
def test_a_session_waits_for_its_identitys_renewal(kind: Kind) -> None:
    pool = a_pool(kind, "a")
    pool.choose(Asked("s", RESPONSES), NOW)
    refuse(pool, "login", NOW, NOW)

    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    assert next(steps) == Renew(pool.identities["login"], PATIENCE)
    renew(pool, "new")
    step = steps.send(None)

    assert isinstance(step, Try)
    assert step.identity.name == "login"
    # a new session does not
    refuse(pool, "login", NOW + JUST_ISSUED, NOW + JUST_ISSUED)
    assert isinstance(other := next(attempts(pool, Asked("new", RESPONSES), lambda: NOW + 1, lambda: NOW + 1)), Try)
    assert other.identity.name == "a"


@RENEWABLE
def test_a_failing_renewal_is_not_waited_for_for_ever(kind: Kind) -> None:
    pool = a_pool(kind)
    at = [NOW]
    steps = attempts(pool, Asked("s", RESPONSES), lambda: at[0], lambda: at[0])
    next(steps)
    refuse(pool, "login", NOW, NOW)
    step: object = steps.send(refused(kind))
    taken: list[object] = []
    outcome = None
    while outcome is None:
        taken.append(step)
        at[0] += step.seconds if isinstance(step, Wait) else 0.1
        try:
            step = steps.send(None)
        except StopIteration as end:
            outcome = end.value
    assert outcome == NobodyServes()
    assert sum(isinstance(step, Renew) for step in taken) <= MOST_RENEWALS


@RENEWABLE
def test_a_slow_renewal_is_waited_for_within_patience(kind: Kind) -> None:
    pool = a_pool(kind, "a")
    at = [NOW]
    steps = attempts(pool, Asked("s", RESPONSES), lambda: at[0], lambda: at[0])
    next(steps)
    refuse(pool, "login", NOW, NOW)
    step = steps.send(refused(kind))
    assert isinstance(step, Renew)
    at[0] += step.seconds

    step = steps.send(None)

    assert at[0] == NOW + PATIENCE
    assert isinstance(step, Try)
    assert step.identity.name == "a"


@RENEWABLE
def test_a_token_just_issued_rests_when_refused(kind: Kind) -> None:
    pool = a_pool(kind)
    refuse(pool, "login", NOW, NOW)
    renew(pool, "new")

    refuse(pool, "login", NOW + 1, NOW + 1)
    assert pool.identities["login"].condition.until == NOW + 1 + SHORT_REST
    assert pool.can_serve(Asked(None, RESPONSES), NOW + 5)
    refuse(pool, "login", NOW + 5, NOW + 5)
    assert pool.identities["login"].condition.until == NOW + 5 + 2 * SHORT_REST

    # a good answer, or some time, and it is renewed again
    assert pool.can_serve(Asked(None, RESPONSES), NOW + 60)
    pool.succeeded("login", NOW, True)
    refuse(pool, "login", NOW + 60, NOW + 60)
    assert statuses(pool) == {"login": Status.SUSPECT}


def test_a_token_found_on_disk_is_renewed_when_refused() -> None:
    pool = a_pool(Kind.OAUTH)
    refuse(pool, "login", NOW, NOW)
    renew(pool, "found", issued=False)
    refuse(pool, "login", NOW + 1, NOW + 1)
    assert statuses(pool) == {"login": Status.SUSPECT}


@RENEWABLE
def test_a_refusal_of_an_older_token_costs_the_newer_one_nothing(kind: Kind) -> None:
    pool = a_pool(kind)
    old = pool.identities["login"].fingerprint
    refuse(pool, "login", NOW, NOW)
    renew(pool, "new")

    pool.states.refused("login", Evidence(NOW + 1, fingerprint=old), NOW - 1)
    pool.states.unrenewed("login", old, Evidence(NOW + 1), NOW + 1, until=None)
    pool.states.renewed("login", old, "newer", NOW + 1, True)
    pool.states.condition_learned("login", old, Condition(Status.NEEDS_LOGIN, NOW))

    assert statuses(pool) == {"login": Status.READY}
    assert pool.identities["login"].fingerprint == "new"


def test_a_stale_refusal_is_resent_with_the_new_token() -> None:
    pool = a_pool(Kind.OAUTH, "a")
    steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: NOW)
    next(steps)
    refuse(pool, "login", NOW, NOW)  # another request's refusal
    renew(pool, "new")

    step = steps.send(refused(Kind.OAUTH, current=False))

    assert isinstance(step, Try)
    assert (step.identity.name, step.identity.fingerprint) == ("login", "new")


def test_a_refused_token_waits_for_the_command() -> None:
    """It is not sent again while the command prints no other one."""
    pool = a_pool(Kind.COMMAND)
    refuse(pool, "login", NOW, NOW)
    pool.states.unrenewed(
        "login", pool.identities["login"].fingerprint, Evidence(NOW, note="exit 1"), NOW, until=NOW + 5
    )
    assert not pool.can_serve(Asked(None, RESPONSES), NOW + 60)
    renew(pool, "new")
    assert pool.can_serve(Asked(None, RESPONSES), NOW + 60)


def test_a_first_token_has_yet_to_say_whose_it_is() -> None:
    pool = pool_of(Identity("login", Kind.COMMAND, "", Condition(Status.UNVERIFIED, NOW), unsendable=True))
    pool.states.unrenewed("login", "", Evidence(NOW, note="exit 1"), NOW, until=NOW + 5)
    assert statuses(pool) == {"login": Status.RESTING}
    assert not pool.can_serve(Asked(None, RESPONSES), NOW + 60)
    renew(pool, "first")
    assert statuses(pool) == {"login": Status.UNVERIFIED}
    vouch(pool, "login", NOW + 7)
    assert pool.can_serve(Asked(None, RESPONSES), NOW + 60)


@given(st.lists(st.sampled_from(["refused", "found", "issued", "none", "wait", "good"]), max_size=30))
def test_rests_stay_bounded_whatever_happens(events: list[str]) -> None:
    pool, at = a_pool(Kind.OAUTH), NOW
    for number, event in enumerate(events):
        at += 1
        match event:
            case "refused":
                refuse(pool, "login", at, at)
            case "found" | "issued":
                renew(pool, f"token-{number}", at, event == "issued")
            case "none":
                fingerprint = pool.identities["login"].fingerprint
                pool.states.unrenewed("login", fingerprint, Evidence(at), at, until=None)
            case "wait":
                at += 120
            case _:
                pool.succeeded("login", NOW, True)
        condition = pool.identities["login"].condition
        assert condition.status in (Status.READY, Status.SUSPECT, Status.RESTING)
        assert condition.until is None or condition.until <= at + LONGEST_REST


# -- the operator's word


def paused(pool: Pool, *names: str, at: float = NOW) -> None:
    """pool.toml is read again, with these paused."""
    identities = [
        Identity(i.name, i.kind, i.fingerprint, Condition(Status.UNVERIFIED, at), paused=i.name in names)
        for i in pool.identities.values()
    ]
    pool.replace_identities(identities, pool.selection, at)


@pytest.mark.parametrize("status", [Status.READY, Status.RESTING, Status.LIMITED, Status.SUSPECT])
def test_who_is_paused_serves_nobody_whatever_is_found_out(status: Status) -> None:
    pool = a_pool(Kind.PAT, "a")
    identity = pool.identities["login"]
    pool.states.condition_learned("login", identity.fingerprint, Condition(status, NOW, NOW + 1))

    paused(pool, "login")
    vouch(pool, "login", NOW + 1)
    pool.states.condition_learned("login", identity.fingerprint, Condition(Status.READY, NOW + 2))

    assert statuses(pool)["login"] is Status.PAUSED
    assert pool.identities["login"].condition.evidence == Evidence(NOW + 2, note="paused in pool.toml")
    paused(pool, at=NOW + 3)
    assert statuses(pool)["login"] is Status.READY


def test_a_pause_does_not_hide_that_a_person_is_needed() -> None:
    pool = a_pool(Kind.PAT, "a")
    fingerprint = pool.identities["login"].fingerprint
    pool.states.condition_learned("login", fingerprint, Condition(Status.NEEDS_REPLACEMENT, NOW))
    paused(pool, "login")
    assert statuses(pool)["login"] is Status.NEEDS_REPLACEMENT
    paused(pool)
    assert statuses(pool)["login"] is Status.NEEDS_REPLACEMENT


def test_an_unverified_identity_is_verified_after_its_pause() -> None:
    pool = pool_of(unverified("login"))
    paused(pool, "login")
    assert statuses(pool) == {"login": Status.PAUSED}
    paused(pool)
    assert statuses(pool) == {"login": Status.UNVERIFIED}


def test_the_twin_of_one_who_is_paused_steps_in() -> None:
    pool = pool_of(unverified("a"), unverified("b"))
    for name in ("a", "b"):
        vouch(pool, name, NOW, who="one")
    assert statuses(pool) == {"a": Status.READY, "b": Status.PAUSED}
    paused(pool, "a")
    assert statuses(pool) == {"a": Status.PAUSED, "b": Status.READY}


def expiring(pool: Pool, **ends: float) -> None:
    for name, at in ends.items():
        pool.identities[name].expires_at = at


def test_a_token_expected_to_be_over_is_tried_after_all_others() -> None:
    pool = a_pool(Kind.PAT, "a", "b")
    pool.choose(Asked("s", RESPONSES), NOW)
    assert bound(pool, "s") == metadata("login").key
    expiring(pool, login=NOW, a=NOW + 1)

    assert (chosen := pool.choose(Asked("s", RESPONSES), NOW)) is not None
    assert chosen.name == "a"
    assert (chosen := pool.choose(Asked("t", RESPONSES), NOW + 1)) is not None
    assert chosen.name == "b"

    # No other is left: it is tried all the same, and a session of its own stays
    pool.sessions.bind("mine", metadata("login").key)
    for _ in range(3):
        chosen = pool.choose(Asked("mine", RESPONSES), NOW + 1, without=["b"])
        assert chosen is not None
        assert chosen.name == "login"


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (15.0, ""),
        (14.0, "its token is expected to expire on 2027-01-29, in 14 days"),
        (0.5, "its token is expected to expire on 2027-01-15, in 1 day"),
        (0.0, "its token was expected to expire on 2027-01-15: it is tried after all others"),
        (-3.0, "its token was expected to expire on 2027-01-12: it is tried after all others"),
    ],
)
def test_a_person_is_reminded_from_two_weeks_before(days: float, said: str) -> None:
    assert expiry(NOW + days * DAY, NOW) == said
    assert expiry(None, NOW) == ""
