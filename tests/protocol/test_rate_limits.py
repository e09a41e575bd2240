from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol import rate_limits
from codexpool.protocol.rate_limits import Gauge
from tests.standin.limits import usage_limit_body

NOW = 1_800_000_000.0
HEADERS = {
    b"x-codex-primary-used-percent": b"12.5",
    b"x-codex-primary-window-minutes": b"300",
    b"x-codex-primary-reset-at": b"1800003600",
    b"x-codex-secondary-used-percent": b"3",
    b"x-codex-secondary-window-minutes": b"10080",
    b"x-codex-secondary-reset-at": b"1800600000",
    b"content-type": b"text/event-stream",
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_windows_are_told_apart_by_their_length() -> None:
    swapped = {
        name.replace(b"primary", b"x")
        .replace(b"secondary", b"primary")
        .replace(b"x-codex-x-", b"x-codex-secondary-"): v
        for name, v in HEADERS.items()
    }

    assert rate_limits.of_headers(HEADERS, NOW) == [
        Gauge("codex", 300, 12.5, 1800003600.0),
        Gauge("codex", 10080, 3.0, 1800600000.0),
    ]
    assert {g.minutes: g.used_percent for g in rate_limits.of_headers(swapped, NOW)} == {300: 12.5, 10080: 3.0}


def test_limits_of_a_family_of_models_have_its_name() -> None:
    values = {b"x-codex-spark-primary-used-percent": b"99", b"x-codex-spark-primary-window-minutes": b"300"}

    assert rate_limits.of_headers(values, NOW) == [Gauge("codex_spark", 300, 99.0, None)]
    assert rate_limits.active({**values, b"x-codex-active-limit": b"codex_spark"}) == "codex_spark"
    # the plain windows repeat its numbers then
    repeated = {**HEADERS, **values, b"x-codex-active-limit": b"codex_spark"}
    assert rate_limits.of_headers(repeated, NOW) == [Gauge("codex_spark", 300, 99.0, None)]


@pytest.mark.parametrize("name", [b"premium", b"codex", b"a_word_of_tomorrow", b"", b"\xff"])
def test_a_limit_that_has_no_windows_of_its_own_is_the_main_one(name: bytes) -> None:
    values = {**HEADERS, b"x-codex-active-limit": name}

    assert rate_limits.active(values) is None
    assert [gauge.family for gauge in rate_limits.of_headers(values, NOW)] == ["codex", "codex"]


def test_time_to_a_reset_is_taken_from_now() -> None:
    values = {b"x-codex-primary-used-percent": b"1", b"x-codex-primary-reset-after-seconds": b"60"}

    assert rate_limits.of_headers(values, NOW)[0].resets_at == NOW + 60


@pytest.mark.parametrize("value", [b"", b"nan", b"inf", b"-3", b"a lot", b"1e400", b"\xff"])
def test_what_is_no_number_says_nothing(value: bytes) -> None:
    assert rate_limits.of_headers({**HEADERS, b"x-codex-primary-used-percent": value}, NOW) == [
        Gauge("codex", 10080, 3.0, 1800600000.0)
    ]
    assert rate_limits.of_headers({**HEADERS, b"x-codex-primary-reset-at": value}, NOW)[0].resets_at is None


def test_a_frame_says_the_same() -> None:
    frame = {
        "type": "codex.rate_limits",
        "plan_type": "business",
        "rate_limits": {
            "primary": {"used_percent": 12.5, "window_minutes": 300, "reset_at": 1800003600},
            "secondary": None,
        },
    }

    assert rate_limits.of_frame(frame) == [Gauge("codex", 300, 12.5, 1800003600.0)]
    assert rate_limits.of_frame({**frame, "metered_limit_name": "codex-spark"})[0].family == "codex_spark"


@given(st.dictionaries(st.sampled_from(["rate_limits", "metered_limit_name", "limit_name"]), anything))
def test_no_frame_is_too_strange(frame: dict[str, Any]) -> None:
    for gauge in rate_limits.of_frame(frame):
        assert gauge.used_percent >= 0


def test_a_refusal_says_when_the_limit_ends() -> None:
    error = usage_limit_body(NOW + 600)["error"]

    assert rate_limits.reset_of(error)[0] == NOW + 600
    assert rate_limits.reset_of({"resets_at": "soon", "resets_in_seconds": True}) == (None, None)


@pytest.mark.parametrize(
    ("values", "message", "seconds"),
    [
        ({b"retry-after": b"7"}, "", 7.0),
        ({b"retry-after": b"0.5"}, "", 0.5),
        ({b"retry-after-ms": b"1500", b"retry-after": b"9"}, "", 1.5),
        ({b"retry-after": b"Fri, 15 Jan 2027 08:01:00 GMT"}, "", 60.0),
        ({b"retry-after": b"Fri, 15 Jan 2027 07:00:00 GMT"}, "", 0.0),
        ({b"retry-after": b"when it suits us"}, "", None),
        ({}, "Rate limit reached. Please try again in 1.2s.", 1.2),
        ({}, "try again in 350ms", 0.35),
        ({}, "Try again in 2 minutes", 120.0),
        ({}, "try again later", None),
        ({}, "", None),
    ],
)
def test_seconds_after_which_to_try_again(values: dict[bytes, bytes], message: str, seconds: float | None) -> None:
    assert rate_limits.retry_after(values, message, NOW) == pytest.approx(seconds)


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=20)), st.text())
def test_no_header_and_no_message_is_too_strange(values: dict[bytes, bytes], message: str) -> None:
    rate_limits.of_headers({b"x-codex-primary-used-percent": b"1", **values}, NOW)
    seconds = rate_limits.retry_after(values, message, NOW)
    assert seconds is None or seconds >= 0
    assert json.dumps(rate_limits.limit_id(message))
