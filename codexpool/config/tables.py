"""The ``[[identity]]`` and ``[[member]]`` tables of a pool.toml's text: one added or removed, or one of its keys.

This is done on the text and not through tomlkit's documents: tomlkit puts a new key of such a table behind the
comments that follow it, and its removal does not give back the same bytes. What was done is checked by reading both
texts: they may differ in what was asked for, and in nothing else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import tomlkit

from codexpool.config.layout import Entry, Header, KeyPath, Layout
from codexpool.config.model import shown
from codexpool.config.named import Table

Value = str | bool | Sequence[str] | Mapping[str, "Value"] | int
"""What a key can be set to. A raw TOML literal (a time) is a `Literal`."""


class Literal(str):
    """A value that is TOML already."""

    __slots__ = ()


class UneditableError(ValueError):
    """A text that cannot be edited as asked; the message says why."""


def with_key(text: str, name: str, key: str, value: Value, of: Table = Table.IDENTITY) -> str:
    """``text`` with ``key`` in the table of that name, in place of one that is there already.

    Raises UneditableError if the text is no TOML or has no such table.
    """
    at = table_at(text, name, of)
    layout = Layout(text)
    if present := layout.entry((*at, key)):
        result = text[: present.value] + toml(value) + text[present.end :]
    else:
        result = _inserted(_without(text, (*at, key)), at, f"{key} = {toml(value)}")
    _check(text, result, at, key, there=True)
    return result


def without_key(text: str, name: str, key: str, of: Table = Table.IDENTITY) -> str:
    """``text`` without that key of the table of that name: the very text it was before the key was set.

    Raises UneditableError if the text is no TOML or has no such table.
    """
    at = table_at(text, name, of)
    result = _without(text, (*at, key))
    _check(text, result, at, key, there=False)
    return result


def with_table(text: str, table: Mapping[str, Value], of: Table) -> str:
    """``text`` with one more table of an array at its end.

    Raises UneditableError if the text is no TOML, or has these tables in an inline array.
    """
    before = _read(text)
    newline = "\r\n" if "\r\n" in text and not re.search(r"(?<!\r)\n", text) else "\n"
    width = max(map(len, table))
    lines = [f"[[{of}]]", *(f"{key:{width}} = {toml(value)}" for key, value in table.items())]
    start = text if not text or text.endswith("\n") else text + newline
    result = start + (newline if start.strip() else "") + newline.join(lines) + newline
    try:
        after = _read(result)
    except UneditableError:
        raise UneditableError(f"has its {of} tables in an inline array") from None
    if after.get(of, [])[:-1] != before.get(of, []) or _others(before, of) != _others(after, of):
        raise UneditableError(f"the {of} cannot be added without changing something else")
    return result


def without_identity(text: str, name: str) -> str:
    """``text`` without the table of identity ``name``; all comments stay.

    Raises UneditableError if the text is no TOML, has no such identity, or has it in an inline array.
    """
    of = Table.IDENTITY
    at = table_at(text, name, of)
    before = _read(text)
    result = _without(text, at)
    after = _read(result)
    del before[of][at[1]]
    if after.get(of, []) != before[of] or _others(before, of) != _others(after, of):
        raise UneditableError("the identity cannot be removed without changing something else")
    return result


def table_at(text: str, name: str, of: Table) -> tuple[Table, int]:
    """The way to the table of that name. Raises UneditableError if there is none."""
    tables = _read(text).get(of)
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        if isinstance(table, dict) and table.get("name") == name:
            return (of, index)
    raise UneditableError(f"there is no {of} {shown(name)}")


def time_literal(at: datetime) -> Literal:
    """A time with its zone as pool.toml has it: UTC, to the second."""
    return Literal(f"{at.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z")


def toml(value: Value) -> str:
    """A value as pool.toml has it: tables and arrays on one line."""
    match value:
        case Literal():
            return str(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return tomlkit.string(value).as_string()
        case Mapping():
            return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
        case _:
            return "[" + ", ".join(map(toml, value)) + "]"


def _inserted(text: str, at: KeyPath, assignment: str) -> str:
    layout = Layout(text)
    name = layout.entry((*at, "name"))
    if name is None:
        raise UneditableError(f"the table of the {at[0]} was not found")
    last = layout.neighbours(name)[-1]
    if last.inline:
        return f"{text[: last.end]}, {assignment}{text[last.end :]}"
    start, end = _lines(text, last.start, last.end)
    indent = text[start : last.start]
    if text[start:end].endswith("\n"):
        newline = "\r\n" if text[start:end].endswith("\r\n") else "\n"
        return f"{text[:end]}{indent}{assignment}{newline}{text[end:]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{text}{newline}{indent}{assignment}"


def _without(text: str, path: KeyPath) -> str:
    """``text`` without all that makes up ``path``: a value, dotted keys, a table of its own."""
    while True:
        layout = Layout(text)
        parts = list(layout.under(path))
        if not parts:
            return text
        # Entries first, and the header of the table itself last: it is what they are told from their neighbours by.
        part = next((part for part in parts if isinstance(part, Entry)), parts[-1])
        if isinstance(part, Entry) and part.inline:
            text = _without_item(text, part, layout.neighbours(part))
        else:
            text = _without_line(text, part)
        if part.path == path and isinstance(path[-1], int):
            return text  # The next table of the array has its number now.


def _without_item(text: str, item: Entry, items: list[Entry]) -> str:
    index = items.index(item)
    if index:
        return text[: items[index - 1].end] + text[item.end :]
    return text[: item.start] + text[items[1].start if len(items) > 1 else item.end :]


def _without_line(text: str, part: Entry | Header) -> str:
    start, end = _lines(text, part.start, part.end)
    rest = text[part.end : end]
    if rest.strip():  # the operator's comment stays
        return text[: part.start] + rest.lstrip(" \t") + text[end:]
    if not rest.endswith("\n"):  # the last line, and it has no end: the one before had none either
        return text[:start].removesuffix("\n").removesuffix("\r")
    return text[:start] + text[end:]


def _lines(text: str, start: int, end: int) -> tuple[int, int]:
    """From the start of the line of ``start`` to behind the line end of ``end``."""
    newline = text.find("\n", end)
    return text.rfind("\n", 0, start) + 1, len(text) if newline < 0 else newline + 1


def _check(before: str, after: str, at: tuple[Table, int], key: str, *, there: bool) -> None:
    """Refuse a text in which anything but one key of the table at ``at`` is other than it was."""
    old, new = _read(before), _read(after)
    of, index = at
    old[of][index].pop(key, None)
    if (new[of][index].pop(key, None) is not None) != there or old != new:
        raise UneditableError(f"{key} cannot be changed without changing something else")


def _others(document: dict[str, Any], of: Table) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != of}


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UneditableError(f"is not TOML: {error}") from None
