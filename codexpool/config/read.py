"""Reads and checks pool.toml. All mistakes of a file are reported at once, each with its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codexpool.common.private_files import UnusableError, read_private
from codexpool.config.checks import Checks, Section
from codexpool.config.identities import read_identities
from codexpool.config.members import read_members
from codexpool.config.model import Access, ConfigError, Intercept, Notify, PoolConfig, Problem
from codexpool.pool.breaker import MOST
from codexpool.pool.selection import Selection

FILE_KEYS = ("pool", "identity", "member")
POOL_KEYS = ("selection", "notify", "breaker", "access", "turns_at_once", "intercept")
NOTIFY_FORM = 'write { command = ["PROGRAM"] } or { webhook = "https://…" }'

_WHERE = re.compile(r" \(at line (?P<line>\d+), column (?P<column>\d+)\)$")


def load(path: Path) -> PoolConfig:
    """Read a pool.toml.

    Raises ConfigError if the file is missing, unreadable, open to other users, or invalid.
    """
    try:
        text = read_private(path)
    except UnusableError as error:
        raise ConfigError([Problem(path, error.line, "", error.what, error.remedy)]) from None
    return parse(text, path)


def parse(text: str, path: Path) -> PoolConfig:
    """Return the configuration that the text of a pool.toml describes. Reads no other file.

    ``path`` is for messages, and relative paths start at its folder. Raises ConfigError with all problems, except
    for those of a single token, which `resolve` finds.
    """
    text = text.removeprefix("\ufeff")
    document = _document(text, path)
    checks = Checks(path, text)
    root = Section(checks, (), document, FILE_KEYS, "")
    pool = root.section("pool", POOL_KEYS, "write [pool]")
    config = PoolConfig(
        path,
        pool.word("selection", Selection) or Selection.HEADROOM,
        tuple(read_identities(root)),
        _notify(pool) if "notify" in pool else Notify(),
        pool.number("breaker", MOST, least=1),
        pool.word("access", Access),
        tuple(read_members(root)),
        pool.limit("turns_at_once"),
        pool.word("intercept", Intercept) or Intercept.CODEX,
    )
    if checks.problems:
        raise ConfigError(sorted(checks.problems, key=lambda problem: problem.line or 0))
    return config


def _notify(pool: Section) -> Notify:
    notify = pool.section("notify", ("command", "webhook"), NOTIFY_FORM)
    if pool.get("notify") == {}:
        notify.problem("", "is empty", NOTIFY_FORM)
    webhook = notify.text("webhook", "an address that begins with https://")
    if webhook and not _is_https(webhook):
        notify.problem("webhook", "is not an https address", 'write "https://host/path"')
    return Notify(notify.argv("command") if "command" in notify else (), webhook)


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
    except ValueError as error:  # TOMLDecodeError, or int() refusing a number of 5000 digits
        reason = str(error).splitlines()[0]
        where = _WHERE.search(reason)
        line = int(where["line"]) if where else text.count("\n") + 1
        column = f" in column {where['column']}" if where else ""
        what = f"is not TOML: {reason[: where.start()] if where else reason}{column}"
        problem = Problem(path, line, "", what, "correct this line or the one before it")
    raise ConfigError([problem])
