"""Times, sizes and texts as a person reads them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.views.formatting import clock, plain, plain_document, relative, size, span, took, zoned_time

numbers = st.none() | st.integers() | st.just(10**400) | st.floats() | st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0.0 ms"),
        (12.34, "12.3 ms"),
        (99.96, "100 ms"),
        (843.2, "843 ms"),
        (999.6, "1.0 s"),
        (1234, "1.2 s"),
        (59_960, "1 min"),
        (125_000, "2 min 5 s"),
        (3_780_000, "1 h 3 min"),
        (None, "?"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_how_long_something_took(milliseconds: float | None, text: str) -> None:
    assert took(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (601, "10 min"),
        (3600, "1 h"),
        (7380, "2 h 3 min"),
        (86_400, "1 d"),
        (604_800, "7 d"),
        (100_800, "1 d 4 h"),
        (None, "?"),
    ],
)
def test_how_long_something_lasts(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (5120, "5.1 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (3_400_000, "3.4 MB"),
        (10**13, "10000 GB"),
        (None, "?"),
    ],
)
def test_how_much_something_is(number: float | None, text: str) -> None:
    assert size(number) == text


def test_when_something_was() -> None:
    assert clock(1_764_000_001) == "16:00:01"
    assert clock(1_764_000_001, day=True) == "2025-11-24 16:00:01"
    assert clock(None) == "?"


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", "2025-11-24 16:00:01 +00:00"),
        ("Asia/Kathmandu", "2025-11-24 21:45:01 +05:45"),
        ("America/St_Johns", "2025-11-24 12:30:01 -03:30"),
    ],
)
def test_a_time_to_send_to_others_names_its_zone(zone: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        assert zoned_time(1_764_000_001.5) == shown
    time.tzset()


@given(numbers)
def test_no_number_is_too_strange(number: Any) -> None:
    for words in (took, span, size, clock):
        assert words(number).isprintable()


@given(st.text())
def test_no_text_is_an_order_to_a_terminal(text: str) -> None:
    assert plain(text).isprintable()


@given(st.text())
def test_what_can_be_shown_stays_as_it_is(text: str) -> None:
    assert not text.isprintable() or plain(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_document_keeps_its_form(document: Any) -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list):
            return [text for item in value for text in texts(item)]
        if isinstance(value, dict):
            return [text for key, item in value.items() for text in (key, *texts(item))]
        return []

    made = plain_document(document)

    assert type(made) is type(document)
    assert all(text.isprintable() for text in texts(made))
    assert plain_document(made) == made


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0 s ago"), (45, "in 45 s"), (-3 * 3600, "3 h ago")])
def test_a_time_is_relative_to_now(seconds: float, expected: str) -> None:
    assert relative(1764000000 + seconds, 1764000000) == expected
