"""Reads the ``[[identity]]`` tables of pool.toml."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from codexpool.config import model
from codexpool.config.checks import Section, kind
from codexpool.config.model import Flag, IdentitySpec, Inline, Source, Table
from codexpool.credentials.command import REFRESH_INTERVAL_MS, TIMEOUT_MS, CommandLine

FLAG = "needs_replacement"
IDENTITY_KEYS = ("name", "token", "auth_json", "account_id", "user_id", "expires", "paused", "priority", FLAG)
TOKEN_KEYS = ("env", "file", "keyring", "command")
COMMAND_KEYS = ("command", "timeout_ms", "refresh_interval_ms", "cwd")
FLAG_FORMS = {
    "since": "a time with a zone (2026-11-20T14:02:11Z)",
    "reason": "a string",
    "token": '"sha256:" and 12 hexadecimal digits',
}
SOURCE_FORMS = (
    'write token = "at-…", { env = "VARIABLE" }, { file = "PATH" }, { keyring = "SERVICE" } or '
    '{ command = ["PROGRAM"] }, or auth_json = "PATH"'
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAGGED_TOKEN = re.compile(r"sha256:[0-9a-f]{12}")
MOST_MS = 24 * 3_600_000  # A day: more milliseconds are a mistake.

_INVALID = Inline("")
"""In place of a source that is wrong."""


def read_identities(root: Section) -> list[IdentitySpec]:
    """Return the identities of a document."""
    if root.get(Table.IDENTITY) in (None, []):
        root.problem("", "there is no identity", "add an [[identity]] table with a name and a token")
    return [
        IdentitySpec(
            name=table.name(Table.IDENTITY),
            source=_source(table),
            line=table.line("auth_json" if "auth_json" in table else "token"),
            flag=_flag(table) if FLAG in table else None,
            account_id=table.text("account_id", "an id as whoami returns it") or None,
            user_id=table.text("user_id", "an id as whoami returns it") or None,
            expires_at=table.end("expires"),
            paused=table.boolean("paused"),
            priority=table.number("priority", 0),
        )
        for table in root.sections(Table.IDENTITY, IDENTITY_KEYS)
    ]


def _source(table: Section) -> Source:
    token = table.get("token")
    if "auth_json" in table:
        if token is not None:
            table.problem("auth_json", "is set beside a token", "keep one of them")
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


def _from_table(table: Section, given: list[str]) -> Source:
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
