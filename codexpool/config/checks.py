"""Reads the values of pool.toml, and notes a problem for each one that is not what it should be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from codexpool.config.model import Problem, Table, looks_like_a_token, shown
from codexpool.config.statements import KeyPath, first_lines

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_FOLDER = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.")  # on Windows
SEPARATOR = "+"  # Comes between a user of the proxy and the name of an identity: it is in no name.

Word = TypeVar("Word", bound=StrEnum)


class Checks:
    """The problems of one file, each with its line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._lines = first_lines(text)

    def line(self, at: KeyPath) -> int:
        """Return the line, from 1, that first mentions ``at``, or else its nearest parent."""
        while at and at not in self._lines:
            at = at[:-1]
        return self._lines.get(at, 1)

    def problem(self, at: KeyPath, what: str, remedy: str, line_of: KeyPath | None = None) -> None:
        """Note what is wrong with the value at ``at``, or with the whole file if that is empty."""
        line_of = line_of or at
        dotted = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{_key(part)}" for part in at)
        line = self.line(line_of) if line_of else None
        self.problems.append(Problem(self.path, line, dotted.removeprefix("."), what, remedy))

    def text(self, at: KeyPath, value: object, form: str) -> str:
        """Return a string that is not empty, fits on a line and is no token; else the empty string."""
        if isinstance(value, str) and value and value.isprintable() and not looks_like_a_token(value):
            return value
        what = f"is a token, not {form}" if isinstance(value, str) and looks_like_a_token(value) else f"is not {form}"
        self.problem(at, what if isinstance(value, str) else f"is {kind(value)}", f"write {form}")
        return ""


