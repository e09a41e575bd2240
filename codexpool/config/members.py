"""Reads the ``[[member]]`` tables of pool.toml."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from codexpool.config.checks import Section, kind
from codexpool.config.model import MemberSpec, PreviousKey, Table
from codexpool.tokens.member_key import HASHED, PREFIX

MEMBER_KEYS: Final = (
    *("name", "key", "previous", "expires", "revoked"),
    *("identities", "turns_at_once", "turns_a_day"),
)
HASH_FORM: Final = '"sha256:" and 64 hexadecimal digits'
PREVIOUS_FORM: Final = "write { key = …, until = … }"
PATTERNS_FORM: Final = 'write ["team-*"], or remove it to allow all identities'
NEW_KEY: Final = "remove this [[member]] table, and let codexpool write one: codexpool member add NAME"


def read_members(root: Section) -> list[MemberSpec]:
    """Return the members of a document."""
    tables = root.sections(Table.MEMBER, MEMBER_KEYS)
    _refuse_keys_given_twice(tables)
    return [
        MemberSpec(
            name=table.name(Table.MEMBER),
            key=_key(table),
            line=table.line("key"),
            previous=_previous(table) if "previous" in table else None,
            expires_at=table.end("expires"),
            revoked_at=_revoked(table) if "revoked" in table else None,
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


def _previous(table: Section) -> PreviousKey | None:
    previous = table.section("previous", ("key", "until"), PREVIOUS_FORM)
    if not previous.is_table:
        return None
    key, until = _key(previous), previous.end("until")
    if "until" not in previous:
        previous.problem("", "has no until", PREVIOUS_FORM)
    return PreviousKey(key, until) if until is not None else None


def _revoked(table: Section) -> float | None:
    value = table.get("revoked")
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    what = f"is not a time with a zone: it is {kind(value)}"
    table.problem("revoked", what, "write revoked = 2026-12-31T10:00:00Z, or run: codexpool member revoke NAME")
    return None


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
