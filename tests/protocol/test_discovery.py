from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.discovery import NotListedError, Workspace, seen_by_client, synthetic, workspace_of
from codexpool.protocol.endpoints import CHATGPT, NO_CONSTRAINT

POOLED, CLIENT = "account-pooled", "account-client"


def entry(account_id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": account_id,
        "plan_type": "business",
        "structure": "workspace",
        "workspace_backend_origin": "NO_CONSTRAINT",
        "account_routing_override": "NO_CONSTRAINT",
        **more,
    }


def answer(*accounts: Any, **more: Any) -> dict[str, Any]:
    return {"accounts": list(accounts), "default_account_id": POOLED, "account_ordering": [POOLED], **more}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([POOLED, CLIENT]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["accounts", "id", "default_account_id", "account_ordering", "workspace_backend_origin"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
foreign = st.builds(entry, st.sampled_from([CLIENT, "account-3", "account-4"])) | anything.filter(
    lambda thing: not (isinstance(thing, dict) and thing.get("id") == POOLED)
)


@given(st.lists(foreign, max_size=4), st.integers(0, 4), st.lists(st.sampled_from([POOLED, CLIENT, "account-3", 7])))
def test_a_client_finds_itself_exactly_once(others: list[Any], place: int, ordering: list[Any]) -> None:
    """With the routing of the identity's account."""
    mine = entry(POOLED, workspace_backend_origin="https://gov.chatgpt.com", account_routing_override="us_cr")
    accounts = [*others[:place], mine, *others[place:]]
    document = answer(*accounts, account_ordering=ordering)
    before = copy.deepcopy(document)

    seen = seen_by_client(document, POOLED, CLIENT)

    assert workspace_of(seen, CLIENT) == workspace_of(document, POOLED)._replace(account_id=CLIENT)
    assert seen["default_account_id"] == CLIENT
    assert POOLED not in seen["account_ordering"]
    assert seen["account_ordering"].count(CLIENT) == ordering.count(POOLED)
    assert document == before


@given(st.lists(foreign, max_size=4))
def test_entries_of_other_accounts_are_kept_as_they_are(others: list[Any]) -> None:
    seen = seen_by_client(answer(*others, entry(POOLED)), POOLED, CLIENT)

    kept = [other for other in others if not (isinstance(other, dict) and other.get("id") == CLIENT)]
    assert seen["accounts"] == [*kept, entry(CLIENT)]


@given(anything)
def test_a_document_of_another_shape_is_returned_as_it_is(document: Any) -> None:
    seen = seen_by_client(document, POOLED, CLIENT)

    if not isinstance(document, dict) or not isinstance(document.get("accounts"), list):
        assert seen is document


def test_client_of_the_pooled_account_sees_the_answer_as_it_is() -> None:
    document = answer(entry(POOLED), entry("account-3"))

    assert seen_by_client(document, POOLED, POOLED) is document


def test_no_field_is_made_up() -> None:
    assert seen_by_client({"accounts": []}, POOLED, CLIENT) == {"accounts": []}


def test_whatever_else_is_in_the_answer_stays() -> None:
    seen = seen_by_client(answer(entry(POOLED, name="Work"), cursor="c1"), POOLED, CLIENT)

    assert seen["cursor"] == "c1"
    assert seen["accounts"][0]["name"] == "Work"


# -- where an account is served


def test_no_constraint_means_the_usual_origin() -> None:
    assert workspace_of(answer(entry(POOLED)), POOLED) == Workspace(CHATGPT, None, "business", POOLED)


def test_origin_and_override_of_an_account_are_taken_over() -> None:
    mine = entry(POOLED, workspace_backend_origin="https://gov.chatgpt.com/", account_routing_override="us_cr")

    found = workspace_of(answer(entry(CLIENT), mine), POOLED)

    assert found == Workspace("https://gov.chatgpt.com", "us_cr", "business", POOLED)


def test_other_accounts_only_mean_a_lost_workspace() -> None:
    with pytest.raises(NotListedError):
        workspace_of(answer(entry("account-3")), POOLED)
    with pytest.raises(ValueError, match="0 entries"):
        workspace_of(answer(), POOLED)


def test_a_token_without_account_is_of_the_only_one() -> None:
    assert workspace_of(answer(entry(POOLED)), "").account_id == POOLED
    with pytest.raises(ValueError, match="lists 2 accounts: choose one with account_id"):
        workspace_of(answer(entry(POOLED), entry("account-3")), "")


def test_entries_of_others_may_have_any_shape() -> None:
    assert workspace_of(answer({"name": "no id"}, None, 7, entry(POOLED)), POOLED).origin == CHATGPT


@pytest.mark.parametrize(
    "document",
    [
        None,
        "accounts",
        [],
        {},
        {"accounts": None},
        {"accounts": {POOLED: entry(POOLED)}},
        answer(),
        answer(entry("account-3")),
        answer(entry(POOLED), entry(POOLED)),
        answer(entry(POOLED, workspace_backend_origin=None)),
        answer(entry(POOLED, account_routing_override=None)),
        answer({"id": POOLED}),
    ],
)
def test_an_answer_without_an_origin_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="routing discovery"):
        workspace_of(document, POOLED)


@given(anything)
def test_no_answer_raises_anything_else(document: Any) -> None:
    try:
        found = workspace_of(document, POOLED)
    except ValueError:
        return
    assert isinstance(found, Workspace)


def test_made_up_answer_satisfies_the_client() -> None:
    document = synthetic(CLIENT)

    assert workspace_of(document, CLIENT).origin == CHATGPT
    assert document["accounts"][0]["account_routing_override"] == NO_CONSTRAINT
    assert document["account_ordering"] == [document["default_account_id"]] == [CLIENT]
