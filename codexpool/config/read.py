"""Reads and checks pool.toml. All mistakes of a file are reported at once, each with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codexpool.common.private_files import UnusableError, read_private
from codexpool.config import model
from codexpool.config.checks import Checks, Section, kind
from codexpool.config.files import is_read_only, may_exist
from codexpool.config.model import ConfigError, Flag, IdentitySpec, Inline, MemberSpec, PoolConfig, Problem, Table
from codexpool.credentials.command import REFRESH_INTERVAL_MS, TIMEOUT_MS, CommandLine
from codexpool.pool.breaker import MOST
from codexpool.pool.selection import Selection
from codexpool.protocol.routes import ROUTES, Routes, moved, overlap, why_fixed
from codexpool.tokens.member_key import HASHED, PREFIX

FILE_KEYS = ("pool", "identity", "member")
POOL_KEYS = ("selection", "notify", "breaker", "access", "turns_at_once", "intercept", "routes")
ROUTES_FORM = 'write "PATH" = "own" or "swap", with a path as codexpool doctor --routes prints it'
NOTIFY_FORM = 'write { command = ["PROGRAM"] } or { webhook = "https://…" }'

FLAG = "needs_replacement"
SOURCE_KEYS = ("token", "auth_json", "login")
IDENTITY_KEYS = ("name", *SOURCE_KEYS, "account_id", "user_id", "expires", "paused", "priority", FLAG)
TOKEN_KEYS = ("env", "file", "keyring", "command")
COMMAND_KEYS = ("command", "timeout_ms", "refresh_interval_ms", "cwd")
FLAG_FORMS = {
    "since": "a time with a zone (2026-11-20T14:02:11Z)",
    "reason": "a string",
    "token": '"sha256:" and 12 hexadecimal digits',
}
SOURCE_FORMS = (
    'write token = "at-…", { env = "VARIABLE" }, { file = "PATH" }, { keyring = "SERVICE" } or '
    '{ command = ["PROGRAM"] }, auth_json = "PATH", or login = "state"'
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAGGED_TOKEN = re.compile(r"sha256:[0-9a-f]{12}")
MOST_MS = 24 * 3_600_000  # A day: more milliseconds are a mistake.
_INVALID = Inline("")  # in place of a source that is wrong

MEMBER_KEYS = ("name", "key", "previous", "expires", "revoked", "identities", "turns_at_once", "turns_a_day")
HASH_FORM = '"sha256:" and 64 hexadecimal digits'
PREVIOUS_FORM = "write { key = …, until = … }"
PATTERNS_FORM = 'write ["team-*"], or remove it to allow all identities'
NEW_KEY = "remove this [[member]] table, and let codexpool write one: codexpool member add NAME"


def load(path: Path) -> PoolConfig:
    """Read a pool.toml.

    Raises ConfigError if the file is missing, unreadable, open to other users, or invalid.
    """
    try:
        text = read_private(path)
    except UnusableError as error:
        raise ConfigError([Problem(path, error.line, "", error.what, error.remedy)]) from None
    return replace(parse(text, path), is_read_only=is_read_only(path))


def load_or_empty(path: Path) -> PoolConfig:
    """Read a pool.toml; return an empty pool if there is no such file. Raises ConfigError."""
    return load(path) if may_exist(path) else replace(parse("", path), is_missing=True)


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
        tuple(_identities(root)),
        _notify(pool) if "notify" in pool else model.Notify(),
        pool.number("breaker", MOST, least=1),
        pool.word("access", model.Access),
        tuple(_members(root)),
        pool.limit("turns_at_once"),
        pool.word("intercept", model.Intercept) or model.Intercept.CODEX,
        _routes(pool),
    )
    if checks.problems:
        raise ConfigError(sorted(checks.problems, key=lambda problem: problem.line or 0))
    return config


def _notify(pool: Section) -> model.Notify:
    notify = pool.section("notify", ("command", "webhook"), NOTIFY_FORM)
    if pool.get("notify") == {}:
        notify.problem("", "is empty", NOTIFY_FORM)
    webhook = notify.text("webhook", "an address that begins with https://")
    if webhook and not _is_https(webhook):
        notify.problem("webhook", "is not an https address", 'write "https://host/path"')
    return model.Notify(notify.argv("command") if "command" in notify else (), webhook)


def _routes(pool: Section) -> Routes:
    given = pool.get("routes")
    table = pool.section("routes", tuple(given) if isinstance(given, dict) else (), ROUTES_FORM)
    sides = {path: table.word(path, model.Side) for path in (given if isinstance(given, dict) else ())}
    shared = [row.path for row in ROUTES] + [path for path, side in sides.items() if side is model.Side.SWAP]
    rows = []
    for path, side in sides.items():
        why = why_fixed(path)
        if not why and side is model.Side.OWN and not any(overlap(path, other) for other in shared):
            why = "has the client's own credential already"
        if why:
            table.problem(path, why, "remove this line (codexpool doctor --routes prints all paths)")
        elif side is not None:
            rows.append(moved(path, is_own=side is model.Side.OWN))
    # The first row that fits counts, and a table has no order: a longer path says more.
    return Routes(tuple(sorted(rows, key=lambda row: len(row.path), reverse=True)))


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
        line = int(where[1]) if (where := re.search(r"\(at line (\d+)", reason)) else text.count("\n") + 1
        problem = Problem(path, line, "", f"is not TOML: {reason}", "correct this line or the one before it")
    raise ConfigError([problem])


def _identities(root: Section) -> list[IdentitySpec]:
    return [
        IdentitySpec(
            name=table.name(Table.IDENTITY),
            source=_source(table),
            line=table.line(next((key for key in ("auth_json", "login") if key in table), "token")),
            flag=_flag(table) if FLAG in table else None,
            account_id=table.text("account_id", "an id as whoami returns it") or None,
            user_id=table.text("user_id", "an id as whoami returns it") or None,
            expires_at=table.end("expires"),
            paused=table.boolean("paused"),
            priority=table.number("priority", 0),
        )
        for table in root.sections(Table.IDENTITY, IDENTITY_KEYS)
    ]


def _source(table: Section) -> model.Source:
    token = table.get("token")
    for key, other in (("auth_json", "token"), ("login", "token"), ("login", "auth_json")):
        if key in table and other in table:
            table.problem(key, f"is set beside {'a token' if other == 'token' else other}", "keep one of them")
    if "login" in table:
        return _from_state(table)
    if "auth_json" in table:
        return model.FromAuthJson(path) if (path := table.path("auth_json")) else _INVALID
    if isinstance(token, str):
        return Inline(token)
    if isinstance(token, dict):
        return _from_table(table, [key for key in TOKEN_KEYS if key in token])
    if token is None:
        table.problem("", "has no token", SOURCE_FORMS)
    else:
        table.problem("token", f"is {kind(token)}", SOURCE_FORMS)
    return _INVALID


def _from_state(table: Section) -> model.Source:
    # Its row in the state is found, and decrypted, by these two.
    missing = [key for key in ("account_id", "user_id") if not table.get(key)]
    if table.word("login", model.LoginPlace) is not None and missing:
        remedy = "codexpool login NAME --shared writes both; copy its whole table to the other machines"
        table.problem("login", f"needs {' and '.join(missing)} in the same table", remedy)
    return model.FromState()


def _from_table(table: Section, given: list[str]) -> model.Source:
    token = table.section("token", COMMAND_KEYS if given == ["command"] else TOKEN_KEYS, SOURCE_FORMS)
    match given:
        case ["env"]:
            variable = token.get("env")
            if isinstance(variable, str) and VARIABLE.fullmatch(variable):
                return model.FromEnv(variable)
            what = "not the name of an environment variable" if isinstance(variable, str) else kind(variable)
            token.problem("env", f"is {what}", "write the name of an environment variable")
        case ["file"]:
            return model.FromFile(path) if (path := token.path("file")) else _INVALID
        case ["keyring"]:
            return model.FromKeyring(token.text("keyring", "the name of a service in the keyring"))
        case ["command"]:
            argv = token.argv("command")
            timeout = token.number("timeout_ms", TIMEOUT_MS, 1, MOST_MS)
            interval = token.number("refresh_interval_ms", REFRESH_INTERVAL_MS, 0, MOST_MS)
            cwd = token.path("cwd", "the path of a folder") or token.checks.path.parent
            return model.FromCommand(CommandLine(argv, cwd, timeout, interval))
        case [first, second, *_]:
            token.problem("", f"has both {first} and {second}", SOURCE_FORMS)
        case _:
            token.problem("", f"has none of {', '.join(TOKEN_KEYS)}", SOURCE_FORMS)
    return _INVALID


def _flag(table: Section) -> Flag | None:
    flag = table.section(FLAG, tuple(FLAG_FORMS), "write { since = …, reason = …, token = … }")
    since, reason, token = _in_utc(flag.get("since")), flag.get("reason"), flag.get("token")
    is_token = isinstance(token, str) and FLAGGED_TOKEN.fullmatch(token) is not None
    fits = {"since": since is not None, "reason": isinstance(reason, str), "token": is_token}
    for key in (key for key, fit in fits.items() if not fit and flag.is_table):
        what = f"is not {FLAG_FORMS[key]}" if key in flag else "is missing"
        flag.problem(key, what, f"write {FLAG_FORMS[key]}, or remove the flag")
    return Flag(since, reason, token) if since is not None and all(fits.values()) else None


def _in_utc(value: object) -> datetime | None:
    try:
        return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else None
    except OverflowError:
        return None


def _members(root: Section) -> list[MemberSpec]:
    tables = root.sections(Table.MEMBER, MEMBER_KEYS)
    _refuse_keys_given_twice(tables)
    return [
        MemberSpec(
            name=table.name(Table.MEMBER),
            key=_key(table),
            line=table.line("key"),
            previous=_previous(table) if "previous" in table else None,
            expires_at=table.end("expires"),
            # A time out of range revokes, too.
            revoked_at=(table.end("revoked") or 0.0) if "revoked" in table else None,
            identities=_patterns(table) if "identities" in table else (),
            turns_at_once=table.limit("turns_at_once"),
            turns_a_day=table.limit("turns_a_day"),
        )
        for table in tables
    ]


def _key(table: Section) -> str:
    """Return the hash of a key. A value that is not one may be the key, and is never shown."""
    value = table.get("key")
    if isinstance(value, str) and HASHED.fullmatch(value):
        return value
    if value is None:
        table.problem("", "has no key", NEW_KEY)
    elif not isinstance(value, str):
        table.problem("key", f"is {kind(value)}", f"write {HASH_FORM}")
    elif value.startswith(PREFIX):
        table.problem("key", "is a key, not its hash", f"never store a key: {NEW_KEY}")
    else:
        table.problem("key", f"is not {HASH_FORM}", NEW_KEY)
    return ""


def _previous(table: Section) -> model.PreviousKey | None:
    previous = table.section("previous", ("key", "until"), PREVIOUS_FORM)
    if not previous.is_table:
        return None
    key, until = _key(previous), previous.end("until")
    if "until" not in previous:
        previous.problem("", "has no until", PREVIOUS_FORM)
    return model.PreviousKey(key, until) if until is not None else None


def _patterns(table: Section) -> tuple[str, ...]:
    value, at = table.get("identities"), (*table.at, "identities")
    if not isinstance(value, list) or not value:
        table.problem("identities", "is empty" if value == [] else f"is {kind(value)}", PATTERNS_FORM)
        return ()
    form = "the name of an identity, or a pattern"
    return tuple(table.checks.text((*at, index), part, form) for index, part in enumerate(value))


def _refuse_keys_given_twice(tables: Iterable[Section]) -> None:
    lines: dict[str, int] = {}
    for table in tables:
        previous = table.get("previous")
        old = previous.get("key") if isinstance(previous, dict) else None
        for path, key in ((("key",), table.get("key")), (("previous", "key"), old)):
            if isinstance(key, str) and key in lines:
                what = f"is also the key in line {lines[key]}"
                remedy = "give each member a key of its own: codexpool member add NAME"
                table.checks.problem((*table.at, *path), what, remedy)
            elif isinstance(key, str):
                lines[key] = table.checks.line((*table.at, *path))
