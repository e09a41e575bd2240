"""What other proxies and people write is taken into the pool, and nothing strange does harm."""

from __future__ import annotations

import json
import time

import pytest

from codexpool.pool.breaker import Opening
from codexpool.pool.identity import Asked, Condition, Evidence, Status
from codexpool.pool.pins import Pin
from codexpool.pool.pool import Pool
from codexpool.pool.usage import MAIN, Limit, Usage, Window
from codexpool.state import Note, Snapshot
from codexpool.state.notes import BREAKER, FAMILIES, NOT_FOR, PINNED, RESUMED, USAGE, pin_name
from codexpool.upkeep.news import apply
from tests.pool.pools import RESPONSES, metadata, ready_pool, statuses

POOL = "/p/pool.toml"
HOUR = 3600.0


def fingerprint(pool: Pool, name: str) -> str:
    return pool.identities[name].fingerprint


def test_a_limit_that_another_proxy_has_met_holds_here() -> None:
    pool, now = ready_pool("a", "b"), time.time()
    limited = Condition(Status.LIMITED, now, now + HOUR)

    apply(pool, Snapshot(conditions={fingerprint(pool, "a"): limited}), POOL)

    assert pool.identities["a"].condition == limited
    assert pool.identities["b"].status is Status.READY


@pytest.mark.parametrize("status", [Status.READY, Status.SUSPECT, Status.RESTING, Status.NEEDS_REPLACEMENT])
def test_what_each_proxy_finds_out_for_itself_is_not_taken_over(status: Status) -> None:
    pool = ready_pool("a")

    apply(pool, Snapshot(conditions={fingerprint(pool, "a"): Condition(status, time.time(), None)}), POOL)

    assert pool.identities["a"].status is Status.READY


def test_a_closed_workspace_is_applied() -> None:
    """An operator's pause in another pool.toml is not."""
    pool, now = ready_pool("a", "b"), time.time()
    closed = Condition(Status.PAUSED, now, evidence=Evidence(now, status=402, code="deactivated_workspace"))
    paused = Condition(Status.PAUSED, now, evidence=Evidence(now, note="paused in pool.toml"))

    apply(pool, Snapshot(conditions={fingerprint(pool, "a"): closed, fingerprint(pool, "b"): paused}), POOL)

    assert (pool.identities["a"].status, pool.identities["b"].status) == (Status.PAUSED, Status.READY)


def test_a_person_who_resumes_an_identity_is_heard() -> None:
    pool, now = ready_pool("a"), time.time()
    evidence = Evidence(now, status=429, fingerprint=fingerprint(pool, "a"))
    pool.states.limited("a", metadata("a").key, Limit(MAIN, now + HOUR), evidence)
    assert statuses(pool) == {"a": Status.LIMITED}

    apply(pool, Snapshot(notes={(RESUMED, fingerprint(pool, "a")): {"at": now}}), POOL)

    assert statuses(pool) == {"a": Status.READY}
    assert pool.states.usage(metadata("a").key).limited == {}


def test_families_of_models_are_known_after_a_restart() -> None:
    pool = ready_pool("a")

    apply(pool, Snapshot(notes={(FAMILIES, ""): {"gpt-spark": "codex_spark"}}), POOL)

    assert pool.families == {"gpt-spark": "codex_spark"}


def test_usage_of_elsewhere_is_known_here() -> None:
    pool, now, usage = ready_pool("a", "b"), time.time(), Usage()
    usage.see(Window(MAIN, 300, 80.0, now + HOUR, now))
    note = json.loads(json.dumps(usage.document()))

    apply(pool, Snapshot(notes={(USAGE, json.dumps(metadata("a").key)): note}), POOL)

    assert pool.states.usage(metadata("a").key).windows == usage.windows


