"""What another person's client sees of an identity's limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.lent_usage import NOTHING_KNOWN, seen_by_client

LIMITS = {
    "plan_type": "business",
    "rate_limit": {"allowed": True, "limit_reached": False, "primary_window": {"used_percent": 5}},
    "additional_rate_limits": [{"limit_name": "x", "metered_feature": "codex_x", "rate_limit": None}],
    "credits": {"has_credits": False, "unlimited": False, "balance": "0"},
}
PERSON = {"user_id": "user-pooled", "account_id": "acc-pooled", "email": "pooled@example.invalid"}


def test_the_limits_are_shown_and_the_person_is_not() -> None:
    shown = seen_by_client({**PERSON, **LIMITS}, "acc-client")

    assert shown == {**LIMITS, "account_id": "acc-client"}


def test_the_resets_of_an_identity_are_not_offered_to_the_client() -> None:
    """It would spend one of its own login."""
    shown = seen_by_client({**LIMITS, "rate_limit_reset_credits": {"available_count": 2}}, "acc-client")

    assert shown["rate_limit_reset_credits"] is None


def test_a_client_without_an_account_sees_none() -> None:
    assert seen_by_client({**PERSON, **LIMITS}, "")["account_id"] is None


@pytest.mark.parametrize("document", [None, [], "text", 7, [PERSON]])
def test_of_anything_else_the_client_sees_nothing(document: Any) -> None:
    assert seen_by_client(document, "acc-client") == NOTHING_KNOWN


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from([*PERSON, *LIMITS, "rate_limit_reset_credits", "new"]), scalars), st.text())
def test_nothing_but_the_person_is_changed(document: dict[str, Any], client: str) -> None:
    shown = seen_by_client({**document, "email": "pooled@example.invalid"}, client)

    assert "pooled@example.invalid" not in json.dumps(shown)
    kept = {key: value for key, value in document.items() if key in LIMITS or key == "new"}
    assert kept.items() <= shown.items()
