"""The header table says what happened to each header, and shows no secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.redaction import redact_header
from codexpool.views.formatting import Role, wrap
from codexpool.views.header_table import NOTHING, Row, Sign, header_lines, rows, sent, sign_of
from tests.redaction import planting
from tests.redaction.planting import pieces_in
from tests.traces.documents import attempt, document

names = st.sampled_from(
    ["Authorization", "authorization", "ChatGPT-Account-ID", "user-agent", "x-a", "X-A", "cookie"]
)
headers = st.lists(st.tuples(names, st.sampled_from(["", "1", "2"])).map(list), max_size=6)
some_headers = headers.filter(bool)


def made(client: list[list[str]], *upstream: list[list[str]], **changes: Any) -> dict[str, Any]:
    """The document of a request with these headers."""
    attempts = [attempt(n, "work", 200, request_headers=fields) for n, fields in enumerate(upstream, 1)]
    return document(request_headers=client, attempts=attempts, **changes)


def values(fields: list[list[str]], name: str) -> list[str]:
    return [value for key, value in fields if key.lower() == name]


def lines(told: dict[str, Any], width: int | None, **more: Any) -> list[str]:
    return [text for line in header_lines(told, **more) for text in wrap(line, width)]


def test_each_kind_of_change_has_its_sign() -> None:
    # Given
    client = [["Authorization", "mine"], ["openai-organization", "org"], ["user-agent", "codex"]]
    upstream = [["authorization", "theirs"], ["user-agent", "codex"], ["x-new", "true"]]
    # When, then
    assert [row[:4] for row in rows(made(client, upstream))] == [
        ("authorization", Sign.REPLACED, "mine", ("theirs",)),
        ("openai-organization", Sign.REMOVED, "org", (None,)),
        ("x-new", Sign.ADDED, None, ("true",)),
        ("user-agent", Sign.KEPT, "codex", ("codex",)),
    ]


def test_a_second_header_of_one_name_cannot_hide() -> None:
    twice = [["authorization", "one"], ["Authorization", "two"]]

    (row,) = rows(made(twice, [["authorization", "one"]]))

    assert row[:4] == ("authorization", Sign.REPLACED, "one, two", ("one",))


def test_a_change_in_an_earlier_attempt_is_news() -> None:
    (row, _) = rows(made([["x-a", "1"], ["x-b", "1"]], [["x-a", "2"], ["x-b", "1"]], [["x-a", "1"], ["x-b", "1"]]))

    assert row[:4] == ("x-a", Sign.KEPT, "1", ("2", "1"))
    assert row.is_news


def test_a_header_of_an_earlier_attempt_has_a_row() -> None:
    (row, _) = rows(made([["x-b", "1"]], [["x-a", "2"], ["x-b", "1"]], [["x-b", "1"]]))

    assert row[:4] == ("x-a", Sign.KEPT, None, ("2", None))
    assert row.is_news


@given(headers, st.lists(some_headers, max_size=3))
def test_every_header_is_in_one_row_whose_sign_is_right(
    client: list[list[str]], upstream: list[list[list[str]]]
) -> None:
    found = rows(made(client, *upstream))

    assert sorted(row.name for row in found) == sorted(
        {name.lower() for fields in (client, *upstream) for name, _ in fields}
    )
    for row in found:
        before, after = values(client, row.name), [values(fields, row.name) for fields in upstream]
        last = after[-1] if after else before
        assert (row.sign is Sign.KEPT) == (before == last)
        assert (row.sign is Sign.ADDED) == (not before and bool(last))
        assert (row.sign is Sign.REMOVED) == (bool(before) and not last)
        assert (row.client is None) == (not before)
        assert [value is None for value in row.upstream] == [not there for there in after]
        assert row.is_news == any(there != before for there in after)


@given(headers, st.lists(some_headers, max_size=3))
def test_changed_headers_come_first_in_the_order_sent(
    client: list[list[str]], upstream: list[list[list[str]]]
) -> None:
    found = rows(made(client, *upstream))

    first = list(dict.fromkeys(name.lower() for fields in (client, *upstream) for name, _ in fields))
    news = [row.name for row in found if row.is_news]
    kept = [row.name for row in found if not row.is_news]
    assert [row.name for row in found] == news + kept
    assert news == sorted(news, key=first.index)
    assert kept == sorted(kept, key=first.index)


@given(st.none() | st.text(max_size=2), st.none() | st.text(max_size=2))
def test_sign_of_a_change_undone_is_its_opposite(before: str | None, after: str | None) -> None:
    opposite = {Sign.ADDED: Sign.REMOVED, Sign.REMOVED: Sign.ADDED}
    sign = sign_of(before, after)

    assert sign_of(after, before) is opposite.get(sign, sign)


def test_attempt_that_never_left_has_no_column() -> None:
    waiting = attempt(2, "spare", None, request_headers=[], sent_at=None, answered_at=None)
    told = document(attempts=[attempt(1, "work", 401), waiting])

    assert [one["identity"] for one in sent(told)] == ["work"]
    assert all(len(row.upstream) == 1 for row in rows(told))


@pytest.mark.parametrize(
    ("policy", "heading"),
    [("own", "nothing was changed"), ("never", "nothing was changed"), ("swap", "nothing went upstream")],
)
def test_a_request_that_was_not_sent_keeps_its_headers(policy: str, heading: str) -> None:
    told = document(attempts=[], policy={"name": policy, "row": "", "means": ""})

    assert {row.sign for row in rows(told)} == {Sign.KEPT}
    assert lines(told, 100)[0].endswith(heading)


def test_an_observed_request_is_told_in_the_conditional() -> None:
    told = document(observed=True, attempts=[attempt(1, "work", 200, sent_at=None)])

    assert "would have gone upstream" in lines(told, 100)[0]
    assert rows(told)[0].sign is Sign.REPLACED


def test_rows_as_the_api_gives_them_are_plain_json() -> None:
    row = Row("x-a", Sign.ADDED, None, ("1",), "")

    assert row.document() == {"name": "x-a", "sign": "+", "client": None, "upstream": ["1"], "means": ""}


# -- how it is drawn


def test_lines_tell_each_attempt_and_what_came_back() -> None:
    text = "\n".join(lines(document(), 100))

    assert (
        "~ chatgpt-account-id\n"
        "    client   acc-client\n"
        "    1 work   acc-work\n"
        "    2 spare  acc-spare\n"
        "      The workspace that is charged; it has to be one of the credential's.\n"
    ) in text
    assert f"    2 spare  {NOTHING}" in text
    assert "= originator: codex_exec\n      Which program of Codex asks.\n" in text
    assert "What came back, attempt 1 work: 401\n  content-type: application/json\n" in text
    assert "  x-openai-authorization-error: token_revoked\n      Why a credential was refused" in text
    assert "What came back, attempt 2 spare: 200\n  content-type: text/event-stream\n" in text


def test_a_lost_connection_is_named() -> None:
    told = document(attempts=[attempt(1, "work", 0, response_headers=[])])

    assert "What came back, attempt 1 work: the connection was lost" in lines(told, 100)


@given(st.integers(0, 200), some_headers)
def test_wrapped_lines_keep_to_their_width(width: int, client: list[list[str]]) -> None:
    """And nothing is left out."""
    long = [[name, f"{value} {'word ' * 20}{'x' * 90}"] for name, value in client]

    told = lines(made(long, [["x-b", "y" * 200]]), width)

    assert all(len(line) <= max(width, 40) for line in told)
    text = "".join("".join(told).split())
    assert "y" * 200 in text
    assert all("".join(value.split()) in text for _, value in long)


@pytest.mark.parametrize("width", [30, 60, 110, None])
@pytest.mark.parametrize("changed_only", [True, False])
def test_signs_are_shown_at_every_width(width: int | None, changed_only: bool) -> None:
    told = lines(document(), width, changed_only=changed_only)

    text = "\n".join(told)
    assert any(line.split()[:2] == ["~", "authorization"] for line in told)
    assert any(line.split()[:2] == ["-", "openai-organization"] for line in told)
    assert ("= 13 others" in text) == changed_only
    assert ("originator" in text) != changed_only
    assert ("What came back" in text) != changed_only


def test_control_characters_are_made_visible() -> None:
    told = made([["x-a", "\x1b[2J\u202e"], ["x-\x1b]0;", "[bold]x"]], [["x-a", "\x9b1m"]])

    text = "".join(lines(told, 80))

    assert text.isprintable()
    assert "[bold]x" in text


def test_colors_add_nothing_to_the_signs() -> None:
    told = made([["x-a", "1"], ["x-b", "1"]], [["x-a", "2"], ["x-c", "1"]])

    signs = {line.role: line.text[0] for line in header_lines(told)[2:] if line.text.startswith(("~", "+", "-"))}

    assert signs == {Role.CHANGED: "~", Role.GOOD: "+", Role.BAD: "-"}


@given(
    planting.recognised | planting.keys,
    planting.bare_places,
    st.sampled_from(["authorization", "cookie", "x-foo", "user-agent", "x-codex-turn-state", "set-cookie"]),
)
def test_no_secret_that_was_sent_is_shown(secret: str, place: str, name: str) -> None:
    value = redact_header(name, place.format(secret))
    told = made([[name, value]], [[name, value]])
    told["attempts"][0]["response_headers"] = [["set-cookie", redact_header("set-cookie", f"a={secret}")]]

    for width in (60, None):
        assert not pieces_in(secret, "".join("".join(lines(told, width)).split()))
