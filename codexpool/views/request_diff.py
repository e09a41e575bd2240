"""Compares two requests, or two identities: the differences, in order, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from codexpool.redaction import (
    DEEPEST,
    TOP,
    Place,
    fingerprint_of,
    parse_json,
    redact_header,
    redact_json,
    redact_text,
)
from codexpool.views.formatting import relative
from codexpool.views.header_table import Sign, joined, meaning, sign_of

WIDTH: Final = 120  # characters of a value that are shown, unless ``full``
BEFORE: Final = 30  # characters before the first difference of two long values that are shown
MOST_FIELDS: Final = 10_000  # fields of a query that are read
_MISSING: Final = object()
LONGEST_NAME: Final = 80  # characters of a member's name that are shown
TIMES: Final = frozenset({"since", "until"})  # members of an identity with a time, besides those that end in ``_at``


class Part(StrEnum):
    """The part of a request that a difference is in."""

    REQUEST = "request"
    HEADERS = "headers"
    BODY = "body"
    ANSWER = "answer"
    ANSWER_HEADERS = "headers of the answer"
    IDENTITY = "identity"


class Difference(NamedTuple):
    """One difference. A value is None if that side has none; ``means`` explains a header."""

    part: Part
    name: str
    sign: Sign
    a: str | None
    b: str | None
    means: str = ""

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "part": self.part.value, "sign": self.sign.value}


class Comparison(NamedTuple):
    """The differences, and notes about the comparison itself."""

    differences: list[Difference]
    notes: list[str]


Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two requests.

    ``body`` is decoded, None if unknown; ``status`` is None without an answer. ``is_safe``: the values come from a
    trace's document, and are already redacted.
    """

    label: str
    method: str
    url: str
    headers: Headers = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    status: int | None = None
    answer_headers: Headers = field(default=(), repr=False)
    is_safe: bool = False


def compare(a: Side, b: Side, *, answers: bool = True, full: bool = False) -> Comparison:
    """Compare two requests and, with ``answers``, their answers. Long values are shortened unless ``full``."""
    found = [*_requests(a, b), *_headers(Part.HEADERS, a, b, a.headers, b.headers)]
    notes = [*_order(a.headers, b.headers)]
    notes += [f"{side.label}: its body is not known" for side in (a, b) if side.body is None]
    if a.body is not None and b.body is not None and a.body != b.body:
        bodies = _bodies(a.body, b.body)
        found += bodies
        notes += [] if bodies else ["the bodies mean the same, but are not the same bytes"]
    if answers:
        if a.status != b.status:
            statuses = (None if side.status is None else str(side.status) for side in (a, b))
            found.append(_difference(Part.ANSWER, "status", *statuses))
        found += _headers(Part.ANSWER_HEADERS, a, b, a.answer_headers, b.answer_headers)
    return Comparison(found if full else [_shortened(difference) for difference in found], list(dict.fromkeys(notes)))


# -- parts of a request


def _requests(a: Side, b: Side) -> Iterator[Difference]:
    if a.method != b.method:
        yield _difference(Part.REQUEST, "method", redact_text(a.method), redact_text(b.method))
    one, other = _url(a), _url(b)
    for name in dict.fromkeys([*one, *other]):
        (raw_a, shown_a), (raw_b, shown_b) = one.get(name, (None, None)), other.get(name, (None, None))
        if (shown_a != shown_b) if a.is_safe or b.is_safe else (raw_a != raw_b):
            yield _difference(Part.REQUEST, name, shown_a, told_apart(shown_a, shown_b))


