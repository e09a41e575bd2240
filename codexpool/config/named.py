"""What ``[[identity]]`` and ``[[member]]`` tables have in common: the array, their names, and times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from codexpool.config.checks import Checks, kind
from codexpool.config.model import looks_like_a_token, shown
from codexpool.config.statements import KeyPath

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Table(StrEnum):
    """The arrays of tables that a pool.toml has, by their keys."""

    IDENTITY = "identity"
    MEMBER = "member"


def name_problem(name: str, of: Table = Table.IDENTITY) -> tuple[str, str] | None:
    """What is wrong with a name, and what mends it; None if nothing is."""
    if looks_like_a_token(name):
        return "looks like a token", "names are shown in logs: choose another one"
    if not name:
        return "is empty", f"give the {of} a name"
    if not NAME.fullmatch(name):
        return f"{shown(name)} is no name", "use letters, digits, - _ and . only, at most 64 of them"
    return None


def read_tables(checks: Checks, of: Table, value: object) -> list[tuple[int, Mapping[str, Any]]]:
    """The tables of an array, each with its index; no two of them have the same name."""
    if isinstance(value, dict):
        checks.problem((of,), "is one table", f"write [[{of}]], with two brackets")
        return []
    if not isinstance(value, list):
        checks.problem((of,), f"is {kind(value)}", f"write {_a(of)} table for each {of}")
        return []
    tables: list[tuple[int, Mapping[str, Any]]] = []
    for index, item in enumerate(value):
        if isinstance(item, dict):
            tables.append((index, item))
        else:
            checks.problem((of, index), f"is {kind(item)}", f"write {_a(of)} table")
    _refuse_names_given_twice(checks, of, tables)
    return tables


def read_name(checks: Checks, of: Table, at: KeyPath, table: Mapping[str, Any]) -> str:
    """The name of the table at ``at``."""
    if "name" not in table:
        checks.problem(at, "has no name", 'add name = "…"')
        return ""
    name = table["name"]
    if not isinstance(name, str):
        checks.problem((*at, "name"), f"is {kind(name)}", "write a string")
        return ""
    if problem := name_problem(name, of):
        checks.problem((*at, "name"), *problem)
    return name


def read_expires(checks: Checks, at: KeyPath, value: object) -> float | None:
    """The unix second from which something is not good any more: the end of a day (of UTC), or a time with its zone.

    None where it is good for ever, or where the value is no such thing.
    """
    try:
        if isinstance(value, datetime):
            if value.tzinfo is not None:
                return value.timestamp()
        elif isinstance(value, date):
            return datetime.combine(value + timedelta(days=1), time(), UTC).timestamp()
    except (OverflowError, ValueError):
        return None  # The last day of all, or out of all reckoning.
    checks.problem(at, f"is not a day, nor a time with its zone: it is {kind(value)}", f"write {at[-1]} = 2026-12-31")
    return None


def _refuse_names_given_twice(checks: Checks, of: Table, tables: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    lines: dict[str, int] = {}
    for index, table in tables:
        name, at = table.get("name"), (of, index, "name")
        if not isinstance(name, str):
            continue
        if name in lines:
            what = f"{shown(name)} is the name of the {of} in line {lines[name]} too"
            checks.problem(at, what, f"give each {of} a name of its own")
        lines.setdefault(name, checks.line(at))


def _a(of: Table) -> str:
    return f"an [[{of}]]" if of is Table.IDENTITY else f"a [[{of}]]"
