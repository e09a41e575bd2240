"""The line finder agrees with tomllib on what stands where."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given

from codexpool.config.layout import KeyPath, Layout
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
        (("identity", 0, "not there"), 5),
        (("identity", 1), 11),
        (("identity", 1, "quoted key", "a.b", "c", 1, "y", 1), 14),
        (("identity", 1, "needs_replacement", "since"), 16),
        (("identity", 1, "token"), 17),
        (("identity", 1, "more"), 19),
        (("identity", 1, "more", "deep"), 20),
        (("identity", 2, "name"), 23),
        (("nowhere",), 1),
    ],
)
def test_each_key_is_found_in_its_line(path: KeyPath, line: int) -> None:
    assert Layout(TEXT).line(path) == line


def test_lines_are_the_same_with_crlf() -> None:
    windows = Layout(TEXT.replace("\n", "\r\n"))
    plain = Layout(TEXT)
    assert [windows.line(entry.path) for entry in windows.entries] == [plain.line(e.path) for e in plain.entries]


def test_every_value_found_is_the_value_tomllib_reads() -> None:
    assert_agrees(TEXT)


@given(pool_texts())
def test_every_value_found_is_the_value_tomllib_reads_in_any_text(written: Written) -> None:
    assert_agrees(written.text)


def assert_agrees(text: str) -> None:
    layout = Layout(text)
    document = tomllib.loads(text)
    for entry in layout.entries:
        assert tomllib.loads(f"value = {text[entry.value : entry.end]}")["value"] == value_at(document, entry.path)
    found = {entry.path for entry in layout.entries}
    assert all(any(path[: len(known)] == known for known in found) for path in leaves(document))


def value_at(document: Any, path: KeyPath) -> Any:
    for part in path:
        document = document[part]
    return document


def leaves(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]