def _url(side: Side) -> Mapping[str, tuple[str | None, str | None]]:
    """Return the parts of a URL by name, each raw and redacted."""
    try:
        url = urlsplit(side.url)
        query = parse_qsl(url.query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {"url": (side.url, redact_text(side.url, full=True))}
    origin = f"{url.scheme}://{url.netloc}"
    parts = {"origin": (origin, redact_text(origin)), "path": (url.path, redact_text(url.path, full=True))}
    values: dict[str, str] = {}
    for name, value in query:
        values[name] = f"{values[name]}, {value}" if name in values else value
    for name, value in values.items():
        parts[f"query {redact_text(name)}"] = (value, redact_header(name, value, full=True))
    return {**parts}


def _headers(part: Part, a: Side, b: Side, one: Headers, other: Headers) -> Iterator[Difference]:
    raw_a, raw_b = joined(one), joined(other)
    is_raw = not (a.is_safe or b.is_safe)
    for name in dict.fromkeys([*raw_a, *raw_b]):
        value_a, value_b = raw_a.get(name), raw_b.get(name)
        shown_a = None if value_a is None else redact_header(name, value_a, full=True)
        shown_b = None if value_b is None else redact_header(name, value_b, full=True)
        if value_a == value_b or (not is_raw and shown_a == shown_b):
            continue
        means = meaning(name)
        are_json = all(isinstance(parse_json(value or ""), dict) for value in (value_a, value_b))
        inside = list(members(value_a, value_b)) if are_json else []
        for member in inside:
            yield Difference(part, f"{redact_text(name)}: {member.path}", *member[1:], means)
            means = ""
        if not inside:
            sign = sign_of(value_a, value_b)
            yield Difference(part, redact_text(name), sign, shown_a, told_apart(shown_a, shown_b), means)


def _order(a: Headers, b: Headers) -> Iterator[str]:
    """Yield notes on the order and the spelling of header names."""
    lower_a, lower_b = ({name.lower(): name for name, _ in headers} for headers in (a, b))
    both = [name for name in lower_a if name in lower_b]
    if both != [name for name in lower_b if name in lower_a]:
        yield "the headers that both have are in another order"
    if any(lower_a[name] != lower_b[name] for name in both):
        yield "some names of headers are written in another case"


def _bodies(a: bytes, b: bytes) -> list[Difference]:
    one, other = (parse_json(body.decode("utf-8", "replace")) for body in (a, b))
    if one is None or other is None:
        text_a, text_b = _text(a), _text(b)
        return [_difference(Part.BODY, "text", text_a, told_apart(text_a, text_b))]
    try:
        found = list(members(one, other))
    except RecursionError:
        found = [Member("", Sign.REPLACED, "(very many levels)", "(very many levels, and others)")]
    return [Difference(Part.BODY, member.path or "all of it", *member[1:]) for member in found]


def _text(body: bytes) -> str | None:
    """Return a redacted body; of one that is not text only its length and fingerprint."""
    if not body:
        return None
    try:
        return redact_text(body.decode(), full=True)
    except UnicodeDecodeError:
        return f"{len(body)} bytes sha256:{fingerprint_of(body.decode('latin-1'))}"


# -- identities


def compare_identities(a: Mapping[str, Any], b: Mapping[str, Any], now: float) -> Comparison:
    """Compare two identities, as the status document or `codexpool list --json` has them; ``now`` in unix seconds."""
    found = members(_readable({**a, "name": None}, now), _readable({**b, "name": None}, now))
    return Comparison([_difference(Part.IDENTITY, one.path, _unquoted(one.a), _unquoted(one.b)) for one in found], [])


def _unquoted(value: str | None) -> str | None:
    """Return a string of JSON without its quotes; what follows it (that it is another one) is kept."""
    if value is None or not value.startswith('"'):
        return value
    text, end = json.JSONDecoder().raw_decode(value)
    return f"{text}{value[end:]}"


def _readable(value: Any, now: float, key: str = "") -> Any:
    """Return a part of an identity with its times relative to now, and its limits by name."""
    match value:
        case dict():
            is_times = key == "limited"
            return {name: _readable(item, now, "until" if is_times else name) for name, item in value.items()}
        case list() if key == "limits":
            limits = {f"{limit.get('family')}, {limit.get('minutes')} min": limit for limit in value}
            return _readable(limits, now)
        case int() | float() if key in TIMES or key.endswith("_at"):
            return relative(value, now)
        case _:
            return value


# -- values


def _difference(part: Part, name: str, a: str | None, b: str | None) -> Difference:
    return Difference(part, name, sign_of(a, b), a, b)


def _shortened(difference: Difference) -> Difference:
    """Return both values around their first difference."""
    a, b = difference.a, difference.b
    begin = 0
    if a is not None and b is not None and max(len(a), len(b)) > WIDTH:
        alike = (one == other for one, other in zip(a, b, strict=False))
        begin = next((i for i, is_alike in enumerate(alike) if not is_alike), min(len(a), len(b))) - BEFORE
    return difference._replace(a=_window(a, begin), b=_window(b, begin))


def _window(text: str | None, begin: int) -> str | None:
    if text is None or len(text) <= WIDTH:
        return text
    begin = max(0, min(begin, len(text) - WIDTH))
    cut = text[begin : begin + WIDTH]
    return f"{'…' * (begin > 0)}{cut}{'…' * (begin + WIDTH < len(text))} ({len(text)} characters)"


# -- JSON, member by member


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