def test_the_breaker_of_this_pool_is_opened_and_closed_elsewhere() -> None:
    pool, now = ready_pool("a"), time.time()
    opened = {"opened_at": now, "until": now + 60, "names": ["x", "y"]}

    apply(pool, Snapshot(notes={(BREAKER, "/other/pool.toml"): opened}), POOL)
    assert pool.states.breaker.state(now) is Opening.CLOSED
    apply(pool, Snapshot(notes={(BREAKER, POOL): opened}), POOL)
    states = [pool.states.breaker.state(now)]
    closed: dict[str, object] = {"opened_at": None, "until": 0.0, "names": []}
    apply(pool, Snapshot(notes={(BREAKER, POOL): closed}), POOL)
    states.append(pool.states.breaker.state(now))
    assert states == [Opening.OPEN, Opening.CLOSED]
    # one from a time that is still to come is none
    apply(pool, Snapshot(notes={(BREAKER, POOL): {**opened, "opened_at": now + 1000, "until": now + 2000}}), POOL)
    assert pool.states.breaker.opened_at is None


def test_pins_are_taken_over_and_ended_for_this_pool_only() -> None:
    pool, elsewhere = ready_pool("a", "b"), "/elsewhere/pool.toml"
    pins = {
        (PINNED, pin_name(POOL, "s#1")): {"identity": "b", "at": 5, "was": "a"},
        (PINNED, pin_name(elsewhere, "t")): {"identity": "b", "at": 6},
    }

    apply(pool, Snapshot(notes=dict(pins)), POOL)
    assert [pool.pins.of("s#1"), pool.pins.of("t")] == [Pin("b", 5.0, was="a"), None]

    apply(pool, Snapshot(notes={(PINNED, pin_name(POOL, "s#1")): {}}), POOL)
    assert pool.pins.of("s#1") is None


STRANGE = [[], 3, {"windows": [[1]]}, {"windows": 3}, {"opened_at": 1, "until": "x"}, {"limited": []}]


@pytest.mark.parametrize("note", STRANGE)
@pytest.mark.parametrize("kind", [USAGE, BREAKER, PINNED, "of a newer version"])
def test_a_note_that_is_strange_does_no_harm(note: object, kind: str) -> None:
    pool = ready_pool("a")
    for name in (json.dumps(metadata("a").key), POOL, pin_name(POOL, "s"), "no json"):
        apply(pool, Snapshot(notes={(kind, name): note}), POOL)  # type: ignore[dict-item]

    assert pool.identities["a"].status is Status.READY


ODD: list[object] = ["50", None, [], {}, True, float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:9])
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_window_that_is_strange_stops_no_request(odd: object, place: int) -> None:
    """Each choice of an identity calculates with the windows."""
    pool, now = ready_pool("a", "b"), time.time()
    row: list[object] = [MAIN, 300, 50.0, now + HOUR, now - 1]
    row[place] = odd
    note = {"windows": [row], "limited": {}, "said_at": {}}

    apply(pool, Snapshot(notes={(USAGE, json.dumps(metadata("a").key)): note}), POOL)

    assert pool.choose(Asked("s", RESPONSES), now) is not None


def test_a_number_too_large_for_a_float_ends_no_reading_of_the_state() -> None:
    pool = ready_pool("a")

    apply(pool, Snapshot(notes={(PINNED, pin_name(POOL, "s")): {"identity": "a", "at": 10**400}}), POOL)

    assert not pool.pins


def dead(pool: Pool, name: str, at: float) -> Condition:
    """Whoami has refused an identity's token, as another proxy says."""
    evidence = Evidence(at, status=401, fingerprint=fingerprint(pool, name), whoami="refused")
    return Condition(Status.NEEDS_REPLACEMENT, at, evidence=evidence)


def test_a_token_that_died_elsewhere_is_dead_here() -> None:
    pool, now = ready_pool("a", "b"), time.time()

    applied = apply(pool, Snapshot(conditions={fingerprint(pool, "a"): dead(pool, "a", now)}), POOL)

    assert statuses(pool) == {"a": Status.NEEDS_REPLACEMENT, "b": Status.READY}
    assert not applied.doubted


def test_a_token_that_served_since_it_was_called_dead_is_verified() -> None:
    pool, now = ready_pool("a"), time.time()
    pool.succeeded("a", now - 1, is_turn=True)

    applied = apply(pool, Snapshot(conditions={fingerprint(pool, "a"): dead(pool, "a", now - 2)}), POOL)

    assert statuses(pool) == {"a": Status.READY}
    assert [identity.name for identity in applied.doubted] == ["a"]


