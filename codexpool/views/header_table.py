"""The header table of a request: what the client sent, what went upstream in each attempt, and what came back.

It is made from the document of a trace, which is already redacted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from codexpool.redaction import escape, known_header
from codexpool.views.formatting import Line, Role

Document = Mapping[str, Any]

NOTHING: Final = "(nothing)"
LEGEND: Final = "~ replaced   + added   - removed   = as the client sent it"


class Sign(StrEnum):
    """What happened to a header on its way to the backend; the value is the sign shown."""

    REPLACED = "~"
    ADDED = "+"
    REMOVED = "-"
    KEPT = "="


ROLES: Final = {Sign.REPLACED: Role.CHANGED, Sign.ADDED: Role.GOOD, Sign.REMOVED: Role.BAD, Sign.KEPT: Role.FACT}


class Row(NamedTuple):
    """One header on its way to the backend; a value is None if it was missing.

    ``upstream`` has a value for each attempt that was sent, ``sign`` is about the last of them. ``means`` explains
    the header; empty if it is unknown.
    """

    name: str
    sign: Sign
    client: str | None
    upstream: tuple[str | None, ...]
    means: str

    @property
    def is_news(self) -> bool:
        """Return whether it was changed in any attempt."""
        return any(value != self.client for value in self.upstream)

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "sign": self.sign.value, "upstream": list(self.upstream)}


def sign_of(before: str | None, after: str | None) -> Sign:
    """Return what happened to a value; None is a missing header."""
    if before == after:
        return Sign.KEPT
    if before is None:
        return Sign.ADDED
    return Sign.REMOVED if after is None else Sign.REPLACED


def joined(headers: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return the values by lower-case name; repeated headers are joined, so that a second one cannot hide."""
    values: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        values[key] = f"{values[key]}{'; ' if key == 'cookie' else ', '}{value}" if key in values else value
    return values


def meaning(name: str) -> str:
    """Return the explanation of a header; empty if it is unknown."""
    known = known_header(name)
    return known.means if known is not None else ""


def sent(document: Document) -> list[Document]:
    """Return the attempts that were sent; of an observed request those that would have been."""
    return [attempt for attempt in document["attempts"] if attempt["request_headers"]]


def rows(document: Document) -> list[Row]:
    """Return the headers, changed ones first, otherwise in the order of their first appearance."""
    client = joined(document["request_headers"])
    upstream = [joined(attempt["request_headers"]) for attempt in sent(document)]
    made = []
    for name in dict.fromkeys(name for headers in (client, *upstream) for name in headers):
        before, after = client.get(name), tuple(headers.get(name) for headers in upstream)
        made.append(Row(name, sign_of(before, after[-1]) if after else Sign.KEPT, before, after, meaning(name)))
    return sorted(made, key=lambda row: not row.is_news)


def header_lines(document: Document, *, changed_only: bool = False) -> list[Line]:
    """Return the table as lines; with ``changed_only`` without answers, and with a count of unchanged headers."""
    attempts, table = sent(document), rows(document)
    lines = [Line(_heading(document, attempts), Role.HEADING)]
    if attempts:
        lines.append(Line(LEGEND, Role.DIM))
    for row in table:
        if row.is_news or not changed_only:
            lines += _row_lines(row, attempts)
    if changed_only:
        kept = sum(not row.is_news for row in table)
        lines.append(Line(f"{Sign.KEPT.value} {kept} others, as the client sent them", Role.DIM))
    else:
        lines += _answers(document)
    return [line._replace(text=escape(line.text)) for line in lines]


def _heading(document: Document, attempts: Sequence[Document]) -> str:
    if attempts:
        went = "would have gone" if document["observed"] else "went"
        return f"Headers: what the client sent, and what {went} upstream"
    if document["policy"]["name"] in ("own", "never") or document["observed"]:
        return "Headers: what the client sent, and nothing was changed"
    return "Headers: what the client sent, and nothing went upstream"


def label(attempt: Document) -> str:
    """Return the title of an attempt: its number and its identity."""
    return f"{attempt['number']} {attempt['identity']}"


def _row_lines(row: Row, attempts: Sequence[Document]) -> Iterator[Line]:
    role = ROLES[row.sign]
    if not row.is_news:
        yield Line(f"{row.sign.value} {row.name}: {row.client}", role, hang=4)
    else:
        yield Line(f"{row.sign.value} {row.name}", role, hang=4)
        titles = ["client", *map(label, attempts)]
        column = max(map(len, titles))
        for title, value in zip(titles, (row.client, *row.upstream), strict=True):
            yield Line(f"    {title:<{column}}  {NOTHING if value is None else value}", role, hang=column + 6)
    if row.means:
        yield Line(f"      {row.means}", Role.DIM, hang=6)


def _answers(document: Document) -> Iterator[Line]:
    """Yield the head of each attempt's answer."""
    for attempt in document["attempts"]:
        if attempt["status"] is None:
            continue
        came = attempt["status"] or "the connection was lost"
        yield Line(f"What came back, attempt {label(attempt)}: {came}", Role.HEADING)
        for name, value in joined(attempt["response_headers"]).items():
            yield Line(f"  {name}: {value}", hang=4)
            if means := meaning(name):
                yield Line(f"      {means}", Role.DIM, hang=6)
