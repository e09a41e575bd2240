"""What ``[[identity]]`` and ``[[member]]`` tables have in common: the array, their names, and when they end."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from codexpool.config.checks import Section, kind
from codexpool.config.model import looks_like_a_token, shown

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Table(StrEnum):
    """The arrays of tables of a pool.toml, by their keys."""

    IDENTITY = "identity"
    MEMBER = "member"


def name_problem(name: str, of: Table = Table.IDENTITY) -> tuple[str, str] | None:
    """Return what is wrong with a name and how to fix it; None if it is valid."""
    if looks_like_a_token(name):
        return "looks like a token", "names are shown in logs: choose another one"
    if not name:
        return "is empty", f"give the {of} a name"
    if not NAME.fullmatch(name):
        return f"{shown(name)} is not a valid name", "use at most 64 letters, digits, - _ and ."
    return None


def read_tables(root: Section, of: Table, keys: tuple[str, ...]) -> list[Section]:
    """Return the tables of an array, and note names that two of them have."""
    value = root.get(of)
    a_table = f"{'an' if of is Table.IDENTITY else 'a'} [[{of}]] table"
    if isinstance(value, dict):
        root.problem(of, "is one table", f"write [[{of}]], with two brackets")
    elif value is not None and not isinstance(value, list):
        root.problem(of, f"is {kind(value)}", f"write {a_table} for each {of}")
    items = value if isinstance(value, list) else []
    tables = [Section(root.checks, (of, i), item, keys, f"write {a_table}") for i, item in enumerate(items)]
    lines: dict[str, int] = {}
    for table in tables:
        name = table.get("name")
        if isinstance(name, str):
            if name in lines:
                what = f"{shown(name)} is also the name of the {of} in line {lines[name]}"
                table.problem("name", what, f"give each {of} a name of its own")
            lines.setdefault(name, table.line("name"))
    return [table for table in tables if table.is_table]


def read_name(table: Section, of: Table) -> str:
    """Return the name of a table."""
    name = table.get("name")
    if isinstance(name, str):
        if problem := name_problem(name, of):
            table.problem("name", *problem)
        return name
    if name is None:
        table.problem("", "has no name", 'add name = "…"')
    else:
        table.problem("name", f"is {kind(name)}", "write a string")
    return ""


def read_end(table: Section, key: str) -> float | None:
    """Return the unix second at which something ends, set as a time with a zone, or as its last day (UTC).

    Return None if it is not set, or too far away to be a unix second.
    """
    value = table.get(key)
    try:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.timestamp()
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value + timedelta(days=1), time(), UTC).timestamp()
    except (OverflowError, ValueError):
        return None
    if key in table:
        what = f"is not a date, nor a time with a zone: it is {kind(value)}"
        table.problem(key, what, f"write {key} = 2026-12-31")
    return None
