"""``needs_replacement`` put into the text of a pool.toml, and taken out again.

This is done on the text and not through tomlkit: tomlkit puts a new key of an ``[[identity]]`` table behind the
comments that follow it, and its removal does not give back the same bytes. What was done is checked by reading both
texts: they may differ in that one key only.
"""

from __future__ import annotations

import tomllib
from datetime import UTC
from typing import Any

import tomlkit

from codexpool.config.layout import Entry, Header, KeyPath, Layout
from codexpool.config.model import Flag, shown

KEY = "needs_replacement"


class UneditableError(ValueError):
    """A text that cannot be edited as asked; the message says why."""


def flagged(text: str, name: str, flag: Flag) -> str:
    """``text`` with ``flag`` in the table of identity ``name``, in place of one that is there already.

    Raises UneditableError if the text is no TOML or has no such identity.
    """
    at = _identity(_read(text), name)
    layout = Layout(text)
    if present := layout.entry((*at, KEY)):
        result = text[: present.value] + _inline_table(flag) + text[present.end :]
    else:
        result = _inserted(_without(text, (*at, KEY)), at, f"{KEY} = {_inline_table(flag)}")
    _check(text, result, at, flag=True)
    return result


def unflagged(text: str, name: str) -> str:
    """``text`` without the flag of identity ``name``: the very text it was before it was flagged.

    Raises UneditableError if the text is no TOML or has no such identity.
    """
    at = _identity(_read(text), name)
    result = _without(text, (*at, KEY))
    _check(text, result, at, flag=False)
    return result


def _inline_table(flag: Flag) -> str:
    since = flag.since.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()
    reason, token = (tomlkit.string(value).as_string() for value in (flag.reason, flag.token))
    return f"{{ since = {since}Z, reason = {reason}, token = {token} }}"


def _inserted(text: str, at: KeyPath, assignment: str) -> str:
    layout = Layout(text)
    name = layout.entry((*at, "name"))
    if name is None:
        raise UneditableError("the table of the identity was not found")
    last = layout.neighbours(name)[-1]
    if last.inline:
        return f"{text[: last.end]}, {assignment}{text[last.end :]}"
    start, end = _lines(text, last.start, last.end)
    indent = text[start : last.start]
    if text[start:end].endswith("\n"):
        newline = "\r\n" if text[start:end].endswith("\r\n") else "\n"
        return f"{text[:end]}{indent}{assignment}{newline}{text[end:]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{text}{newline}{indent}{assignment}"


def _without(text: str, path: KeyPath) -> str:
    """``text`` without all that makes up ``path``: a value, dotted keys, a table of its own."""
    while True:
        layout = Layout(text)
        part = next(layout.under(path), None)
        if part is None:
            return text
        if isinstance(part, Entry) and part.inline:
            text = _without_item(text, part, layout.neighbours(part))
        else:
            text = _without_line(text, part)


def _without_item(text: str, item: Entry, items: list[Entry]) -> str:
    index = items.index(item)
    if index:
        return text[: items[index - 1].end] + text[item.end :]
    return text[: item.start] + text[items[1].start if len(items) > 1 else item.end :]


def _without_line(text: str, part: Entry | Header) -> str:
    start, end = _lines(text, part.start, part.end)
    rest = text[part.end : end]
    if rest.strip():  # the operator's comment stays
        return text[: part.start] + rest.lstrip(" \t") + text[end:]
    if not rest.endswith("\n"):  # the last line, and it has no end: the one before had none either
        return text[:start].removesuffix("\n").removesuffix("\r")
    return text[:start] + text[end:]


def _lines(text: str, start: int, end: int) -> tuple[int, int]:
    """From the start of the line of ``start`` to behind the line end of ``end``."""
    newline = text.find("\n", end)
    return text.rfind("\n", 0, start) + 1, len(text) if newline < 0 else newline + 1


def _identity(document: dict[str, Any], name: str) -> KeyPath:
    identities = document.get("identity")
    for index, table in enumerate(identities if isinstance(identities, list) else []):
        if isinstance(table, dict) and table.get("name") == name:
            return ("identity", index)
    raise UneditableError(f"there is no identity {shown(name)}")


def _check(before: str, after: str, at: KeyPath, *, flag: bool) -> None:
    """Refuse a text in which anything but the flag of the identity at ``at`` is other than it was."""
    old, new = _read(before), _read(after)
    index = at[1]
    old["identity"][index].pop(KEY, None)
    if (new["identity"][index].pop(KEY, None) is not None) != flag or old != new:
        raise UneditableError("the flag cannot be set without changing something else")


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UneditableError(f"is not TOML: {error}") from None
