"""Compares two JSON documents, member by member, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from codexpool.redaction import (
    DEEPEST,
    TOP,
    Place,
    parse_json,
    redact_header,
    redact_json,
    redact_text,
)
from codexpool.views.header_table import Sign

_MISSING: Final = object()

LONGEST_NAME: Final = 80  # Characters of a member's name that are shown


class Member(NamedTuple):
    """A member that differs: its path (``input[3].content``), and both values; None if it is missing."""

    path: str
    sign: Sign
    a: str | None
    b: str | None


def members(a: Any, b: Any, place: Place = TOP, path: str = "") -> Iterator[Member]:
    """Yield the members that differ: in the order of ``a``, then those that only ``b`` has."""
    if same(a, b):
        return
    inner_a, inner_b = _unfolded(a), _unfolded(b)
    is_deep = place.depth >= DEEPEST
    if isinstance(inner_a, dict) and isinstance(inner_b, dict) and not is_deep:
        for key in dict.fromkeys([*inner_a, *inner_b]):
            below, name = place.member(key, inner_a, inner_b), _below(path, key)
            yield from _compare(inner_a.get(key, _MISSING), inner_b.get(key, _MISSING), below, name)
    elif isinstance(inner_a, list) and isinstance(inner_b, list) and not is_deep:
        for index, (one, other) in enumerate(zip_longest(inner_a, inner_b, fillvalue=_MISSING)):
            yield from _compare(one, other, place.item(index, inner_a, inner_b), f"{path}[{index}]")
    else:
        shown_a, shown_b = _shown(a, place), _shown(b, place)
        yield Member(path, Sign.REPLACED, shown_a, told_apart(shown_a, shown_b))


def told_apart(a: str | None, b: str | None) -> str | None:
    """Return ``b`` as shown beside ``a``: redacted, two different secrets may look the same."""
    return f"{b} (another one)" if a is not None and a == b else b


def _compare(a: Any, b: Any, place: Place, path: str) -> Iterator[Member]:
    if b is _MISSING:
        yield Member(path, Sign.REMOVED, _shown(a, place), None)
    elif a is _MISSING:
        yield Member(path, Sign.ADDED, None, _shown(b, place))
    else:
        yield from members(a, b, place, path)


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal; ``1`` and ``true`` are not."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _shown(value: Any, place: Place) -> str:
    made = redact_json(
        value,
        place,
        lambda name, text: redact_header(name, text, full=True) if name else redact_text(text, full=True),
    )
    return json.dumps(made, ensure_ascii=False)


def _below(path: str, key: str) -> str:
    name = redact_text(key[:LONGEST_NAME])
    return f"{path}.{name}" if path else name


def _unfolded(value: Any) -> Any:
    """Return the document in a text that is itself JSON, as some of Codex's metadata is."""
    inner = parse_json(value) if isinstance(value, str) else None
    return value if inner is None else inner
