"""pool.toml read and checked: every mistake of the file is reported at once, each with its line."""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from codexpool.common.private_files import UnusableError, read_private
from codexpool.config.checks import Checks, choice, kind
from codexpool.config.identities import read_identities
from codexpool.config.members import read_members
from codexpool.config.model import Access, ConfigError, Intercept, Notify, PoolConfig, Problem, shown
from codexpool.config.statements import KeyPath
from codexpool.pool.breaker import MOST
from codexpool.pool.selection import Selection

FILE_KEYS = ("pool", "identity", "member")
POOL_KEYS = ("selection", "notify", "breaker", "access", "turns_at_once", "intercept")
NOTIFY_KEYS = ("command", "webhook")

Word = TypeVar("Word", bound=StrEnum)

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
    document = _document(text, path)
    checks = Checks(path, text)
    checks.known((), document, FILE_KEYS)
    pool = checks.table(("pool",), document.get("pool", {}), "[pool]")
    checks.known(("pool",), pool, POOL_KEYS)
    config = PoolConfig(
        path,
        _word(checks, ("pool", "selection"), pool.get("selection"), Selection) or Selection.HEADROOM,
        tuple(read_identities(checks, document.get("identity", []))),
        _notify(checks, pool["notify"]) if "notify" in pool else Notify(),
        checks.number(("pool", "breaker"), pool.get("breaker", MOST), MOST, least=1),
        _word(checks, ("pool", "access"), pool.get("access"), Access),
        tuple(read_members(checks, document.get("member", []))),
        checks.bound(("pool", "turns_at_once"), pool.get("turns_at_once")),
        _word(checks, ("pool", "intercept"), pool.get("intercept"), Intercept) or Intercept.CODEX,
    )
    if checks.problems:
        raise ConfigError(sorted(checks.problems, key=lambda problem: problem.line or 0))
    return config


def _word(checks: Checks, at: KeyPath, value: object, words: type[Word]) -> Word | None:
    """One of a few words; None where nothing is said, or none of them."""
    try:
        return None if value is None else words(value)  # type: ignore[arg-type]
    except ValueError:
        found = shown(value) if isinstance(value, str) else kind(value)
        checks.problem(at, f"is {found}", choice(value, list(words)))
        return None


def _notify(checks: Checks, value: object) -> Notify:
    at = ("pool", "notify")
    table = checks.table(at, value, '{ command = ["PROGRAM"] } or { webhook = "https://…" }')
    checks.known(at, table, NOTIFY_KEYS)
    if isinstance(value, dict) and not table:
        checks.problem(at, "says nobody", 'write { command = ["PROGRAM"] } or { webhook = "https://…" }')
    webhook = ""
    if "webhook" in table:
        webhook = checks.text((*at, "webhook"), table["webhook"], "an address that begins with https://")
        if webhook and not _is_https(webhook):
            checks.problem((*at, "webhook"), "is not an https address", 'write "https://host/path"')
    return Notify(checks.argv((*at, "command"), table["command"]) if "command" in table else (), webhook)


def _is_https(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


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
