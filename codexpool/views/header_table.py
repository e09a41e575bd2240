"""The header table of a request: what the client sent, what went upstream in each attempt, and what came back.

It is read from the document of a trace, which is already redacted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from codexpool.redaction import escape, known_header

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

Document = Mapping[str, Any]

LEAST_WIDTH: Final = 40
"""The narrowest line, in columns."""

SIDE_BY_SIDE: Final = 110
"""Columns of a terminal from which on values are shown side by side."""

LEAST_COLUMN: Final = 20
"""The narrowest column of values side by side."""

NOTHING: Final = "(nothing)"

LEGEND: Final = "~ replaced   + added   - removed   = as the client sent it"


class Sign(StrEnum):
    """What happened to a header on its way to the backend; the value is the sign shown."""

    REPLACED = "~"
    ADDED = "+"
    REMOVED = "-"
    KEPT = "="


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
        return self.sign is not Sign.KEPT or any(value != self.client for value in self.upstream)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**self._asdict(), "sign": self.sign.value, "upstream": list(self.upstream)}


class Style(Enum):
    """The color of a line; a sign or its place tells the same without colors."""

    HEADING = "bold"
    REPLACED = "yellow"
    ADDED = "green"
    REMOVED = "red"
    KEPT = ""
    MEANING = "dim"


STYLES: Final = {
    Sign.REPLACED: Style.REPLACED,
    Sign.ADDED: Style.ADDED,
    Sign.REMOVED: Style.REMOVED,
    Sign.KEPT: Style.KEPT,
}


class Line(NamedTuple):
    """One line of the table."""

    text: str
    style: Style = Style.KEPT


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


def sent(document: Document) -> list[Document]:
    """Return the attempts that were sent; of an observed request those that would have been."""
    return [attempt for attempt in document["attempts"] if attempt["request_headers"]]


def rows(document: Document) -> list[Row]:
    """Return the headers, changed ones first, otherwise in the order of their first appearance."""
    client = joined(document["request_headers"])
    upstream = [joined(attempt["request_headers"]) for attempt in sent(document)]
    names = dict.fromkeys(name for headers in (client, *upstream) for name in headers)
    made = [_row(name, client.get(name), tuple(headers.get(name) for headers in upstream)) for name in names]
    return sorted(made, key=lambda row: not row.is_news)


def _row(name: str, client: str | None, upstream: tuple[str | None, ...]) -> Row:
    explained = known_header(name)
    sign = sign_of(client, upstream[-1]) if upstream else Sign.KEPT
    return Row(name, sign, client, upstream, explained.means if explained is not None else "")


# -- in lines


def lines(document: Document, width: int) -> list[str]:
    """Return the table as plain lines, ``width`` columns wide."""
    return [line.text for line in styled(document, width)]


def styled(document: Document, width: int) -> list[Line]:
    """Return the table as lines with their colors."""
    return list(_lines(document, max(width, LEAST_WIDTH)))


def _lines(document: Document, width: int) -> Iterator[Line]:
    attempts, made = sent(document), rows(document)
    yield from _wrapped(_heading(document, attempts), "  ", width, Style.HEADING)
    if attempts:
        yield from _wrapped(LEGEND, "", width, Style.MEANING)
    for row in made:
        yield from _row_lines(row, attempts, width)
    yield from _came_back(document, width)


def _heading(document: Document, attempts: Sequence[Document]) -> str:
    if document["observed"] and attempts:
        return "Headers: what the client sent, and what would have gone upstream"
    if attempts:
        return "Headers: what the client sent, and what went upstream"
    if document["policy"]["name"] in ("own", "never") or document["observed"]:
        return "Headers: what the client sent, and nothing was changed"
    return "Headers: what the client sent, and nothing went upstream"


def label(attempt: Document) -> str:
    """Return the title of an attempt's column."""
    return f"{attempt['number']} {attempt['identity']}"


