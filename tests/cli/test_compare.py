"""The demo's table of headers says what is true of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codexpool.cli.demo.screen import Row, compared
from codexpool.views.header_table import Sign

names = st.sampled_from(["Authorization", "authorization", "ChatGPT-Account-ID", "user-agent", "x-a", "X-A", "x-b"])
headers = st.lists(st.tuples(names, st.sampled_from(["", "1", "2"])), max_size=8)


def test_each_kind_of_change_has_its_sign() -> None:
    client = [("Authorization", "mine"), ("openai-organization", "org"), ("user-agent", "codex")]
    flow = [("Authorization", "shown"), ("openai-organization", "org"), ("user-agent", "codex")]
    upstream = [("authorization", "theirs"), ("user-agent", "codex"), ("x-openai-fedramp", "true")]

    assert compared(client, flow, upstream) == [
        Row(Sign.REPLACED, "authorization", "mine", "shown", "theirs"),
        Row(Sign.ADDED, "x-openai-fedramp", None, None, "true"),
        Row(Sign.REMOVED, "openai-organization", "org", "org", None),
        Row(Sign.KEPT, "user-agent", "codex", "codex", "codex"),
    ]


def test_a_second_header_of_one_name_cannot_hide() -> None:
    twice = [("authorization", "one"), ("Authorization", "two")]

    assert compared(twice, [], [("authorization", "one")])[0].sign is Sign.REPLACED


@given(headers, headers, headers)
def test_every_header_is_in_one_row_and_kept_means_equal(
    client: list[tuple[str, str]], flow: list[tuple[str, str]], upstream: list[tuple[str, str]]
) -> None:
    rows = compared(client, flow, upstream)

    assert sorted(row.name for row in rows) == sorted({name.lower() for name, _ in client + upstream})
    for row in rows:
        assert (row.sign is Sign.KEPT) == (row.client == row.upstream)
        assert (row.sign is Sign.ADDED) == (row.client is None)
        assert (row.sign is Sign.REMOVED) == (row.upstream is None)