def test_a_dead_token_that_is_vouched_for_elsewhere_is_verified() -> None:
    pool, now = ready_pool("a"), time.time()
    token = fingerprint(pool, "a")
    apply(pool, Snapshot(conditions={token: dead(pool, "a", now - 2)}), POOL)

    assert not apply(pool, Snapshot(dropped={token: now - 3}), POOL).doubted
    assert [i.name for i in apply(pool, Snapshot(dropped={token: now - 1}), POOL).doubted] == ["a"]


def test_deaths_found_by_several_proxies_open_the_breaker() -> None:
    """None of them has seen enough by itself. Deaths of long ago do not count."""
    long_ago, pool, now = ready_pool(*"abcde"), ready_pool(*"abcde"), time.time()
    for name in "abc":
        apply(long_ago, Snapshot(conditions={fingerprint(pool, name): dead(pool, name, now - 600)}), POOL)
    for name in "abc":
        assert pool.states.breaker.opened_at is None
        apply(pool, Snapshot(conditions={fingerprint(pool, name): dead(pool, name, now)}), POOL)

    assert pool.states.breaker.state(now + 1) is Opening.OPEN
    assert long_ago.states.breaker.opened_at is None


def test_a_resumption_is_applied_once() -> None:
    """It comes again, with all the rest, whenever the state is read as a whole."""
    pool, now = ready_pool("a"), time.time()
    resumed = Snapshot(notes={(RESUMED, fingerprint(pool, "a")): {"at": now - 5}})
    apply(pool, resumed, POOL)
    evidence = Evidence(now, status=429, fingerprint=fingerprint(pool, "a"))
    pool.states.limited("a", metadata("a").key, Limit(MAIN, now + HOUR), evidence)
    pool.not_for_endpoint("a", RESPONSES, evidence)

    apply(pool, resumed, POOL)

    assert statuses(pool) == {"a": Status.LIMITED}
    assert pool.exclusions.of(pool.identities["a"], now)


def test_a_resumption_that_comes_late_ends_only_what_was_before() -> None:
    pool, now = ready_pool("a", "b"), time.time()
    for name, at in (("a", now - 10), ("b", now)):
        closed = Evidence(at, status=402, code="deactivated_workspace", fingerprint=fingerprint(pool, name))
        pool.states.workspace_closed(name, closed)

    apply(pool, Snapshot(notes={(RESUMED, fingerprint(pool, name)): {"at": now - 5} for name in "ab"}), POOL)

    assert statuses(pool) == {"a": Status.READY, "b": Status.PAUSED}


def test_an_exclusion_that_a_person_has_ended_does_not_come_back() -> None:
    pool, now = ready_pool("a"), time.time()
    pool.not_for_endpoint("a", RESPONSES, Evidence(now - 10, status=401, fingerprint=fingerprint(pool, "a")))
    not_for: Note = pool.exclusions.document(fingerprint(pool, "a"))
    apply(pool, Snapshot(notes={(RESUMED, fingerprint(pool, "a")): {"at": now - 5}}), POOL)

    apply(pool, Snapshot(notes={(NOT_FOR, fingerprint(pool, "a")): not_for}), POOL)

    assert not pool.exclusions.of(pool.identities["a"], now)


def test_an_exclusion_that_is_over_here_is_taken_over_again() -> None:
    pool, now = ready_pool("a"), time.time()
    token = fingerprint(pool, "a")
    pool.not_for_endpoint("a", RESPONSES, Evidence(now - 60, status=401, fingerprint=token), until=now - 30)
    other = ready_pool("a")
    other.not_for_endpoint("a", RESPONSES, Evidence(now - 10, status=401, fingerprint=token))

    apply(pool, Snapshot(notes={(NOT_FOR, token): other.exclusions.document(token)}), POOL)

    assert pool.exclusions.of(pool.identities["a"], now)


def test_a_breaker_that_opened_since_is_not_closed_by_old_news() -> None:
    pool, now, states = ready_pool("a"), time.time(), []
    apply(pool, Snapshot(notes={(BREAKER, POOL): {"opened_at": now - 1, "until": now + 60, "names": ["x"]}}), POOL)

    for at in (now - 2, now):
        apply(pool, Snapshot(notes={(BREAKER, POOL): {"opened_at": None, "at": at}}), POOL)
        states.append(pool.states.breaker.state(now))

    assert states == [Opening.OPEN, Opening.CLOSED]
