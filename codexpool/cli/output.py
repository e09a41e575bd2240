"""What commands print: tables and texts for people, JSON for programs. Unbuffered."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from codexpool.common.iso_time import iso_time
from codexpool.pool.identity import Status
from codexpool.pool.states import CONDEMNED
from codexpool.views.formatting import plain

VERSION: Final = 1  # version of what is printed as JSON
TIMES: Final = frozenset({"at", "since", "until"})  # keys of times, besides those that end in _at
UNWRAPPED: Final = 10_000  # columns of a file or a pipe, if COLUMNS is not set: nothing is wrapped


STATUS_STYLES: Final = {
    Status.READY: "green",
    Status.UNVERIFIED: "cyan",
    Status.SUSPECT: "yellow",
    Status.LIMITED: "yellow",
    Status.RESTING: "yellow",
    Status.PAUSED: "dim",
    **dict.fromkeys(CONDEMNED, "bold red"),
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let `codexpool.cli.ending` decide, as for all output: rich would exit with code 1."""
        raise


def console(stderr: bool = False) -> Console:
    """Return a console: with colours on a terminal; elsewhere without, and nothing is wrapped."""
    made = _Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = UNWRAPPED
    return made


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on standard error what takes its time, if that is a terminal."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield
        return
    with terminal.status(what):
        yield


