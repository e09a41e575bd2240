"""Reads the values of pool.toml, and notes a problem for each one that is not what it should be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from codexpool.config.model import Problem, looks_like_a_token, shown
from codexpool.config.statements import KeyPath, first_lines

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

    def problem(self, at: KeyPath, what: str, remedy: str) -> None:
        """Note what is wrong with the value at ``at``, or with the whole file if that is empty."""
        self.problems.append(Problem(self.path, self.line(at) if at else None, dotted(at), what, remedy))


class Section:
    """One table of the file. What reads a value returns a harmless one in place of one that is wrong or missing."""

    def __init__(
        self, checks: Checks, at: KeyPath, value: object, keys: tuple[str, ...], form: str, unknown: str = ""
    ) -> None:
        """``keys`` are all that there may be. ``form`` is how to write the table, ``unknown`` what else to write
        in place of an unknown key."""
        self.checks = checks
        self.at = at
        self.is_table = isinstance(value, dict)
        self._values: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not self.is_table:
            checks.problem(at, f"is {kind(value)}", form)
        for key in self._values:
            if key not in keys:
                problem = f"unknown key {shown(key)}"
                line = checks.line((*at, key))
                checks.problems.append(Problem(checks.path, line, dotted(at), problem, unknown or choice(key, keys)))

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

    def section(self, key: str, keys: tuple[str, ...], form: str, unknown: str = "") -> Section:
        """Return an inner table; an empty one if it is not set."""
        return Section(self.checks, (*self.at, key), self._values.get(key, {}), keys, form, unknown)

    def text(self, key: str, form: str) -> str:
        """Return a string that is not empty, fits on a line and is no token; else the empty string."""
        return text(self.checks, (*self.at, key), self._values[key], form) if key in self else ""

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
        form = 'write the program and its arguments: ["program", "argument"]'
        if not isinstance(value, list):
            self.problem(key, f"is {kind(value)}", form)
        elif not value or not all(isinstance(part, str) and "\0" not in part for part in value) or not value[0]:
            self.problem(key, "is not a program with its arguments", form)
        else:
            return tuple(value)
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


def text(checks: Checks, at: KeyPath, value: object, form: str) -> str:
    """Return a string that is not empty, fits on a line and is no token; else the empty string."""
    if not isinstance(value, str):
        checks.problem(at, f"is {kind(value)}", f"write {form}")
    elif looks_like_a_token(value):
        checks.problem(at, f"is a token, not {form}", f"write {form}")
    elif not value or not value.isprintable():
        checks.problem(at, f"is not {form}", f"write {form}")
    else:
        return value
    return ""


def dotted(at: KeyPath) -> str:
    """Return a path as people read it, counted from 1: ``identity[2].token``."""
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def choice(value: object, accepted: Iterable[str]) -> str:
    """Return what to write instead of a value: the accepted one closest to it, or all of them."""
    words = list(accepted)
    near = difflib.get_close_matches(value.lower(), words, n=1) if isinstance(value, str) else []
    return f'did you mean "{near[0]}"?' if near else f"accepted here: {', '.join(words)}"


def kind(value: object) -> str:
    """Return the type of a value in TOML's words. The value itself may be a secret."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")
