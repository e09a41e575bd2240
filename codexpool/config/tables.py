"""Edits the ``[[identity]]`` and ``[[member]]`` tables in the text of a pool.toml: add or remove one, or one key.

tomlkit edits single statements only: in a whole document it moves interleaved tables, puts a new key after the
comments of the next table, and drops the comments of what it removes. Every result is compared with the old text as
tomllib reads both: nothing may differ but what was asked for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import tomlkit
import tomlkit.items

from codexpool.config.model import Table, shown
from codexpool.config.statements import KeyPath, Statement, split

Value = str | bool | int | date | Sequence[str] | Mapping[str, "Value"]


class UneditableError(ValueError):
    """A text that cannot be edited as asked; the message says why."""


def with_key(text: str, name: str, key: str, value: Value, of: Table = Table.IDENTITY) -> str:
    """Return ``text`` with ``key`` set in the table of that name.

    Raises UneditableError if the text is not TOML, or has no such table.
    """
    at, expected, statements = _find(text, name, of)
    expected[of][at[1]][key] = read(f"value = {toml(value)}")["value"]
    if _is_inline(at, statements):
        return _checked(_in_array(statements, at, key, value), expected, key)
    parts = [index for index, statement in enumerate(statements) if statement.belongs_to((*at, key))]
    texts = [statement.text for statement in statements]
    if len(parts) == 1 and (replaced := _replaced(statements[parts[0]], key, value)):
        texts[parts[0]] = replaced
        return _checked("".join(texts), expected, key)
    result = _inserted(split(_without(statements, (*at, key))), at, f"{key} = {toml(value)}")
    return _checked(result, expected, key)


def without_key(text: str, name: str, key: str, of: Table = Table.IDENTITY) -> str:
    """Return ``text`` without that key of the table of that name: the same text as before the key was set.

    Raises UneditableError if the text is not TOML, or has no such table.
    """
    at, expected, statements = _find(text, name, of)
    expected[of][at[1]].pop(key, None)
    if _is_inline(at, statements):
        return _checked(_in_array(statements, at, key, None), expected, key)
    return _checked(_without(statements, (*at, key)), expected, key)


def with_table(text: str, table: Mapping[str, Value], of: Table) -> str:
    """Return ``text`` with one more table of an array at its end.

    Raises UneditableError if the text is not TOML, or has these tables in an inline array.
    """
    expected = read(text)
    if expected.get(of) == []:  # `identity = []`, which could not be followed by [[identity]]
        text = _without(split(text), (of,))
    newline = "\r\n" if "\r\n" in text and not re.search(r"(?<!\r)\n", text) else "\n"
    width = max(map(len, table))
    lines = [f"[[{of}]]", *(f"{key:{width}} = {toml(value)}" for key, value in table.items())]
    added = newline.join(lines) + newline
    start = text if not text or text.endswith("\n") else text + newline
    result = start + (newline if start.strip() else "") + added
    try:
        read(result)
    except UneditableError:
        raise UneditableError(f"has its {of} tables in an inline array") from None
    expected[of] = [*expected.get(of, []), *read(added)[of]]
    return _checked(result, expected, f"the {of}")


def without_table(text: str, name: str, of: Table = Table.IDENTITY) -> str:
    """Return ``text`` without the table of ``name``; all comments stay.

    Raises UneditableError if the text is not TOML, has no such table, or has it in an inline array.
    """
    at, expected, statements = _find(text, name, of)
    if _is_inline(at, statements):
        raise UneditableError(f"has its {of} tables in an inline array")
    del expected[at[0]][at[1]]
    if not expected[at[0]]:
        del expected[at[0]]
    return _checked(_without(statements, at), expected, f"the {of}")


def toml(value: Value) -> str:
    """Return a value as pool.toml has it: tables and arrays on one line, times in UTC and to the second."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(microsecond=0)
    return tomlkit.item(value).as_string()


def _find(text: str, name: str, of: Table) -> tuple[tuple[Table, int], dict[str, Any], list[Statement]]:
    """Return the path of the table of that name, and the text as a document and as statements."""
    document, statements = read(text), split(text)
    index, _ = named(document, of).get(name, (None, {}))
    if index is None:
        raise UneditableError(f"there is no {of} {shown(name)}")
    return (of, index), document, statements


def _is_inline(at: KeyPath, statements: Iterable[Statement]) -> bool:
    return not any(statement.table == at for statement in statements)


def _in_array(statements: list[Statement], at: tuple[Table, int], key: str, value: Value | None) -> str:
    """Set a key of a table in an inline array, or remove it if ``value`` is None."""
    texts = [statement.text for statement in statements]
    part = next(i for i, statement in enumerate(statements) if statement.belongs_to(at[:1]))
    document: Any = tomlkit.parse(texts[part])
    table = document[at[0]][at[1]]
    if value is not None:
        table[key] = tomlkit.value(toml(value))
    elif key in table:
        table.remove(key)
    texts[part] = document.as_string()
    return "".join(texts)


def _replaced(entry: Statement, key: str, value: Value) -> str:
    """Return a ``key = value`` with another value; empty for a header or a dotted key, which have to be removed."""
    document: Any = tomlkit.parse(entry.text)
    if key not in entry.values or isinstance(document[key], tomlkit.items.Table):
        return ""
    document[key] = tomlkit.value(toml(value))
    return str(document.as_string())


def _inserted(statements: list[Statement], at: KeyPath, assignment: str) -> str:
    """Add a line after the last one of the table itself, before its sub-tables and the comments that follow it."""
    last = max(index for index, statement in enumerate(statements) if statement.table == at)
    texts = [statement.text for statement in statements]
    ending = re.search(r"\r?\n$", texts[last])
    newline = ending[0] if ending else "\r\n" if "\r\n" in "".join(texts) else "\n"
    line = statements[last].indent + assignment
    texts[last] += line + newline if ending else newline + line
    return "".join(texts)


def _without(statements: Iterable[Statement], path: KeyPath) -> str:
    """Remove all that makes up ``path``, but not the comments beside it."""
    text = ""
    for statement in statements:
        if not statement.belongs_to(path):
            text += statement.text
        elif comment := statement.comment:
            text += statement.indent + comment
        elif not statement.text.endswith("\n"):  # The last line has no line end: neither had the one before it.
            text = text.removesuffix("\n").removesuffix("\r")
    return text


def _checked(result: str, expected: Mapping[str, Any], what: str) -> str:
    """Return ``result`` if it means what is ``expected``. Raises UneditableError otherwise."""
    if read(result) != expected:
        raise UneditableError(f"{what} cannot be edited without changing something else")
    return result


def named(document: Mapping[str, Any], of: Table) -> dict[str, tuple[int | None, Mapping[str, Any]]]:
    """Return the tables of an array by name, each with its index. The document may be an invalid pool.toml."""
    tables = document.get(of)
    found = (
        [(i, table) for i, table in enumerate(tables) if isinstance(table, dict)] if isinstance(tables, list) else []
    )
    return {table["name"]: (i, table) for i, table in found if isinstance(table.get("name"), str)}


def read(text: str) -> dict[str, Any]:
    """Parse ``text``. Raises UneditableError if it is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UneditableError(f"is not TOML: {error}") from None
