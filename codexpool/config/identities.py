"""The ``[[identity]]`` tables of pool.toml, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from codexpool.config.checks import Checks, kind
from codexpool.config.model import (
    Flag,
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    Source,
)
from codexpool.config.named import Table, read_expires, read_name, read_tables
from codexpool.config.statements import KeyPath
from codexpool.credentials.command import REFRESH_INTERVAL_MS, TIMEOUT_MS, CommandLine

IDENTITY_KEYS = (
    "name",
    "token",
    "auth_json",
    "account_id",
    "user_id",
    "expires",
    "paused",
    "priority",
    "needs_replacement",
)
TOKEN_KEYS = ("env", "file", "keyring", "command")
COMMAND_KEYS = ("command", "timeout_ms", "refresh_interval_ms", "cwd")
FLAG_FORMS = {
    "since": "a time with its zone (2026-11-20T14:02:11Z)",
    "reason": "a string",
    "token": '"sha256:" and 12 hexadecimal digits',
}

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAGGED_TOKEN = re.compile(r"sha256:[0-9a-f]{12}")

SOURCE_FORMS = (
    'write token = "at-…", { env = "VARIABLE" }, { file = "PATH" }, { keyring = "SERVICE" } or '
    '{ command = ["PROGRAM"] }, or auth_json = "PATH"'
)


def read_identities(checks: Checks, value: object) -> list[IdentitySpec]:
    """The identities of a document's ``identity``; what is wrong with them is in ``checks`` afterwards."""
    if value == []:
        checks.problem((), "there is no identity", "add an [[identity]] table with a name and a token")
    tables = read_tables(checks, Table.IDENTITY, value)
    return [_identity(checks, (Table.IDENTITY, index), table) for index, table in tables]


def _identity(checks: Checks, at: KeyPath, table: Mapping[str, Any]) -> IdentitySpec:
    checks.known(at, table, IDENTITY_KEYS)
    ids = {
        key: checks.text((*at, key), table[key], "an id as whoami gives it") or None if key in table else None
        for key in ("account_id", "user_id")
    }
    flag = _flag(checks, (*at, "needs_replacement"), table["needs_replacement"]) if FLAG in table else None
    return IdentitySpec(
        name=read_name(checks, Table.IDENTITY, at, table),
        source=_source(checks, at, table),
        line=checks.line((*at, "auth_json" if "auth_json" in table else "token")),
        flag=flag,
        expires_at=read_expires(checks, (*at, "expires"), table["expires"]) if "expires" in table else None,
        paused=_paused(checks, (*at, "paused"), table.get("paused", False)),
        priority=checks.number((*at, "priority"), table.get("priority", 0), 0),
        **ids,
    )


FLAG = "needs_replacement"


def _source(checks: Checks, at: KeyPath, table: Mapping[str, Any]) -> Source:
    if "auth_json" in table:
        if "token" in table:
            checks.problem((*at, "auth_json"), "stands beside a token", "keep the one that this identity speaks with")
        return _from_path(checks, (*at, "auth_json"), table["auth_json"], FromAuthJson)
    if "token" not in table:
        checks.problem(at, "has no token", SOURCE_FORMS)
        return Inline("")
    value, at = table["token"], (*at, "token")
    if isinstance(value, str):
        return Inline(value)
    if not isinstance(value, dict):
        checks.problem(at, f"is {kind(value)}", SOURCE_FORMS)
        return Inline("")
    known = [key for key in TOKEN_KEYS if key in value]
    if known == ["command"]:
        checks.known(at, value, COMMAND_KEYS)
        return _from_command(checks, at, value)
    checks.known(at, value, TOKEN_KEYS, SOURCE_FORMS)
    if len(known) != 1:
        if known or not value:
            what = f"says both {' and '.join(known)}" if known else f"says none of {', '.join(TOKEN_KEYS)}"
            checks.problem(at, what, SOURCE_FORMS)
        return Inline("")
    match known[0]:
        case "env":
            return _from_env(checks, at, value["env"])
        case "file":
            return _from_path(checks, (*at, "file"), value["file"], FromFile)
        case _:
            service = checks.text((*at, "keyring"), value["keyring"], "the name of a service in the keyring")
            return FromKeyring(service)


def _from_env(checks: Checks, at: KeyPath, variable: object) -> Source:
    if not isinstance(variable, str):
        checks.problem((*at, "env"), f"is {kind(variable)}", "write the name of an environment variable")
    elif not VARIABLE.fullmatch(variable):
        checks.problem((*at, "env"), "is not the name of an environment variable", SOURCE_FORMS)
    else:
        return FromEnv(variable)
    return Inline("")


def _from_path(checks: Checks, at: KeyPath, file: object, source: type[FromFile] | type[FromAuthJson]) -> Source:
    path = checks.text(at, file, "the path of a file")
    return source(checks.below(at, path)) if path else Inline("")


def _from_command(checks: Checks, at: KeyPath, value: Mapping[str, Any]) -> Source:
    argv = checks.argv((*at, "command"), value["command"])
    timeout = checks.milliseconds((*at, "timeout_ms"), value.get("timeout_ms", TIMEOUT_MS), 1, TIMEOUT_MS)
    interval = checks.milliseconds(
        (*at, "refresh_interval_ms"),
        value.get("refresh_interval_ms", REFRESH_INTERVAL_MS),
        0,
        REFRESH_INTERVAL_MS,
    )
    cwd = checks.path.parent
    if "cwd" in value and (folder := checks.text((*at, "cwd"), value["cwd"], "the path of a folder")):
        cwd = checks.below((*at, "cwd"), folder)
    return FromCommand(CommandLine(argv, cwd, timeout, interval)) if argv else Inline("")


def _paused(checks: Checks, at: KeyPath, value: object) -> bool:
    if not isinstance(value, bool):
        checks.problem(at, f"is {kind(value)}", "write paused = true, or nothing")
    return value is True


def _flag(checks: Checks, at: KeyPath, value: object) -> Flag | None:
    table = checks.table(at, value, "{ since = …, reason = …, token = … }")
    checks.known(at, table, tuple(FLAG_FORMS))
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
            checks.problem((*at, key), what, f"write {FLAG_FORMS[key]}, or remove the flag")
    try:
        return Flag(since.astimezone(UTC), reason, token) if all(fits.values()) else None
    except OverflowError:
        checks.problem(
            (*at, "since"), f"is not {FLAG_FORMS['since']}", "write a time of our days, or remove the flag"
        )
        return None
