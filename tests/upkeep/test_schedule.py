"""When accounts are read: jittered, spread, backed off on trouble, and only while they are in use."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexpool.pool.identity import IdentityKey
from codexpool.upkeep.schedule import AT_ONCE, EVERY, FIRST_TROUBLE, JITTER, PACE, Schedule
from tests.pool.pools import NOW

A, B = IdentityKey("acc-a", "user-a"), IdentityKey("acc-b", "user-b")
EARLIEST, LATEST = EVERY * (1 - JITTER), EVERY * (1 + JITTER)


def schedule() -> Schedule:
    return Schedule(random=lambda: 0.5)


def begun(made: Schedule, at: float) -> list[IdentityKey]:
    return made.take(at)


def next_reading(made: Schedule, at: float, until: float = 3 * EVERY) -> float | None:
    """The seconds until something is begun."""
    for seconds in range(int(until)):
        if made.take(at + seconds):
            return float(seconds)
    return None


def test_what_is_wanted_is_read_at_once_and_once() -> None:
    made = schedule()
    made.want(A, NOW)
    made.want(A, NOW)

    assert begun(made, NOW) == [A]
    made.want(A, NOW)  # It is being read.
    made.ended(A, NOW + 1)

    assert next_reading(made, NOW + 1) is None


def test_an_account_in_use_is_read_every_half_hour() -> None:
    made = schedule()
    made.want(A, NOW)
    begun(made, NOW)
    made.used(A, NOW)
    made.ended(A, NOW)

    assert next_reading(made, NOW) == EVERY


def test_a_limited_account_is_read_every_half_hour_although_nobody_can_use_it() -> None:
    made = schedule()
    made.want(A, NOW)
    begun(made, NOW)
    made.ended(A, NOW, is_limited=True)

    assert next_reading(made, NOW) == EVERY


@pytest.mark.parametrize(("used_after", "read_after"), [(60.0, EVERY), (10 * EVERY, 10 * EVERY)])
def test_an_account_that_is_not_in_use_is_read_when_it_is_again(used_after: float, read_after: float) -> None:
    made = schedule()
    made.want(A, NOW)
    begun(made, NOW)
    made.ended(A, NOW)
    assert made.take(NOW + used_after - 1) == []

    assert made.used(A, NOW + used_after)

    assert next_reading(made, NOW + used_after) == read_after - used_after


def test_a_reading_that_fails_is_repeated_with_growing_pauses() -> None:
    made, at, pauses = schedule(), NOW, []
    made.want(A, at)
    for _ in range(7):
        seconds = next_reading(made, at)
        assert seconds is not None
        pauses.append(seconds)
        at += seconds
        made.failed(A, at)

    assert pauses == [0, FIRST_TROUBLE, 120, 240, 480, 960, EVERY]


@pytest.mark.parametrize(("retry_after", "expected"), [(600.0, 600), (1.0, FIRST_TROUBLE), (1e9, EVERY)])
def test_a_retry_after_is_followed_within_reason(retry_after: float, expected: float) -> None:
    made = schedule()
    made.want(A, NOW)
    begun(made, NOW)
    made.failed(A, NOW, retry_after)

    assert next_reading(made, NOW) == expected


def test_users_of_one_account_are_read_one_after_the_other() -> None:
    made = schedule()
    users = [IdentityKey("acc", f"user-{number}") for number in range(3)]
    for key in (*users, A):
        made.want(key, NOW)

    assert begun(made, NOW) == [users[0], A]
    assert begun(made, NOW + 5) == []
    made.ended(users[0], NOW + 5)
    assert len(begun(made, NOW + 6)) == 1


def test_of_those_due_together_the_highest_priority_is_first() -> None:
    made = schedule()
    for key, priority in ((A, 0), (B, 1)):
        made.want(key, NOW, priority)

    assert begun(made, NOW) == [B, A]


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    made = schedule()
    made.want(A, NOW)
    begun(made, NOW)
    made.ended(A, NOW, is_limited=True)

    assert next_reading(made, NOW - 86_400) == EVERY


def test_accounts_that_left_are_forgotten() -> None:
    made = schedule()
    for key in (A, B):
        made.want(key, NOW)

    made.keep({B})

    assert begun(made, NOW) == [B]
    made.failed(A, NOW)
    assert not made.used(A, NOW)


def test_a_thousand_identities_are_read_evenly() -> None:
    """Also when all of them begin at once: no second has more than its share, and all have their turn."""
    made = Schedule(random=random.Random(14).random)
    keys = [IdentityKey(f"acc-{number}", "user") for number in range(1_000)]
    for key in keys:
        made.want(key, NOW)
        made.used(key, NOW)
    answers: dict[int, list[IdentityKey]] = {}
    by_second: Counter[int] = Counter()
    read_at: dict[IdentityKey, list[int]] = {key: [] for key in keys}
    for second in range(3 * int(EVERY)):
        for key in answers.pop(second, []):
            made.used(key, NOW + second)
            made.ended(key, NOW + second)
        for key in made.take(NOW + second):
            by_second[second] += 1
            read_at[key].append(second)
            answers.setdefault(second + 1, []).append(key)

    per_second = 1 / PACE
    first_round = 1_000 / per_second
    assert max(by_second.values()) <= AT_ONCE
    assert sum(by_second[second] for second in range(int(first_round) + 5)) >= 1_000
    for begins in range(3 * int(EVERY) - 10):
        assert sum(by_second[begins + second] for second in range(10)) <= 10 * per_second + AT_ONCE
    assert all(len(seconds) >= 3 for seconds in read_at.values())
    gaps = [b - a for seconds in read_at.values() for a, b in pairwise(seconds)]
    assert min(gaps) >= EARLIEST
    assert max(gaps) <= LATEST + 60


steps = st.sampled_from(
    ["want", "used", "ended", "limited", "failed", "cancelled", "begin", "look", "pass", "set back"]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(steps, st.integers(0, 5), st.floats(0, 4000)), max_size=60))
def test_whatever_happens_the_pace_is_kept_and_nobody_is_read_twice_at_once(
    happens: list[tuple[str, int, float]],
) -> None:
    made, at = Schedule(), NOW
    reading: set[IdentityKey] = set()
    keys = [IdentityKey(f"acc-{number // 2}", f"user-{number}") for number in range(6)]
    for what, number, seconds in happens:
        key = keys[number]
        match what:
            case "want":
                made.want(key, at + seconds)
            case "used":
                made.used(key, at)
            case "pass":
                at += seconds
            case "set back":
                at -= seconds
            case "begin" | "look":
                if made.begin(key, at, must=what == "look"):
                    assert key not in reading
                    reading.add(key)
            case _ if key in reading:
                reading.remove(key)
                match what:
                    case "failed":
                        made.failed(key, at)
                    case "cancelled":
                        made.cancelled(key, at)
                    case _:
                        made.ended(key, at, what == "limited")
        for key in made.take(at):
            assert key not in reading
            assert key.account_id not in {other.account_id for other in reading}
            reading.add(key)
        next_at = made.next_at(at)
        assert next_at is None or next_at >= at - 4000
    assert len(reading) <= len(keys)