class Section:
    """One table of the file. What reads a value returns a harmless one in place of one that is wrong or missing."""

    def __init__(self, checks: Checks, at: KeyPath, value: object, keys: tuple[str, ...], form: str) -> None:
        """``keys`` are all the table may have; ``form`` is how to write it."""
        self.checks = checks
        self.at = at
        self.is_table = isinstance(value, dict)
        self._values: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not self.is_table:
            checks.problem(at, f"is {kind(value)}", form)
        for key in self._values:
            if key not in keys:
                checks.problem(at, f"unknown key {shown(key)}", choice(key, keys), (*at, key))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """Return the value, unchecked; None if it is not set."""
        return self._values.get(key)

    def line(self, key: str) -> int:
        return self.checks.line((*self.at, key))

    def problem(self, key: str, what: str, remedy: str) -> None:
        """Note what is wrong with the value of ``key``, or with the table itself if that is empty."""
        self.checks.problem((*self.at, key) if key else self.at, what, remedy)

    def section(self, key: str, keys: tuple[str, ...], form: str) -> Section:
        """Return an inner table; an empty one if it is not set."""
        return Section(self.checks, (*self.at, key), self._values.get(key, {}), keys, form)

    def sections(self, of: Table, keys: tuple[str, ...]) -> list[Section]:
        """Return the tables of an array, and note names that two of them have."""
        value = self.get(of)
        a_table = f"{'an' if of is Table.IDENTITY else 'a'} [[{of}]] table"
        if isinstance(value, dict):
            self.problem(of, "is one table", f"write [[{of}]], with two brackets")
        elif value is not None and not isinstance(value, list):
            self.problem(of, f"is {kind(value)}", f"write {a_table} for each {of}")
        items = value if isinstance(value, list) else []
        tables = [Section(self.checks, (of, i), item, keys, f"write {a_table}") for i, item in enumerate(items)]
        lines: dict[str, int] = {}
        for table in tables:
            name = table.get("name")
            if isinstance(name, str) and name in lines:
                what = f"{shown(name)} is also the name of the {of} in line {lines[name]}"
                table.problem("name", what, f"give each {of} a name of its own")
            elif isinstance(name, str):
                lines[name] = table.line("name")
        return [table for table in tables if table.is_table]

    def name(self, of: Table) -> str:
        name = self.get("name")
        if name is None:
            self.problem("", "has no name", 'add name = "…"')
        elif not isinstance(name, str):
            self.problem("name", f"is {kind(name)}", "write a string")
        elif problem := name_problem(name, of):
            self.problem("name", *problem)
        return str(name)

    def text(self, key: str, form: str) -> str:
        """Return a string that is not empty, fits on a line and is no token; else the empty string."""
        return self.checks.text((*self.at, key), self._values[key], form) if key in self else ""

    def path(self, key: str, form: str = "the path of a file") -> Path | None:
        """Return a path, which may start with ``~`` and is relative to the folder of pool.toml."""
        given = self.text(key, form)
        try:
            return self.checks.path.parent / Path(given).expanduser() if given else None
        except RuntimeError:
            self.problem(key, "starts with ~, but there is no such home folder", "write the full path")
            return None

    def argv(self, key: str) -> tuple[str, ...]:
        """Return a program with its arguments."""
        value = self.get(key)
        is_list = isinstance(value, list)
        if is_list and value and value[0] and all(isinstance(part, str) and "\0" not in part for part in value):
            return tuple(value)
        what = "is not a program with its arguments" if is_list else f"is {kind(value)}"
        self.problem(key, what, 'write the program and its arguments: ["program", "argument"]')
        return ()

    def boolean(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            self.problem(key, f"is {kind(value)}", f"write {key} = true, or remove it")
        return value is True

    def number(self, key: str, default: int, least: int | None = None, most: int | None = None) -> int:
        """Return a whole number within these bounds."""
        value = self._values.get(key, default)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number and (least is None or value >= least) and (most is None or value <= most):
            return int(value)
        bounds = "" if least is None else f", {least} or more" if most is None else f" from {least} to {most}"
        self.problem(key, f"is {value if is_number else kind(value)}", f"write a whole number{bounds}")
        return default

    def limit(self, key: str) -> int | None:
        """Return a number of at least 1; None, for no limit, if it is not set."""
        return self.number(key, 1, least=1) if key in self else None

    def word(self, key: str, words: type[Word]) -> Word | None:
        """Return one of a few words; None if it is not set."""
        value = self.get(key)
        try:
            return None if value is None else words(value)
        except ValueError:
            found = shown(value) if isinstance(value, str) else kind(value)
            self.problem(key, f"is {found}", choice(value, list(words)))
            return None

    def end(self, key: str) -> float | None:
        """Return the unix second at which something ends, set as a time with a zone, or as its last day (UTC).

        Return None if it is not set, or too far away to be a unix second.
        """
        value = self.get(key)
        try:
            if isinstance(value, datetime) and value.tzinfo is not None:
                return value.timestamp()
            if isinstance(value, date) and not isinstance(value, datetime):
                return datetime.combine(value + timedelta(days=1), time(), UTC).timestamp()
        except (OverflowError, ValueError):
            return None
        if key in self:
            what = f"is not a date, nor a time with a zone: it is {kind(value)}"
            self.problem(key, what, f"write {key} = 2026-12-31")
        return None


def name_problem(name: str, of: Table = Table.IDENTITY) -> tuple[str, str] | None:
    """Return what is wrong with a name and how to fix it; None if it is valid."""
    if looks_like_a_token(name):
        return "looks like a token", "names are shown in logs: choose another one"
    if not name:
        return "is empty", f"give the {of} a name"
    if not NAME.fullmatch(name):
        return f"{shown(name)} is not a valid name", "use at most 64 letters, digits, - _ and ."
    return None


def new_name_problem(name: str, others: Iterable[str], of: Table) -> tuple[str, str] | None:
    """Return what is wrong with a name to be given now, and how to fix it; None if it is valid.

    It has to be good for a folder, and on a command line. Names that are in a file already are not judged by this:
    an upgrade must not make a pool.toml invalid.
    """
    if problem := name_problem(name, of):
        return problem
    if not name[0].isalnum():
        return f"{shown(name)} begins with {name[0]}", "begin it with a letter or a digit"
    if NO_FOLDER.fullmatch(name):
        return f"{shown(name)} is not a name for a folder on Windows", "choose another one"
    same = (other for other in others if other != name and other.casefold() == name.casefold())
    if (other := next(same, None)) is not None:
        return f"{shown(name)} differs from {of} {shown(other)} in case only", "choose another one"
    return None


def _key(part: str) -> str:
    """Return a key of the file as a message may show it: quoted if TOML wants that."""
    return part if BARE_KEY.fullmatch(part) and not looks_like_a_token(part) else shown(part)


def choice(value: object, accepted: Iterable[str]) -> str:
    """Return what to write instead of a value: the accepted one closest to it, or all of them."""
    words = list(accepted)
    near = difflib.get_close_matches(value.lower(), words, n=1) if isinstance(value, str) else []
    return f'did you mean "{near[0]}"?' if near else f"accepted here: {', '.join(words)}"


def kind(value: object) -> str:
    """Return the type of a value in TOML's words. The value itself may be a secret."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")
