"""Lists of models, as ``GET codex/models`` answers them (docs/protocol.md, section 4c). Pure.

An entry stays the text that the backend sent: clients read many fields of it that the pool does not know.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from codexpool.protocol.bounded_json import loads

ETAG: Final = b"x-models-etag"
"""The header of an answer that names the present list: one with another etag makes the client fetch it again."""

TESTED: Final = "0.171.0"  # The client's version to ask with before any client has come.
LONGEST_LIST: Final = 4 * 2**20  # Bytes; the list in Codex 0.171.0 itself has 667 008, for 14 models.
MOST: Final = 500  # Models in one list.
LONGEST_SLUG: Final = 200  # Characters.
LONGEST_ETAG: Final = 200  # Characters of the etag of a list that is kept.

_VERSION = re.compile(r"(\d{1,5}\.\d{1,5}\.\d{1,5})(?:[-+][\w.+-]{0,50})?", re.ASCII)
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Entry(NamedTuple):
    """One model of a list. Clients show the lowest priority first, and use it by default."""

    slug: str
    priority: int
    text: bytes


class Catalogue(NamedTuple):
    """A list to answer a client with, and its etag."""

    body: bytes
    etag: str


def entries_of(body: bytes) -> tuple[Entry, ...]:
    """Return the entries of a list. Raise ValueError for one that a client could not read, or that has no model."""
    if len(body) > LONGEST_LIST:
        raise ValueError(f"a list of more than {LONGEST_LIST} bytes")
    loads(body)  # It bounds what the text may turn into.
    try:
        entries = tuple(_entry(value, text) for value, text in _members(body.decode()))
    except RecursionError as error:
        raise ValueError("a list that is nested too deep") from error
    if not 0 < len(entries) <= MOST:
        raise ValueError(f"a list of {len(entries)} models")
    return entries


def merged(lists: Iterable[Sequence[Entry]]) -> Catalogue:
    """Merge lists. Of entries for the same model the first one counts; the order is that of clients."""
    first: dict[str, Entry] = {}
    for entries in lists:
        for entry in entries:
            first.setdefault(entry.slug, entry)
    texts = (entry.text for entry in sorted(first.values(), key=lambda entry: entry.priority))
    body = b'{"models":[' + b",".join(texts) + b"]}"
    return Catalogue(body, f'"codexpool-{hashlib.sha256(body).hexdigest()[:32]}"')


def matches(condition: str, etag: str) -> bool:
    """Return whether an ``If-None-Match`` has an etag (RFC 9110, 13.1.2)."""
    return any(text.strip().removeprefix("W/") in (etag, "*") for text in condition.split(","))


def whole_version(version: str) -> str:
    """Return the version that a client asks for models with: ``0.171.0`` for ``0.171.0-alpha.2``; empty if odd."""
    match = _VERSION.fullmatch(version)
    return match[1] if match is not None else ""


def version_asked(query: str) -> str:
    """Return the version in the query of a request for the models; empty if it asks for anything else."""
    match parse_qsl(query, keep_blank_values=True) if len(query) <= LONGEST_SLUG else []:
        case [("client_version", version)]:
            return whole_version(version)
        case _:
            return ""


def _entry(value: Any, text: str) -> Entry:
    slug, priority = (value.get("slug"), value.get("priority")) if isinstance(value, dict) else (None, None)
    if not isinstance(slug, str) or not 0 < len(slug) <= LONGEST_SLUG or not slug.isprintable():
        raise ValueError("a model without a usable slug")
    if not isinstance(priority, int) or isinstance(priority, bool) or not -(2**31) <= priority < 2**31:
        raise ValueError("a model without a usable priority")
    encoded = text.encode()
    if _SURROGATE.search(encoded):
        json.dumps(value, ensure_ascii=False).encode()  # Half a character: no client can read it.
    return Entry(slug, priority, encoded)


def _members(text: str) -> Iterator[tuple[Any, str]]:
    """Yield the values in the list ``models`` of an object, each with its text. The text is valid JSON."""
    at = _after(text, 0, "{")
    while True:
        name, at = _DECODER.raw_decode(text, at)
        at = _after(text, at, ":")
        if name == "models":
            break
        _, at = _DECODER.raw_decode(text, at)
        at = _after(text, at, ",")
    at = _after(text, at, "[")
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        yield value, text[at:end]
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _after(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError("no list of models")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _finite(text: str) -> float:
    """Return a number; raise ValueError for one that Python takes and clients do not (``NaN``, ``1e999``)."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} in a list of models")
    return number


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