def _row_lines(row: Row, attempts: Sequence[Document], width: int) -> Iterator[Line]:
    style = STYLES[row.sign]
    if not row.is_news:
        yield from _wrapped(f"{row.sign.value} {row.name}: {row.client}", "    ", width, style)
    else:
        yield from _wrapped(f"{row.sign.value} {row.name}", "    ", width, style)
        names = ["client", *map(label, attempts)]
        column = max(map(len, names))
        for name, value in zip(names, (row.client, *row.upstream), strict=True):
            start = f"    {name:<{column}}  "
            yield from _wrapped(start + (NOTHING if value is None else value), " " * len(start), width, style)
    if row.means:
        yield from _wrapped(f"      {row.means}", "      ", width, Style.MEANING)


def _came_back(document: Document, width: int) -> Iterator[Line]:
    """Yield the head of each attempt's answer."""
    for attempt in document["attempts"]:
        if attempt["status"] is None:
            continue
        came = "the connection was lost" if attempt["status"] == 0 else str(attempt["status"])
        yield from _wrapped(f"What came back, attempt {label(attempt)}: {came}", "  ", width, Style.HEADING)
        for name, value in joined(attempt["response_headers"]).items():
            yield from _wrapped(f"  {name}: {value}", "    ", width, Style.KEPT)
            if (explained := known_header(name)) is not None:
                yield from _wrapped(f"      {explained.means}", "      ", width, Style.MEANING)


def _wrapped(text: str, indent: str, width: int, style: Style) -> Iterator[Line]:
    """Wrap a text, with this indent on continuation lines."""
    indent = indent[: width // 2]
    for piece in textwrap.wrap(escape(text), width, subsequent_indent=indent, break_on_hyphens=False):
        yield Line(piece, style)


# -- on a terminal


class HeaderTable:
    """The table for a terminal: side by side if there is room, otherwise in lines.

    With ``changed_only`` unchanged headers are only counted, and answers are left out.
    """

    def __init__(self, document: Document, changed_only: bool = False) -> None:
        self._document = document
        self._changed_only = changed_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        width, attempts = max(options.max_width, LEAST_WIDTH), sent(self._document)
        news: list[Row] = []
        kept: list[Row] = []
        for row in rows(self._document):
            (news if row.is_news else kept).append(row)
        told = list(_wrapped(_heading(self._document, attempts), "  ", width, Style.HEADING))
        if news and width >= SIDE_BY_SIDE and (width - LEAST_WIDTH) // (len(attempts) + 1) >= LEAST_COLUMN:
            yield from (Text(line.text, line.style.value) for line in told)
            told.clear()
            yield self._side_by_side(news, attempts)
        else:
            told += (line for row in news for line in _row_lines(row, attempts, width))
        if self._changed_only:
            told.append(Line(f"{Sign.KEPT.value} {len(kept)} others, as the client sent them", Style.MEANING))
        else:
            told += (line for row in kept for line in _row_lines(row, attempts, width))
        told += _wrapped(LEGEND, "", width, Style.MEANING) if attempts else ()
        told += () if self._changed_only else _came_back(self._document, width)
        yield from (Text(line.text, line.style.value) for line in told)

    def _side_by_side(self, shown: Sequence[Row], attempts: Sequence[Document]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
        table.add_column("", no_wrap=True)
        table.add_column("header", max_width=LEAST_WIDTH, overflow="fold")
        table.add_column("the client sent", overflow="fold")
        for attempt in attempts:
            status = "" if attempt["status"] is None else f", {attempt['status'] or 'lost'}"
            table.add_column(Text(escape(f"{label(attempt)}{status}")), overflow="fold")
        for row in shown:
            style = STYLES[row.sign].value
            name = Text(escape(row.name), style)
            if row.means:
                name.append(f"\n{row.means}", Style.MEANING.value)
            cells = [row.client, *(Sign.KEPT.value if value == row.client else value for value in row.upstream)]
            table.add_row(row.sign.value, name, *(Text(escape(cell or ""), style) for cell in cells), style=style)
        return table