class Output:
    """Standard output. All it prints is written at once, also to a file or a pipe."""

    def __init__(self) -> None:
        if reconfigure := getattr(sys.stdout, "reconfigure", None):
            reconfigure(errors="replace")  # An ASCII terminal is no reason to fail over an arrow.
        self.console = console()

    @property
    def columns(self) -> int | None:
        """The columns to wrap text at; None for a file or a pipe, unless COLUMNS is set."""
        return self.console.width if self.console.is_terminal or "COLUMNS" in os.environ else None

    def show(self, *renderables: RenderableType) -> None:
        """Print tables and texts."""
        with self.console.capture() as captured:
            for renderable in renderables:
                self.console.print(renderable)
        text = captured.get()
        if not self.console.is_terminal:  # Programs have no use for the blanks that fill up a table.
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        self._write(text)

    def lines(self, *texts: Text) -> None:
        """Print lines whole, for the terminal to wrap."""
        with self.console.capture() as captured:
            for text in texts:
                self.console.print(text, soft_wrap=True)
        self._write(captured.get())

    def line(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, in the envelope of all: an object with its ``version``, and times in ISO 8601."""
    Output().line(json.dumps({"version": VERSION, **_with_times(document)}, indent=2))


def print_json_line(document: Mapping[str, Any]) -> None:
    """Print one document of a stream, on a line."""
    Output().line(json.dumps({"version": VERSION, **_with_times(document)}))


def _with_times(value: Any, key: str = "") -> Any:
    """Return JSON of a proxy with its times as all commands print them; the proxy has unix seconds."""
    match value:
        case dict():
            is_by_family = key == "limited"
            return {name: _with_times(item, "until" if is_by_family else name) for name, item in value.items()}
        case list():
            return [_with_times(item, key) for item in value]
        case float() | int() if not isinstance(value, bool) and (key in TIMES or key.endswith("_at")):
            with contextlib.suppress(OverflowError, OSError, ValueError):
                return iso_time(value, "seconds" if value == int(value) else "milliseconds")
    return value


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return "; ".join(map(str, value))
        case _:
            return str(value)


Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. The first one of a table is its key: never left out, and never cut."""

    title: str
    key: str
    """Where a row has its value."""
    rank: int = 0
    """On a terminal that is too narrow, columns of the highest rank are left out first; those of rank 0 never."""
    style: Callable[[Row], str] = lambda row: ""
    """Returns the style of a row's value on a terminal."""
    is_number: bool = False
    is_below: bool = False
    """Whether a terminal shows it below the table. Its values are lists of sentences."""
    shown: Callable[[Any], str] = _cell
    """Makes a text of a value."""


def print_table(columns: Sequence[Column], rows: Iterable[Row], total: Row | None = None) -> None:
    """Print rows: aligned on a terminal; elsewhere with a header and tabs, a row a line, for `cut` and `awk`.

    ``total`` is one more row, for terminals only.
    """
    out, rows = Output(), list(rows)
    if not out.console.is_terminal:
        lines = [[column.title for column in columns]]
        lines += [[_on_a_line(column.shown(row[column.key])) for column in columns] for row in rows]
        out.line("\n".join("\t".join(line) for line in lines))
        return
    beside = [column for column in columns if not column.is_below]
    if not rows:
        return
    if (table := _fitting(beside, [*rows, *([total] if total else [])], out.console)) is not None:
        out.show(table)
    else:
        out.lines(*(line for row in rows for line in _stacked(beside, row)))
    for row in rows:
        for column in columns:
            for sentence in row[column.key] if column.is_below else ():
                out.lines(Text.assemble(_key(columns, row), ": ", (plain(sentence), column.style(row))))


def print_facts(facts: Mapping[str, Any], styles: Mapping[str, str] | None = None) -> None:
    """Print what is known of one thing, a line each: aligned on a terminal, elsewhere with a tab."""
    out = Output()
    if not out.console.is_terminal:
        out.line("\n".join(f"{title}\t{_on_a_line(_cell(value))}" for title, value in facts.items()))
        return
    width = max(map(len, facts))
    for title, value in facts.items():
        lines = value if isinstance(value, list) else [_cell(value)]
        for number, line in enumerate(lines or [""]):
            text = Text(plain(line), (styles or {}).get(title, "")) if line else Text("-", "dim")
            out.lines(Text(f"{'' if number else title:<{width}}  ").append_text(text))


def _key(columns: Sequence[Column], row: Row) -> Text:
    return Text(plain(columns[0].shown(row[columns[0].key])), "bold")


def _for_people(column: Column, row: Row) -> str:
    value = row[column.key]
    return f"{value:,}" if column.is_number and isinstance(value, int) else column.shown(value)


def _on_a_line(text: str) -> str:
    return ", ".join(map(plain, text.splitlines()))


def _fitting(columns: Sequence[Column], rows: Sequence[Row], out: Console) -> Table | None:
    """Return a table of the columns that fit, and have a value; None if it would be wider than the terminal."""
    kept = [column for column in columns if not column.rank or any(column.shown(row[column.key]) for row in rows)]
    while True:
        table, optional = _table(kept, rows), [column for column in kept if column.rank]
        width = needed(table, out)
        if (width.maximum if optional else width.minimum) <= out.width:  # What is not optional is wrapped.
            return table
        if not optional:
            return None
        kept.remove(max(reversed(optional), key=lambda column: column.rank))


def needed(table: Table, out: Console) -> Measurement:
    """Return how many columns a table needs: with its texts wrapped, and with each on one line."""
    return out.measure(table, options=out.options.update(width=UNWRAPPED))


def _stacked(columns: Sequence[Column], row: Row) -> Iterator[Text]:
    """Yield a row as lines: for terminals that are narrower than its table."""
    yield _key(columns, row)
    for column in columns[1:]:
        if text := _for_people(column, row).replace("\n", ", "):
            yield Text.assemble(f"  {column.title}: ", (plain(text), column.style(row)))


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: JustifyMethod = "right" if column.is_number else "left"
        is_key = column is columns[0]
        width = max((cell_len(_key(columns, row).plain) for row in rows), default=0) if is_key else None
        table.add_column(
            column.title, justify=justify, overflow="fold", no_wrap=is_key or column.rank > 0, min_width=width
        )
    for row in rows:
        cells = [Text("\n".join(map(plain, _for_people(column, row).splitlines()))) for column in columns]
        for column, cell in zip(columns, cells, strict=True):
            cell.stylize("bold" if column is columns[0] else column.style(row))
        table.add_row(*cells)
    return table
