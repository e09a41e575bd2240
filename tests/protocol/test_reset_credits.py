"""What the backend says about reset credits: nothing unknown is spent, and nothing unclear is taken as an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.reset_credits import Credit, Credits, Outcome, listed, outcome

NOW = 1_798_761_600.0  # 2027-01-01T00:00:00Z

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "status": st.just("available") | json_values,
        "reset_type": st.just("codex_rate_limits") | json_values,
        "expires_at": st.sampled_from(["2027-02-01T00:00:00Z", "2026-02-01", "9999-12-31T23:59:59-23:59"])
        | json_values,
        "title": json_values,
    },
)


def credit(**changed: Any) -> dict[str, Any]:
    row = {"id": "credit-1", "reset_type": "codex_rate_limits", "status": "available", "title": "Full reset"}
    return {**row, "granted_at": "2026-12-01T00:00:00Z", "expires_at": "2027-01-02T00:00:00Z", **changed}


def test_the_credit_that_expires_first_comes_first() -> None:
    rows = [credit(id="never", expires_at=None), credit(id="late", expires_at="2027-01-09T00:00:00+00:00"), credit()]

    found = listed({"credits": rows, "available_count": 3}, NOW)

    assert [one.id for one in found.spendable] == ["credit-1", "late", "never"]
    assert (found.available, found.expires_at) == (3, NOW + 86_400)
    assert found.spendable[0] == Credit("credit-1", NOW + 86_400, "Full reset")


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "redeemed"},
        {"status": "redeeming"},
        {"status": None},
        {"reset_type": "something_new"},
        {"expires_at": "2026-12-31T23:59:59Z"},
        {"expires_at": "soon"},
        {"expires_at": 1_900_000_000},
        {"id": ""},
        {"id": "two\nlines"},
        {"id": "x" * 201},
        {"id": 7},
    ],
)
def test_a_credit_that_is_not_known_to_be_spendable_is_not_offered(changed: dict[str, Any]) -> None:
    assert listed({"credits": [credit(**changed)]}, NOW) == Credits(0, ())


def test_the_backends_own_count_is_believed_even_if_its_list_is_shorter() -> None:
    assert listed({"credits": [], "available_count": 2}, NOW) == Credits(2, ())


@pytest.mark.parametrize("document", [None, [], {}, {"credits": None}, {"credits": {}}, {"credits": [{}] * 1_001}])
def test_what_does_not_list_credits_is_no_list(document: Any) -> None:
    with pytest.raises(ValueError, match="does not list"):
        listed(document, NOW)


@given(st.lists(rows | json_values, max_size=4), json_values)
def test_any_list_is_read(found: list[Any], count: Any) -> None:
    read = listed({"credits": found, "available_count": count}, NOW)

    assert all(one.id and (one.expires_at is None or one.expires_at > NOW) for one in read.spendable)
    assert 0 <= read.available <= 1_000


# -- spending


@pytest.mark.parametrize("code", ["reset", "already_redeemed", "nothing_to_reset", "no_credit"])
def test_the_backends_four_words_are_clear(code: str) -> None:
    assert outcome(200, {"code": code, "windows_reset": 2}, False) == (Outcome(code), 2)
    assert outcome(200, {"code": code}, False) == (Outcome(code), 0)


@given(st.integers(100, 599), json_values | st.fixed_dictionaries({"code": json_values}), st.booleans())
def test_anything_else_is_unclear_unless_it_is_a_refusal(status: int, document: Any, is_from_edge: bool) -> None:
    said, windows = outcome(status, document, is_from_edge)

    assert (said, windows) == (Outcome.UNCLEAR, 0) or (
        said is Outcome.REFUSED and 400 <= status < 500 and isinstance(document, dict) and not is_from_edge
    )


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_failure_that_may_come_after_the_effect_is_unclear(status: int) -> None:
    assert outcome(status, {"error": {"code": "x"}}, False) == (Outcome.UNCLEAR, 0)


@pytest.mark.parametrize("code", ["refused", "unclear", "RESET", "", None, ["reset"]])
def test_our_own_words_are_none_of_the_backends(code: Any) -> None:
    assert outcome(200, {"code": code}, False) == (Outcome.UNCLEAR, 0)
