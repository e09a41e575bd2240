from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.usage import (
    ENDED_LIMIT,
    LONGEST_LIMIT,
    MAIN,
    SHORTEST_LIMIT,
    UNKNOWN_LIMIT,
    URGENCY,
    Limit,
    ResetCredits,
    Usage,
    Window,
)
from tests.pool.pools import NOW

HOUR = 3600.0
FIVE_HOURS, WEEK = 300, 10_080

percents = st.floats(0, 200)
resets = st.none() | st.floats(NOW - 10 * 86_400, NOW + 10 * 86_400)
windows = st.builds(Window, st.just(MAIN), st.sampled_from([FIVE_HOURS, WEEK]), percents, resets, st.just(NOW - 60))


def window(used: float, minutes: int = FIVE_HOURS, resets_in: float = HOUR, family: str = MAIN) -> Window:
    return Window(family, minutes, used, NOW + resets_in, NOW)


def usage(*seen: Window) -> Usage:
    made = Usage()
    for one in seen:
        made.see(one)
    return made


# -- what is left


@given(windows, st.floats(NOW, NOW + 20 * 86_400))
def test_what_is_left_is_a_share_and_headroom_has_its_bounds(one: Window, at: float) -> None:
    assert 0 <= one.left(at) <= 1
    assert 0 <= one.headroom(at) <= URGENCY


@given(windows)
def test_a_window_that_has_passed_is_free(one: Window) -> None:
    assert one.left(one.ends) == one.headroom(one.ends) == 1.0


def test_a_window_reset_sooner_has_more_headroom() -> None:
    """Of two that are used alike."""
    assert window(50, resets_in=HOUR).headroom(NOW) > window(50, resets_in=4 * HOUR).headroom(NOW)
    assert window(100, resets_in=1).headroom(NOW) == 0


def test_the_tightest_window_counts_and_other_families_do_not() -> None:
    seen = usage(window(10), window(90, WEEK, 6 * 86_400), window(99, family="codex_spark"))

    assert seen.headroom(MAIN, NOW) == pytest.approx(0.1 / (6 / 7))
    assert seen.headroom("codex_spark", NOW) < 0.1
    assert seen.headroom("codex_other", NOW) == 1.0


def test_another_proxys_word_counts_only_if_newer() -> None:
    early, late = Window(MAIN, FIVE_HOURS, 10, NOW + HOUR, NOW - 100), Window(MAIN, FIVE_HOURS, 60, NOW + HOUR, NOW)
    seen = usage(late)

    seen.take(usage(early).document(), NOW)
    assert list(seen.windows.values()) == [late]
    seen.see(early)  # the clock was set back
    assert list(seen.windows.values()) == [early]
    seen.take(usage(late).document(), NOW)
    assert list(seen.windows.values()) == [late]
    seen.take(usage(late._replace(used_percent=99.0, seen_at=NOW + 500)).document(), NOW)  # from the future
    assert list(seen.windows.values()) == [late]


def test_no_window_is_longer_than_it_is_whatever_an_answer_says() -> None:
    strange = Window(MAIN, FIVE_HOURS, 100, NOW + 5 * 365 * 86_400, NOW)

    assert strange.headroom(NOW + HOUR) == 0
    assert strange.headroom(NOW + 5 * HOUR) == 1


# -- limits


def test_a_limit_lasts_until_the_answer_says() -> None:
    assert Usage().limit(Limit(resets_at=NOW + 500, resets_in=3), NOW) == NOW + 500
    assert Usage().limit(Limit(resets_in=70.0), NOW) == NOW + 70
    # a time that is past by our clock says less than the seconds to it
    assert Usage().limit(Limit(resets_at=NOW - 500, resets_in=70.0), NOW) == NOW + 70


@pytest.mark.parametrize(
    "limit",
    [
        Limit(resets_at=NOW, resets_in=0),
        Limit(resets_at=NOW - 2),
        Limit(resets_in=0),
        Limit(resets_at=NOW - 500, resets_in=0),
    ],
)
def test_a_limit_that_ends_while_its_answer_comes_is_over_soon(limit: Limit) -> None:
    assert Usage().limit(limit, NOW) == NOW + ENDED_LIMIT


def test_an_end_that_is_long_past_is_a_wrong_clock() -> None:
    assert Usage().limit(Limit(resets_at=NOW - 500), NOW) == NOW + UNKNOWN_LIMIT


