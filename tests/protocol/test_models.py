"""Lists of models: read with bounds, merged without a change to any entry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.models import (
    LONGEST_LIST,
    MOST,
    entries_of,
    matches,
    merged,
    version_asked,
    whole_version,
)
from tests.standin import model_info

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MODEL = st.builds(
    lambda more, slug, priority: {**more, "slug": slug, "priority": priority},
    st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
    st.integers(-(2**31), 2**31 - 1),
)
MODELS = st.lists(MODEL, min_size=1, max_size=6)
SPACING = st.sampled_from([None, 0, 2, "\t"])


def written(models: Any, indent: int | str | None = None, **more: object) -> bytes:
    return json.dumps({**more, "models": models}, indent=indent).encode()


def slugs(body: bytes) -> list[str]:
    return [model["slug"] for model in json.loads(body)["models"]]


@given(MODELS, SPACING, st.dictionaries(st.text(max_size=7), VALUES, max_size=2))
def test_entries_are_kept_as_the_text_that_came(models: list[Any], indent: Any, more: dict[str, Any]) -> None:
    body = written(models, indent, **{name: value for name, value in more.items() if name != "models"})

    entries = entries_of(body)

    assert [json.loads(entry.text) for entry in entries] == models
    assert all(entry.text in body for entry in entries)


@given(st.lists(MODELS, min_size=1, max_size=4))
def test_a_merged_list_has_every_model_once_as_its_first_owner_has_it(lists: list[list[Any]]) -> None:
    read = [entries_of(written(models)) for models in lists]

    catalogue = merged(read)

    first: dict[str, bytes] = {}
    for entry in (entry for entries in read for entry in entries):
        first.setdefault(entry.slug, entry.text)
    shown = {entry.slug: entry.text for entry in entries_of(catalogue.body)}
    assert shown == first
    priorities = [model["priority"] for model in json.loads(catalogue.body)["models"]]
    assert priorities == sorted(priorities)
    assert merged(read) == catalogue


@given(MODELS, MODELS)
def test_an_etag_is_of_one_merged_list(one: list[Any], other: list[Any]) -> None:
    a, b = merged([entries_of(written(one))]), merged([entries_of(written(other))])

    assert (a.etag == b.etag) == (a.body == b.body)


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_list(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (its kinds are many)
        entries_of(body)


def model(**changes: object) -> dict[str, object]:
    return {**model_info("gpt-a"), **changes}


@pytest.mark.parametrize(
    "body",
    [
        written([]),
        written({"slug": "gpt-a", "priority": 1}),
        written([model(slug=None)]),
        written([model(slug="")]),
        written([model(slug="a" * 201)]),
        written([model(slug="gpt\n")]),
        written([model(priority=None)]),
        written([model(priority=True)]),
        written([model(priority=2**31)]),  # Clients have 32 bits for it, and could read no model of all lists.
        written([model(), "gpt-b"]),
        written([model(context_window=float("nan"))]),
        written([model(context_window=float("inf"))]),
        written([model(context_window=1)]).replace(b'"context_window": 1', b'"context_window": 1e999'),
        written([model(display_name="\ud800")]),
        written([model(slug=f"gpt-{number}") for number in range(MOST + 1)]),
        written([model(padding=LONGEST_LIST * "a")]),
        b'{"models": [' + 100_000 * b"[",
        b'{"models": [{"slug": "gpt-a", "priority": 1}]',
        written([model()]).decode().encode("utf-16"),
    ],
    ids=range(19),
)
def test_a_list_that_a_client_could_not_read_is_no_list(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        entries_of(body)


def test_models_of_the_same_priority_stay_in_the_order_of_the_identities() -> None:
    mine, theirs = ([model_info(slug, 1) for slug in names] for names in (("b", "a"), ("c", "a")))

    assert slugs(merged([entries_of(written(mine)), entries_of(written(theirs))]).body) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("version", "whole"),
    [
        ("0.171.0", "0.171.0"),
        ("0.171.0-alpha.3", "0.171.0"),
        ("0.171", ""),
        ("", ""),
        ("0.171.0/..", ""),
        ("٠.1.2", ""),
    ],
)
def test_lists_are_asked_for_with_the_version_as_clients_ask(version: str, whole: str) -> None:
    assert whole_version(version) == whole


@pytest.mark.parametrize(
    ("query", "version"),
    [
        ("client_version=0.171.0", "0.171.0"),
        ("", ""),
        ("client_version=", ""),
        ("client_version=0.171.0&client_version=0.1.0", ""),
        ("client_version=0.171.0&limit=1", ""),
        ("client_version=" + 300 * "1", ""),
    ],
)
def test_only_what_clients_ask_is_answered_from_memory(query: str, version: str) -> None:
    assert version_asked(query) == version


@pytest.mark.parametrize(
    ("condition", "holds"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False), ("a", False)],
)
def test_if_none_match_is_compared_weakly(condition: str, holds: bool) -> None:
    assert matches(condition, '"a"') is holds
