"""The statements of a text, and the line of each key."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given

from codexpool.config.statements import KeyPath, first_lines, split
from tests.config.texts import Written, pool_texts

TEXT = '''\
# [[identity]]
[pool]                       # one
selection = "headroom"

[[identity]]
name  = """
[[identity]] # no header
name = 'x' \\""" """
token = { env = "A#]}" , file = 'b' }   # three ]

  [[ "identity" ]]
"quoted key".'a.b' . c = [
   1, # ,
   { x = "]" , y = [ [], 2 ] },
]
needs_replacement.since = 1979-05-27 07:32:00Z
token = """""two quotes"""""

[identity.more]
deep = \'\'\'
'quoted\'\'\'\'
[[identity]]
name="c"'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("pool",), 2),
        (("pool", "selection"), 3),
        (("identity",), 5),
        (("identity", 0), 5),
        (("identity", 0, "name"), 6),
        (("identity", 0, "token"), 9),
        (("identity", 0, "token", "file"), 9),
        (("identity", 1), 11),
        (("identity", 1, "quoted key", "a.b", "c", 1, "y", 1), 14),
        (("identity", 1, "needs_replacement", "since"), 16),
        (("identity", 1, "token"), 17),
        (("identity", 1, "more"), 19),
        (("identity", 1, "more", "deep"), 20),
        (("identity", 2, "name"), 23),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_key_has_the_line_of_its_statement(path: KeyPath, line: int, newline: str) -> None:
    assert first_lines(TEXT.replace("\n", newline))[path] == line


def test_the_statements_are_the_text() -> None:
    assert_agrees(TEXT)


@given(pool_texts())
def test_the_statements_are_the_text_in_any_text(written: Written) -> None:
    assert_agrees(written.text)


def assert_agrees(text: str) -> None:
    assert "".join(statement.text for statement in split(text)) == text
    assert set(first_lines(text)) >= set(paths(tomllib.loads(text)))


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(found for key, item in items for found in paths(item, (*path, key)))]