def test_without_a_time_only_the_window_that_is_used_up_counts() -> None:
    seen = usage(window(100, FIVE_HOURS, HOUR), window(40, WEEK, 5 * 86_400))

    assert seen.limit(Limit(), NOW) == NOW + HOUR
    seen = usage(window(100, FIVE_HOURS, HOUR), window(100, WEEK, 5 * 86_400))
    assert seen.limit(Limit(), NOW) == NOW + 5 * 86_400
    assert Usage().limit(Limit(), NOW) == NOW + UNKNOWN_LIMIT


def test_a_guess_does_not_shorten_what_was_said_and_a_word_does() -> None:
    seen = Usage()
    seen.limit(Limit(resets_at=NOW + 5 * 86_400), NOW)

    assert seen.limit(Limit(), NOW + 1) == NOW + 5 * 86_400
    assert seen.limit(Limit(resets_at=NOW + HOUR), NOW + 2) == NOW + HOUR


@given(st.none() | st.floats(-1e11, 1e11), st.none() | st.floats(-1e11, 1e11), st.lists(windows, max_size=3))
def test_a_limit_has_its_bounds(resets_at: float | None, resets_in: float | None, seen: list[Window]) -> None:
    until = usage(*seen).limit(Limit(MAIN, resets_at, resets_in), NOW)

    assert NOW + SHORTEST_LIMIT <= until <= NOW + LONGEST_LIMIT


def test_a_limit_of_one_family_is_none_of_another() -> None:
    seen = Usage()
    seen.limit(Limit("codex_spark", NOW + HOUR), NOW)

    assert seen.limited_until("codex_spark", NOW) == NOW + HOUR
    assert seen.limited_until(MAIN, NOW) is None
    assert seen.headroom(MAIN, NOW) == 1.0
    assert seen.headroom("codex_spark", NOW) == 0.0


def test_a_limit_ends_with_its_time() -> None:
    """Or when the clock is set back beyond reason."""
    for at in (NOW + HOUR, NOW - 9 * 86_400):
        seen = Usage()
        seen.limit(Limit(resets_at=NOW + HOUR), NOW)
        assert seen.limited_until(MAIN, NOW + HOUR - 1) == NOW + HOUR

        assert seen.limited_until(MAIN, at) is None


# -- beyond the process


@given(st.lists(windows, max_size=4))
def test_what_outlives_the_process_says_the_same_afterwards(seen: list[Window]) -> None:
    before = usage(*seen)
    before.limit(Limit("codex_spark", NOW + HOUR), NOW)

    after = Usage()
    after.take(json.loads(json.dumps(before.document())), NOW)

    assert after.limited == before.limited
    for family in (MAIN, "codex_spark"):
        assert after.headroom(family, NOW) == before.headroom(family, NOW)


def test_what_has_passed_meanwhile_is_not_taken_over() -> None:
    before = usage(window(90))
    before.limit(Limit(resets_at=NOW + HOUR), NOW)

    after = Usage()
    after.take(before.document(), NOW + 2 * HOUR)

    assert (after.windows, after.limited) == ({}, {})


# -- reset credits


def test_credits_are_listed_when_their_number_changes_or_one_has_expired() -> None:
    """A poller asks for the list once, not each time."""
    seen = Usage()

    assert seen.count_credits(2, NOW)
    assert seen.count_credits(2, NOW)  # The list could not be read.
    seen.credits = ResetCredits(2, NOW + HOUR, NOW, is_listed=True)
    assert not seen.count_credits(2, NOW + 60)
    assert seen.credits == ResetCredits(2, NOW + HOUR, NOW + 60, is_listed=True)
    assert seen.count_credits(1, NOW + 120)
    assert not seen.count_credits(0, NOW + 180)
    seen.credits = ResetCredits(2, NOW + HOUR, NOW, is_listed=True)
    assert seen.count_credits(2, NOW + HOUR)


def test_credits_outlive_the_process_and_the_newer_word_counts() -> None:
    early, late = ResetCredits(2, NOW + HOUR, NOW - 100, True), ResetCredits(1, None, NOW, True)
    seen, told, odd = Usage(), Usage(), Usage()
    told.credits = early

    seen.take(json.loads(json.dumps(told.document())), NOW)
    assert seen.credits == early
    told.credits = late
    seen.take(json.loads(json.dumps(told.document())), NOW)
    assert seen.credits == late
    told.credits = early
    seen.take(told.document(), NOW)
    odd.credits = late._replace(seen_at=NOW + 500)  # from the future
    seen.take(odd.document(), NOW)
    assert seen.credits == late
