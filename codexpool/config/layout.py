"""Where things stand in a TOML text: tomllib says what a file means, this says in which line, from where to where.

The text has to be valid TOML, that is, tomllib has to have read it before. That leaves little to know: which
characters end a key, a string, an array or an inline table, and which table a header opens.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""The way to a value, indices counted from 0: ``("identity", 1, "token", "env")``."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\r\n]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key = value``, as offsets into the text.

    ``table`` tells which section or inline table it stands in: entries with the same number are neighbours.
    """

    path: KeyPath
    start: int
    value: int
    end: int
    table: int
    inline: bool


@dataclass(frozen=True, slots=True)
class Header:
    """One ``[table]`` or ``[[table]]`` line, as offsets into the text."""

    path: KeyPath
    start: int
    end: int


class Layout:
    """The entries and headers of a text, in the order in which they stand there."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if the text is found not to be TOML; that is not the place to rely on for it."""
        scanner = _Scanner(text)
        scanner.document()
        self.text = text
        self.entries = sorted(scanner.entries, key=lambda entry: entry.start)
        self.headers = scanner.headers
        self._first = scanner.first

    def line(self, path: KeyPath) -> int:
        """The line, from 1, in which ``path`` is first spoken of; that of its nearest parent if it is not there."""
        while path and path not in self._first:
            path = path[:-1]
        return self.line_at(self._first[path]) if path else 1

    def line_at(self, offset: int) -> int:
        """The line, from 1, of an offset."""
        return self.text.count("\n", 0, offset) + 1

    def entry(self, path: KeyPath) -> Entry | None:
        """The ``key = value`` that gives ``path`` its value."""
        return next((entry for entry in self.entries if entry.path == path), None)

    def neighbours(self, entry: Entry) -> list[Entry]:
        """The entries of the section or inline table in which ``entry`` stands, itself among them."""
        return [other for other in self.entries if other.table == entry.table]

    def under(self, path: KeyPath) -> Iterator[Entry | Header]:
        """What makes up ``path``: entries (``a = …``, ``a.b = …``), then headers (``[a]``, ``[a.b]``)."""
        parts: list[Entry | Header] = [*self.entries, *self.headers]
        return (part for part in parts if part.path[: len(path)] == path)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tables = 0
        self.entries: list[Entry] = []
        self.headers: list[Header] = []
        self.first: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}

    def document(self) -> None:
        section: KeyPath = ()
        table = self.tables
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self._sees("["):
                section, table = self._header(), self._new_table()
            else:
                self._entry(section, table, inline=False)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        start = self.at
        brackets = 2 if self._sees("[[") else 1
        self.at += brackets
        path = self._opened(self._keys(), array=brackets == 2)
        self._skip(_SPACE)
        self._expect("]" * brackets)
        self.headers.append(Header(path, start, self.at))
        self._note(path, start)
        return path

    def _opened(self, keys: KeyPath, *, array: bool) -> KeyPath:
        """The path of the table a header opens: an array of tables stands for its last element."""
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path = (*path, key)
            if array and depth == len(keys):
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        return path

    def _entry(self, base: KeyPath, table: int, *, inline: bool) -> None:
        start = self.at
        path = base + self._keys()
        self._note(path, start)
        self._skip(_SPACE)
        self._expect("=")
        self._skip(_SPACE)
        value = self.at
        self._value(path)
        self.entries.append(Entry(path, start, value, self.at, table, inline))

    def _keys(self) -> KeyPath:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            if bare := _BARE_KEY.match(self.text, self.at):
                keys.append(bare.group())
                self.at = bare.end()
            else:
                keys.append(self._quoted_key())
            self._skip(_SPACE)
            if not self._sees("."):
                return tuple(keys)
            self.at += 1

    def _quoted_key(self) -> str:
        quoted = _STRING.match(self.text, self.at)
        if quoted is None:
            raise ValueError(f"no key at offset {self.at}")
        self.at = quoted.end()
        return str(tomllib.loads(f"key = {quoted.group()}")["key"])

    def _value(self, path: KeyPath) -> None:
        if string := _STRING.match(self.text, self.at):
            self.at = string.end()
        elif self._sees("["):
            self._array(path)
        elif self._sees("{"):
            self._inline_table(path)
        elif plain := _PLAIN.match(self.text, self.at):
            self.at += len(plain.group().rstrip())
        else:
            raise ValueError(f"no value at offset {self.at}")

    def _array(self, path: KeyPath) -> None:
        self._expect("[")
        self._skip(_BLANK)
        index = 0
        while not self._sees("]"):
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._comma()
        self._expect("]")

    def _inline_table(self, path: KeyPath) -> None:
        table = self._new_table()
        self._expect("{")
        self._skip(_BLANK)
        while not self._sees("}"):
            self._entry(path, table, inline=True)
            self._comma()
        self._expect("}")

    def _comma(self) -> None:
        self._skip(_BLANK)
        if self._sees(","):
            self.at += 1
            self._skip(_BLANK)

    def _new_table(self) -> int:
        self.tables += 1
        return self.tables

    def _note(self, path: KeyPath, offset: int) -> None:
        for length in range(1, len(path) + 1):
            self.first.setdefault(path[:length], offset)

    def _sees(self, characters: str) -> bool:
        return self.text.startswith(characters, self.at)

    def _expect(self, characters: str) -> None:
        if not self._sees(characters):
            raise ValueError(f"no {characters} at offset {self.at}")
        self.at += len(characters)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if found := pattern.match(self.text, self.at):
            self.at = found.end()
