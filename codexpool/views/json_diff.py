"""Compares two JSON documents, member by member, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from codexpool.redaction import (
    DEEPEST,
    TOP,
    Place,
    fill_in_times,
    parse_json,
    redact_header,
    redact_json,
    redact_text,
)
from codexpool.views.header_table import Sign

LONGEST_NAME: Final = 80
"""Characters of a member's name that are shown."""


class Member(NamedTuple):
    """A member that differs: its path (``input[3].content``), and both values; None if it is missing."""

    path: str
    sign: Sign
    a: str | None
    b: str | None


def members(a: Any, b: Any, at: float, place: Place = TOP, path: str = "") -> Iterator[Member]:
    """Yield the members that differ: in the order of ``a``, then those that only ``b`` has.

    Times are shown relative to ``at`` (unix seconds).
    """
    if same(a, b):
        return
    inner_a, inner_b = _unfolded(a), _unfolded(b)
    if place.depth < DEEPEST and isinstance(inner_a, dict) and isinstance(inner_b, dict):
        for key in dict.fromkeys([*inner_a, *inner_b]):
            yield from _compare_key(inner_a, inner_b, key, at, place.member(key, inner_a, inner_b), _below(path, key))
    elif place.depth < DEEPEST and isinstance(inner_a, list) and isinstance(inner_b, list):
        yield from _compare_lists(inner_a, inner_b, at, place, path)
    else:
        one, other = _shown(a, at, place), _shown(b, at, place)
        yield Member(path, Sign.REPLACED, one, told_apart(one, other))


def told_apart(a: str | None, b: str | None) -> str | None:
    """Return ``b`` as shown beside ``a``: redacted, two different secrets may look the same."""
    return f"{b} (another one)" if a is not None and a == b else b


def _compare_key(
    a: dict[str, Any], b: dict[str, Any], key: str, at: float, place: Place, path: str
) -> Iterator[Member]:
    if key not in b:
        yield Member(path, Sign.REMOVED, _shown(a[key], at, place), None)
    elif key not in a:
        yield Member(path, Sign.ADDED, None, _shown(b[key], at, place))
    else:
        yield from members(a[key], b[key], at, place, path)


def _compare_lists(a: list[Any], b: list[Any], at: float, place: Place, path: str) -> Iterator[Member]:
    """Yield what differs between a common beginning and a common end."""
    begin, most = 0, min(len(a), len(b))
    while begin < most and same(a[begin], b[begin]):
        begin += 1
    end = 0
    while end < most - begin and same(a[-1 - end], b[-1 - end]):
        end += 1
    for index in range(begin, most - end):
        yield from members(a[index], b[index], at, place.item(index, a, b), f"{path}[{index}]")
    for index in range(most - end, len(a) - end):
        yield Member(f"{path}[{index}]", Sign.REMOVED, _shown(a[index], at, place.item(index, a)), None)
    for index in range(most - end, len(b) - end):
        yield Member(f"{path}[{index}]", Sign.ADDED, None, _shown(b[index], at, place.item(index, b)))


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal; ``1`` and ``true`` are not."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _shown(value: Any, at: float, place: Place) -> str:
    """Return a value as JSON, without secrets."""
    made = redact_json(
        value,
        place,
        lambda name, text: redact_header(name, text, at, full=True) if name else redact_text(text, full=True),
    )
    return fill_in_times(json.dumps(made, ensure_ascii=False), at)


def _below(path: str, key: str) -> str:
    name = redact_text(key[:LONGEST_NAME])
    return f"{path}.{name}" if path else name


def _unfolded(value: Any) -> Any:
    """Return the document in a text that is itself JSON, as some of Codex's metadata is."""
    inner = parse_json(value) if isinstance(value, str) else None
    return value if inner is None else inner
