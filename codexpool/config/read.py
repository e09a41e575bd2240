"""pool.toml read and checked: every mistake of the file is reported at once, each with its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codexpool.config.layout import KeyPath, Layout
from codexpool.config.model import (
    ConfigError,
    Flag,
    FromEnv,
    FromFile,
    IdentitySpec,
    Inline,
    PoolConfig,
    Problem,
    Source,
    looks_like_a_token,
    shown,
)
from codexpool.config.private import UnusableError, read_private
from codexpool.pool.selection import Selection

FILE_KEYS = ("pool", "identity")
POOL_KEYS = ("selection",)
IDENTITY_KEYS = ("name", "token", "needs_replacement")
TOKEN_KEYS = ("env", "file")
FLAG_FORMS = {
    "since": "a time with its zone (2026-11-20T14:02:11Z)",
    "reason": "a string",
    "token": '"sha256:" and 12 hexadecimal digits',
}

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAGGED_TOKEN = re.compile(r"sha256:[0-9a-f]{12}")

SOURCE_FORMS = 'write token = "at-…", { env = "VARIABLE" } or { file = "PATH" }'

_WHERE = re.compile(r" \(at line (?P<line>\d+), column (?P<column>\d+)\)$")


def load(path: Path) -> PoolConfig:
    """Read pool.toml.

    Raises ConfigError if the file is missing, cannot be read, can be read by others, or does not hold.
    """
    try:
        text = read_private(path)
    except UnusableError as error:
        raise ConfigError([Problem(path, error.line, "", error.what, error.remedy)]) from None
    return parse(text, path)


def parse(text: str, path: Path) -> PoolConfig:
    """Make a configuration of the text of a pool.toml, without looking at anything else.

    ``path`` is for the messages, and its folder is where relative token files are. Raises ConfigError with all
    that is wrong. What is wrong with one token only is found by ``resolve``: the file holds all the same.
    """
    text = text.removeprefix("\ufeff")
    reader = _Reader(path, _document(text, path), Layout(text))
    config = reader.config()
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda problem: problem.line or 0))
    return config


def _document(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = Problem(path, None, "", "is nested too deeply", "a pool.toml needs no more than two levels")
    except ValueError as error:  # TOMLDecodeError, and what int() says to a number of 5000 digits
        said = str(error).splitlines()[0]
        where = _WHERE.search(said)
        line = int(where["line"]) if where else text.count("\n") + 1
        column = f" in column {where['column']}" if where else ""
        what = f"is not TOML: {said[: where.start()] if where else said}{column}"
        problem = Problem(path, line, "", what, "correct this line or the one before it")
    raise ConfigError([problem])


class _Reader:
    """Walks through a document; what does not fit becomes a problem, and a stand-in value goes on."""

    def __init__(self, path: Path, document: Mapping[str, Any], layout: Layout) -> None:
        self.path = path
        self.document = document
        self.layout = layout
        self.problems: list[Problem] = []

    def config(self) -> PoolConfig:
        self._known((), self.document, FILE_KEYS)
        selection = self._selection()
        tables = self._identity_tables()
        identities = [self._identity(("identity", index), table) for index, table in tables]
        self._refuse_names_given_twice(tables)
        return PoolConfig(self.path, selection, tuple(identities))

    def _selection(self) -> Selection:
        pool = self._table(("pool",), self.document.get("pool", {}), "[pool]")
        self._known(("pool",), pool, POOL_KEYS)
        value = pool.get("selection", Selection.HEADROOM)
        try:
            return Selection(value)
        except ValueError:
            said = shown(value) if isinstance(value, str) else _kind(value)
            self._problem(("pool", "selection"), f"is {said}", _choice(value, list(Selection)))
            return Selection.HEADROOM

    def _identity_tables(self) -> list[tuple[int, Mapping[str, Any]]]:
        value = self.document.get("identity", [])
        if isinstance(value, dict):
            self._problem(("identity",), "is one table", "write [[identity]], with two brackets")
            return []
        if not isinstance(value, list):
            self._problem(("identity",), f"is {_kind(value)}", "write an [[identity]] table for each identity")
            return []
        if not value:
            self._problem((), "there is no identity", "add an [[identity]] table with a name and a token")
        tables: list[tuple[int, Mapping[str, Any]]] = []
        for index, item in enumerate(value):
            if isinstance(item, dict):
                tables.append((index, item))
            else:
                self._problem(("identity", index), f"is {_kind(item)}", "write an [[identity]] table")
        return tables

    def _identity(self, at: KeyPath, table: Mapping[str, Any]) -> IdentitySpec:
        self._known(at, table, IDENTITY_KEYS)
        return IdentitySpec(
            name=self._name(at, table),
            source=self._source(at, table),
            line=self.layout.line((*at, "token")),
            flag=self._flag((*at, "needs_replacement"), table["needs_replacement"])
            if "needs_replacement" in table
            else None,
        )

    def _name(self, at: KeyPath, table: Mapping[str, Any]) -> str:
        if "name" not in table:
            self._problem(at, "has no name", 'add name = "…"')
            return ""
        name = table["name"]
        if not isinstance(name, str):
            self._problem((*at, "name"), f"is {_kind(name)}", "write a string")
            return ""
        if looks_like_a_token(name):
            self._problem((*at, "name"), "looks like a token", "names are shown in logs: choose another one")
        elif not name:
            self._problem((*at, "name"), "is empty", "give the identity a name")
        elif not NAME.fullmatch(name):
            remedy = "use letters, digits, - _ and . only, at most 64 of them"
            self._problem((*at, "name"), f"{shown(name)} is no name", remedy)
        return name

    def _refuse_names_given_twice(self, tables: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        lines: dict[str, int] = {}
        for index, table in tables:
            name, at = table.get("name"), ("identity", index, "name")
            if not isinstance(name, str):
                continue
            if name in lines:
                what = f"{shown(name)} is the name of the identity in line {lines[name]} too"
                self._problem(at, what, "give each identity a name of its own")
            lines.setdefault(name, self.layout.line(at))

    def _source(self, at: KeyPath, table: Mapping[str, Any]) -> Source:
        if "token" not in table:
            self._problem(at, "has no token", SOURCE_FORMS)
            return Inline("")
        value, at = table["token"], (*at, "token")
        if isinstance(value, str):
            return Inline(value)
        if not isinstance(value, dict):
            self._problem(at, f"is {_kind(value)}", SOURCE_FORMS)
            return Inline("")
        self._known(at, value, TOKEN_KEYS, SOURCE_FORMS)
        known = [key for key in TOKEN_KEYS if key in value]
        if len(known) != 1:
            if known or not value:
                what = "says both env and file" if known else "says neither env nor file"
                self._problem(at, what, SOURCE_FORMS)
            return Inline("")
        return self._from_env(at, value["env"]) if known == ["env"] else self._from_file(at, value["file"])

    def _from_env(self, at: KeyPath, variable: object) -> Source:
        if not isinstance(variable, str):
            self._problem((*at, "env"), f"is {_kind(variable)}", "write the name of an environment variable")
        elif not VARIABLE.fullmatch(variable):
            self._problem((*at, "env"), "is not the name of an environment variable", SOURCE_FORMS)
        else:
            return FromEnv(variable)
        return Inline("")

    def _from_file(self, at: KeyPath, file: object) -> Source:
        at = (*at, "file")
        if not isinstance(file, str):
            self._problem(at, f"is {_kind(file)}", "write the path of a file")
        elif looks_like_a_token(file):
            self._problem(at, "is a token, not a path", SOURCE_FORMS)
        elif not file or not file.isprintable():
            self._problem(at, "is not the path of a file", SOURCE_FORMS)
        else:
            try:
                return FromFile(self.path.parent / Path(file).expanduser())
            except RuntimeError:
                self._problem(at, "starts with ~, and there is no such home folder", "write the whole path")
        return Inline("")

    def _flag(self, at: KeyPath, value: object) -> Flag | None:
        table = self._table(at, value, "{ since = …, reason = …, token = … }")
        self._known(at, table, tuple(FLAG_FORMS))
        since: Any = table.get("since")
        reason: Any = table.get("reason")
        token: Any = table.get("token")
        fits = {
            "since": isinstance(since, datetime) and since.tzinfo is not None,
            "reason": isinstance(reason, str),
            "token": isinstance(token, str) and FLAGGED_TOKEN.fullmatch(token) is not None,
        }
        if isinstance(value, dict):
            for key in (key for key, fit in fits.items() if not fit):
                what = f"is not {FLAG_FORMS[key]}" if key in table else "is missing"
                self._problem((*at, key), what, f"write {FLAG_FORMS[key]}, or remove the flag")
        return Flag(since.astimezone(UTC), reason, token) if all(fits.values()) else None

    def _table(self, at: KeyPath, value: object, form: str) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self._problem(at, f"is {_kind(value)}", f"write {form}")
        return {}

    def _known(self, at: KeyPath, table: Mapping[str, Any], keys: tuple[str, ...], remedy: str = "") -> None:
        for key in table:
            if key not in keys:
                line = self.layout.line((*at, key))
                hint = remedy or _choice(key, keys)
                self.problems.append(Problem(self.path, line, _said(at), f"unknown key {shown(key)}", hint))

    def _problem(self, at: KeyPath, what: str, remedy: str) -> None:
        line = self.layout.line(at) if at else None
        self.problems.append(Problem(self.path, line, _said(at), what, remedy))


def _said(at: KeyPath) -> str:
    """A key as people read it: ``identity[2].token``, counted from 1."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


def _choice(said: object, accepted: Iterable[str]) -> str:
    words = list(accepted)
    near = difflib.get_close_matches(said.lower(), words, n=1) if isinstance(said, str) else []
    return f'did you mean "{near[0]}"?' if near else f"accepted here: {', '.join(words)}"


def _kind(value: object) -> str:
    """What a value is, in TOML's words; the value itself may be a secret."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")
