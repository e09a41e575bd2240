from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.usage import (
    ASKED_EVERY,
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
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
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


# -- readings of wham/usage


def reading(*windows: Window, is_open: bool | None = True, family: str = MAIN) -> UsageReport:
    gauges = tuple(Gauge(w.family, w.minutes, w.used_percent, w.resets_at) for w in windows)
    return UsageReport((FamilyReport(family, gauges, is_open),))


def test_a_reading_replaces_the_windows_and_those_it_does_not_have_are_gone() -> None:
    seen = usage(window(100, FIVE_HOURS), window(30, WEEK), window(50, family="codex_spark"))

    seen.read(reading(window(20, WEEK)), NOW + 1, NOW + 2)

    assert {key: w.used_percent for key, w in seen.windows.items()} == {(MAIN, WEEK): 20, ("codex_spark", 300): 50}


def test_what_an_answer_said_after_the_reading_was_sent_stays() -> None:
    seen = usage(window(60)._replace(seen_at=NOW + 5))
    seen.limit(Limit(resets_at=NOW + HOUR), NOW + 5)

    seen.read(reading(window(10)), NOW + 4, NOW + 6)

    assert seen.windows[MAIN, FIVE_HOURS].used_percent == 60
    assert seen.limited_until(MAIN, NOW + 6) == NOW + HOUR


def test_a_reading_lifts_an_earlier_limit() -> None:
    seen = Usage()
    seen.limit(Limit(resets_at=NOW + 5 * 86_400), NOW)

    seen.read(reading(window(1)), NOW + 1, NOW + 2)

    assert seen.limited_until(MAIN, NOW + 2) is None
    assert seen.is_lifted_since(NOW)
    assert not seen.is_lifted_since(NOW + 1)


@pytest.mark.parametrize(
    ("windows", "until"),
    [
        ([window(100, FIVE_HOURS, HOUR), window(40, WEEK, 86_400)], NOW + HOUR),
        ([window(100, FIVE_HOURS, HOUR), window(100, WEEK, 86_400)], NOW + 86_400),
        ([window(40, FIVE_HOURS, HOUR)], NOW + UNKNOWN_LIMIT),
        ([], NOW + UNKNOWN_LIMIT),
    ],
)
def test_a_reading_limits_until_the_used_up_window_is_reset(windows: list[Window], until: float) -> None:
    seen = Usage()

    seen.read(reading(*windows, is_open=False), NOW, NOW + 1)

    assert seen.limited_until(MAIN, NOW + 1) == until


def test_a_reading_corrects_the_end_of_a_limit_but_not_by_seconds() -> None:
    seen = Usage()
    seen.limit(Limit(resets_at=NOW + 86_400), NOW)

    seen.read(reading(window(100, WEEK, 86_401), is_open=False), NOW + 1, NOW + 1)
    assert seen.limited_until(MAIN, NOW + 1) == NOW + 86_400
    seen.read(reading(window(100, FIVE_HOURS, HOUR), is_open=False), NOW + 2, NOW + 2)
    assert seen.limited_until(MAIN, NOW + 2) == NOW + HOUR


def test_a_reading_that_does_not_say_changes_no_limit() -> None:
    seen = Usage()
    seen.limit(Limit(resets_at=NOW + HOUR), NOW)

    seen.read(reading(is_open=None), NOW + 1, NOW + 1)
    seen.read(UsageReport(()), NOW + 2, NOW + 2)
    assert seen.limited_until(MAIN, NOW + 2) == NOW + HOUR


def test_families_are_limited_and_lifted_each_for_itself() -> None:
    seen = Usage()
    seen.read(reading(is_open=False, family="codex_spark"), NOW, NOW)
    assert (seen.limited_until(MAIN, NOW), seen.limited_until("codex_spark", NOW)) == (None, NOW + UNKNOWN_LIMIT)

    seen.read(reading(is_open=True), NOW + 1, NOW + 1)
    assert seen.limited_until("codex_spark", NOW + 1) is not None
    seen.read(reading(is_open=True, family="codex_spark"), NOW + 2, NOW + 2)
    assert seen.limited == {}


def test_after_each_lift_that_was_a_mistake_a_limit_is_believed_for_longer() -> None:
    """The backend's report can be ahead of what its model does: no identity is to be tried every minute then."""
    seen, at, believed = Usage(), NOW, []
    for _ in range(8):
        seen.limit(Limit(resets_at=at + 7 * 86_400), at)
        limited_at = at
        while MAIN in seen.limited:
            at += 10
            seen.read(reading(), at, at)
        believed.append(at - limited_at)
        at += 1

    assert believed == [10, 120, 240, 480, 960, 1800, 1800, 1800]


def test_a_limit_after_a_lift_that_held_is_lifted_at_once() -> None:
    seen = Usage()
    for begins in (NOW, NOW + HOUR, NOW + 2 * HOUR):
        seen.limit(Limit(resets_at=begins + 86_400), begins)
        seen.read(reading(), begins + 1, begins + 1)
        assert seen.limited == {}


def test_a_persons_word_counts_until_a_newer_one() -> None:
    seen, other = Usage(), Usage()
    for one in (seen, other):
        one.limit(Limit(resets_at=NOW + HOUR), NOW)

    seen.resume(NOW + 1)
    seen.take(other.document(), NOW + 2)
    assert seen.limited == {}
    other.limit(Limit(resets_at=NOW + HOUR), NOW + 3)
    seen.take(other.document(), NOW + 4)
    assert seen.limited == {MAIN: NOW + HOUR}


words = st.tuples(st.sampled_from([MAIN, "codex_spark"]), st.booleans(), st.integers(0, 600))


@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_proxies_that_share_their_notes_agree_on_the_newest_word(mine: list[Any], theirs: list[Any]) -> None:
    both = Usage(), Usage()
    newest: dict[str, tuple[float, bool]] = {}
    for one, said in zip(both, (mine, theirs), strict=True):
        for family, is_open, seconds in sorted(said, key=lambda word: word[2]):
            if seconds in [at for at, _ in newest.values()]:
                continue  # Two words of the same moment have no order.
            one._say(family, None if is_open else NOW + HOUR, NOW + seconds)
            newest[family] = max(newest.get(family, (0.0, False)), (seconds, is_open))

    documents = [json.loads(json.dumps(one.document())) for one in both]
    for one, told in zip(both, reversed(documents), strict=True):
        one.take(told, NOW + 600)

    assert both[0].limited == both[1].limited
    assert set(both[0].limited) == {family for family, (_, is_open) in newest.items() if not is_open}


def test_words_from_the_future_do_not_count_once_the_clock_is_set_back() -> None:
    seen = usage(window(90)._replace(seen_at=NOW + 86_400))
    seen.limit(Limit(resets_at=NOW + 2 * 86_400), NOW + 86_400)
    seen.asked_at = NOW + 86_400

    assert seen.may_be_asked(NOW)
    seen.read(reading(window(5)), NOW, NOW + 1)

    assert (seen.limited, seen.windows[MAIN, FIVE_HOURS].used_percent) == ({}, 5)


def test_no_account_is_asked_twice_within_a_minute() -> None:
    seen = Usage()
    assert seen.may_be_asked(NOW)
    seen.asked_at = NOW
    assert seen.is_being_asked(NOW + 1)
    seen.answered_at = NOW + 1

    assert not seen.is_being_asked(NOW + 1)
    assert not seen.may_be_asked(NOW + ASKED_EVERY - 1)
    assert seen.may_be_asked(NOW + ASKED_EVERY)


def test_another_proxys_reading_counts_as_ones_own() -> None:
    seen, other = usage(window(100, FIVE_HOURS)), Usage()
    other.read(reading(window(20, WEEK)), NOW + 10, NOW + 11)

    seen.take(json.loads(json.dumps(other.document())), NOW + 12)

    assert list(seen.windows) == [(MAIN, WEEK)]
    assert seen.read_at == NOW + 10
    assert seen.is_fresh(NOW + 13)
    assert not seen.is_fresh(NOW + 10 + ASKED_EVERY)
    assert seen.may_be_asked(NOW + 13)  # By clients that wait: their minute is this proxy's.
