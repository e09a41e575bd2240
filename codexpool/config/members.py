"""The ``[[member]]`` tables of pool.toml, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from codexpool.config.checks import Checks, kind
from codexpool.config.model import MemberSpec, PreviousKey
from codexpool.config.named import Table, read_expires, read_name, read_tables
from codexpool.config.statements import KeyPath
from codexpool.tokens.member_key import HASHED, PREFIX

MEMBER_KEYS: Final = (
    "name",
    "key",
    "previous",
    "expires",
    "revoked",
    "identities",
    "turns_at_once",
    "turns_a_day",
)
PREVIOUS_KEYS: Final = ("key", "until")

HASH_FORM: Final = '"sha256:" and 64 hexadecimal digits'
PREVIOUS_FORM: Final = "{ key = …, until = … }"
PATTERNS_FORM: Final = 'write ["team-*"], or nothing for all identities'
MADE_ANEW: Final = "remove this [[member]] table, and have one written: codexpool member add NAME"
"""What mends a table whose key cannot be known any more."""


def read_members(checks: Checks, value: object) -> list[MemberSpec]:
    """The members of a document's ``member``; what is wrong with them is in ``checks`` afterwards."""
    tables = read_tables(checks, Table.MEMBER, value)
    members = {index: _member(checks, (Table.MEMBER, index), table) for index, table in tables}
    _refuse_keys_given_twice(checks, members)
    return list(members.values())


def _member(checks: Checks, at: KeyPath, table: Mapping[str, Any]) -> MemberSpec:
    checks.known(at, table, MEMBER_KEYS)
    return MemberSpec(
        name=read_name(checks, Table.MEMBER, at, table),
        key=_key(checks, at, table),
        line=checks.line((*at, "key")),
        previous=_previous(checks, (*at, "previous"), table["previous"]) if "previous" in table else None,
        expires_at=read_expires(checks, (*at, "expires"), table["expires"]) if "expires" in table else None,
        revoked_at=_revoked(checks, (*at, "revoked"), table["revoked"]) if "revoked" in table else None,
        identities=_patterns(checks, (*at, "identities"), table["identities"]) if "identities" in table else (),
        turns_at_once=checks.bound((*at, "turns_at_once"), table.get("turns_at_once")),
        turns_a_day=checks.bound((*at, "turns_a_day"), table.get("turns_a_day")),
    )


def _key(checks: Checks, at: KeyPath, table: Mapping[str, Any]) -> str:
    """The hash of the key in the table at ``at``; what stands there instead is never shown."""
    value = table.get("key")
    if isinstance(value, str) and HASHED.fullmatch(value):
        return value
    if value is None:
        checks.problem(at, "has no key", MADE_ANEW)
    elif not isinstance(value, str):
        checks.problem((*at, "key"), f"is {kind(value)}", f"write {HASH_FORM}")
    elif value.startswith(PREFIX):
        checks.problem((*at, "key"), "is a key, and not its hash", f"never keep a key: {MADE_ANEW}")
    else:
        checks.problem((*at, "key"), f"is not {HASH_FORM}", MADE_ANEW)
    return ""


def _previous(checks: Checks, at: KeyPath, value: object) -> PreviousKey | None:
    table = checks.table(at, value, PREVIOUS_FORM)
    if not isinstance(value, dict):
        return None
    checks.known(at, table, PREVIOUS_KEYS)
    key = _key(checks, at, table)
    if "until" not in table:
        checks.problem(at, "does not say until when it is good", f"write {PREVIOUS_FORM}")
        return None
    until = read_expires(checks, (*at, "until"), table["until"])
    return PreviousKey(key, until) if until is not None else None


def _revoked(checks: Checks, at: KeyPath, value: object) -> float | None:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    what = f"is not a time with its zone: it is {kind(value)}"
    checks.problem(at, what, "write revoked = 2026-12-31T10:00:00Z, or: codexpool member revoke NAME")
    return None


def _patterns(checks: Checks, at: KeyPath, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        checks.problem(at, f"is {kind(value)}", PATTERNS_FORM)
        return ()
    if not value:
        checks.problem(at, "names nobody", PATTERNS_FORM)
    texts = (
        checks.text((*at, index), part, "the name of an identity, or a pattern") for index, part in enumerate(value)
    )
    return tuple(filter(None, texts))


def _refuse_keys_given_twice(checks: Checks, members: Mapping[int, MemberSpec]) -> None:
    lines: dict[str, int] = {}
    for index, member in members.items():
        places: list[tuple[KeyPath, str]] = [((Table.MEMBER, index, "key"), member.key)]
        if member.previous is not None:
            places.append(((Table.MEMBER, index, "previous", "key"), member.previous.key))
        for at, key in places:
            if key in lines:
                what = f"is the key in line {lines[key]} too"
                checks.problem(at, what, "give each member a key of its own: codexpool member add NAME")
            elif key:
                lines[key] = checks.line(at)
