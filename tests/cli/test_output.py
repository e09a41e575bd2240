"""Tables and JSON that commands print: whatever is in them, and however wide the terminal is."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Any
from unittest import mock

from click import unstyle
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from codexpool.cli.output import Column, print_facts, print_json, print_table

COLUMNS = (
    Column("name", "name"),
    Column("status", "status"),
    Column("turns", "turns", rank=1, is_number=True),
    Column("identities", "identities", rank=2),
    Column("problem", "problem", is_below=True),
)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=50)
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
names = st.lists(words, min_size=1, max_size=3).map(" ".join)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": names,
            "status": texts,
            "turns": st.none() | st.integers(0, 10**12),
            "identities": st.lists(texts, max_size=3),
            "problem": st.lists(texts, max_size=2),
        }
    ),
    min_size=1,
    max_size=4,
)


def printed(table: list[dict[str, Any]], columns: int | None = None) -> str:
    """What is printed at a terminal of that many columns; into a pipe without."""
    at_a_terminal = {} if columns is None else {"TTY_COMPATIBLE": "1", "COLUMNS": str(columns)}
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    with mock.patch.dict(os.environ, environ | at_a_terminal, clear=True):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            print_table(COLUMNS, table)
        return unstyle(out.getvalue())


@given(rows)
def test_into_a_pipe_each_row_is_a_line_with_its_cells_between_tabs(table: list[dict[str, Any]]) -> None:
    head, *lines = printed(table).removesuffix("\n").split("\n")

    assert head.split("\t") == [column.title for column in COLUMNS]
    assert len(lines) == len(table)
    for row, line in zip(table, lines, strict=True):
        name, _, turns, *rest = line.split("\t")
        assert (name, turns, len(rest)) == (row["name"], "" if row["turns"] is None else str(row["turns"]), 2)
        assert line.replace("\t", "").isprintable()


@given(rows, st.integers(20, 200))
def test_at_a_terminal_each_key_is_whole_and_first(table: list[dict[str, Any]], columns: int) -> None:
    shown = printed(table, columns).split("\n")

    for row in table:
        assert any(line.startswith(row["name"]) for line in shown)


@given(rows, st.integers(20, 200))
def test_a_table_is_never_wider_than_its_terminal(table: list[dict[str, Any]], columns: int) -> None:
    """What is narrower gets the rows one below the other."""
    shown = printed([{**row, "problem": []} for row in table], columns).split("\n")

    if shown[0].startswith("name"):
        assert max(map(cell_len, shown)) <= columns


def test_an_empty_table_is_its_titles_into_a_pipe_and_nothing_at_a_terminal() -> None:
    assert printed([]) == "name\tstatus\tturns\tidentities\tproblem\n"
    assert printed([], 80) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["at", "limited", "since", "x"]), inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(texts, json_values, max_size=4))
def test_any_document_gets_the_envelope(document: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_json(document)

    told = json.loads(out.getvalue())
    assert next(iter(told)) == "version"
    assert told.keys() == {"version", *document}


def test_what_is_known_of_one_thing_is_a_line_for_each_fact() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_facts({"name": "work", "limits": ["5 h", "7 d"], "paused": False, "plan": None})

    assert out.getvalue() == "name\twork\nlimits\t5 h; 7 d\npaused\tno\nplan\t\n"
