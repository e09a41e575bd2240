"""Splits the text of a pool.toml into statements, to find the line of a key and to edit one statement alone.

tomllib says what a file means, but not in which line. Here it also says where a statement ends: the shortest run of
lines that parses alone is one, since a cut inside a string, an array or an inline table never parses.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]
"""The way to a value, indices counted from 0: ``("identity", 1, "token", "env")``."""

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MAY_CLOSE = re.compile(r"""[\]}"'][ \t]*(?:\#|\r?$)""", re.MULTILINE)  # The end of a statement of several lines.


@dataclass(frozen=True, slots=True)
class Statement:
    """A header, one ``key = value``, or a line that is blank or a comment; ``text`` includes the line end.

    ``line`` counts from 1. ``table`` is the table it opens or is in. ``values`` is what an entry sets in that table.
    """

    text: str
    line: int
    table: KeyPath | None
    values: dict[str, Any]

    @property
    def comment(self) -> str:
        """The comment at the end, with the line end; empty if there is none."""
        ends = (match.start() for match in re.finditer("#", self.text))
        return next((self.text[end:] for end in ends if _parsed(self.text[:end]) is not None), "")

    @property
    def indent(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip(" \t"))]

    def belongs_to(self, path: KeyPath) -> bool:
        """Return whether it sets (a part of) the value at ``path``: ``a = …``, ``a.b = …``, or below ``[a]``."""
        if self.table is None:
            return False
        return self.table[: len(path)] == path or (self.table == path[:-1] and path[-1] in self.values)


def split(text: str) -> list[Statement]:
    """Split ``text``, which has to be valid TOML, into statements that make it up again."""
    lengths: dict[KeyPath, int] = {}
    table: KeyPath = ()
    result: list[Statement] = []
    run, start = "", 1
    for number, line in enumerate(_LINE.findall(text), 1):
        run += line
        stripped = run.strip(" \t\r\n")
        if not stripped or stripped.startswith("#"):
            result.append(Statement(run, start, None, {}))
        elif (run != line and not _MAY_CLOSE.search(line)) or (values := _parsed(run)) is None:
            continue
        elif stripped.startswith("["):
            table = _opened(values, lengths)
            result.append(Statement(run, start, table, {}))
        else:
            result.append(Statement(run, start, table, values))
        run, start = "", number + 1
    return result


def first_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, that first mentions each path of ``text``, which has to be valid TOML."""
    lines: dict[KeyPath, int] = {}
    for statement in split(text):
        if statement.table is not None:
            first = _note_elements(lines, statement.table, statement)
            _note(lines, statement.values, statement.table, first)
    return lines


def _note_elements(lines: dict[KeyPath, int], table: KeyPath, statement: Statement) -> int:
    """Note the elements of an array of several lines; return the line of those that are left, which end with it.

    Each line is parsed once, so that a long array takes no longer than as many tables.
    """
    path, run, count, first = table, "", 0, statement.line
    for line, part in enumerate(_LINE.findall(statement.text)[:-1], statement.line):
        run += part
        # It could end after this line. Later elements are parsed alone; the one before may have its comma here.
        value: Any = _parsed(f"{run}]") if path == table else _parsed(f"_ = [{run}]") or _parsed(f"_ = [0 {run}]")
        if value is None:
            continue
        if path == table:
            _note(lines, value, table, line)
            while isinstance(value, dict):
                ((key, value),) = value.items()
                path = (*path, key)
        else:
            value = value["_"][run.lstrip().startswith(",") :]
        for index, item in enumerate(value, count):
            _note(lines, item, (*path, index), line)
        run, count, first = "", count + len(value), line + 1
    return first


def _opened(header: Any, lengths: dict[KeyPath, int]) -> KeyPath:
    """Return the path of the table that a header opens; count the elements of arrays of tables in ``lengths``."""
    path: KeyPath = ()
    while header:
        ((key, header),) = header.items()
        path = (*path, key)
        if isinstance(header, list):
            lengths[path] = lengths.get(path, 0) + 1
            header = header[0]
        if path in lengths:
            path = (*path, lengths[path] - 1)
    return path


def _note(lines: dict[KeyPath, int], value: Any, at: KeyPath, line: int) -> None:
    for length in range(1, len(at) + 1):
        lines.setdefault(at[:length], line)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _note(lines, item, (*at, key), line)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None
