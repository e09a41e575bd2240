"""What every part of reading pool.toml stands on: a value is looked at, and what does not fit becomes a problem."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codexpool.config.model import Problem, looks_like_a_token, shown
from codexpool.config.statements import KeyPath, first_lines


class Checks:
    """The problems of one file, each with its line; a stand-in value takes the place of what does not fit."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines = first_lines(text)
        self.problems: list[Problem] = []

    def problem(self, at: KeyPath, what: str, remedy: str) -> None:
        """Note what is wrong with the value at ``at``; with the file as a whole where that is empty."""
        line = self.line(at) if at else None
        self.problems.append(Problem(self.path, line, said(at), what, remedy))

    def line(self, at: KeyPath) -> int:
        """Return the line, from 1, that first mentions ``at``, or else its nearest parent."""
        while at and at not in self._lines:
            at = at[:-1]
        return self._lines.get(at, 1)

    def known(self, at: KeyPath, table: Mapping[str, Any], keys: tuple[str, ...], remedy: str = "") -> None:
        """Refuse every key of a table but these."""
        for key in table:
            if key not in keys:
                line = self.line((*at, key))
                hint = remedy or choice(key, keys)
                self.problems.append(Problem(self.path, line, said(at), f"unknown key {shown(key)}", hint))

    def table(self, at: KeyPath, value: object, form: str) -> Mapping[str, Any]:
        """A table; an empty one where it is none."""
        if isinstance(value, dict):
            return value
        self.problem(at, f"is {kind(value)}", f"write {form}")
        return {}

    def text(self, at: KeyPath, value: object, form: str) -> str:
        """A string that is not empty, fits on a line and is no token; else the empty string."""
        if not isinstance(value, str):
            self.problem(at, f"is {kind(value)}", f"write {form}")
        elif looks_like_a_token(value):
            self.problem(at, f"is a token, not {form}", f"write {form}")
        elif not value or not value.isprintable():
            self.problem(at, f"is not {form}", f"write {form}")
        else:
            return value
        return ""

    def argv(self, at: KeyPath, value: object) -> tuple[str, ...]:
        """An argument vector; an empty one where it is none."""
        form = 'write the program and its arguments: ["program", "argument"]'
        if not isinstance(value, list):
            self.problem(at, f"is {kind(value)}", form)
        elif not value or not all(isinstance(part, str) and "\0" not in part for part in value) or not value[0]:
            self.problem(at, "is not a program with its arguments", form)
        else:
            return tuple(value)
        return ()

    def milliseconds(self, at: KeyPath, value: object, least: int, usual: int) -> int:
        """A whole number of milliseconds."""
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_MS:
            return value
        what = f"is {value}" if isinstance(value, int) and not isinstance(value, bool) else f"is {kind(value)}"
        self.problem(at, what, f"write milliseconds from {least} to {MOST_MS}, or nothing for {usual}")
        return usual

    def number(self, at: KeyPath, value: object, usual: int, least: int | None = None) -> int:
        """A whole number; ``usual`` stands in for one that is not."""
        if isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least):
            return value
        found = f"is {kind(value)}" if not isinstance(value, int) or isinstance(value, bool) else f"is {value}"
        self.problem(at, found, "write a whole number" + (f", {least} or more" if least is not None else ""))
        return usual

    def bound(self, at: KeyPath, value: object) -> int | None:
        """How many there may be, at least one; None where nothing is said."""
        return None if value is None else self.number(at, value, 1, least=1)

    def below(self, at: KeyPath, path: str) -> Path:
        """A path, which may start with ``~``, seen from the folder of the file."""
        try:
            return self.path.parent / Path(path).expanduser()
        except RuntimeError:
            self.problem(at, "starts with ~, and there is no such home folder", "write the whole path")
            return self.path


MOST_MS = 24 * 3_600_000
"""Milliseconds of a day: a larger number is a slip."""


def said(at: KeyPath) -> str:
    """A key as people read it: ``identity[2].token``, counted from 1."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


def choice(value: object, accepted: Iterable[str]) -> str:
    """What to write instead of a value: the one that was meant, or all there are."""
    words = list(accepted)
    near = difflib.get_close_matches(value.lower(), words, n=1) if isinstance(value, str) else []
    return f'did you mean "{near[0]}"?' if near else f"accepted here: {', '.join(words)}"


def kind(value: object) -> str:
    """What a value is, in TOML's words; the value itself may be a secret."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")
