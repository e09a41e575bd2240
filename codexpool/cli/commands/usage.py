"""`codexpool usage`: who has used what, day by day, as proxies have counted it."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli.common import Failure, json_option, moment, state_file
from codexpool.cli.output import Output, quiet_end
from codexpool.members.ledger import Spent
from codexpool.state import COUNTED_BY, StateError, read_spent
from codexpool.views.formatting import clock, plain

VERSION: Final = 1
"""Of the document that ``--json`` prints."""

Rows = Mapping[tuple[str, ...], Spent]
"""What has been used, by the values of that by which it is counted."""

NOBODY: Final[Mapping[str, str]] = {"member": "(no key)", "model": "(unknown)"}
"""What stands for an empty value: no name that pool.toml allows has brackets."""

TOKENS: Final = ("input", "cached", "output", "reasoning")

DAYS: Final = re.compile(r"([1-9]\d{0,5})d")
"""How a number of days is said: the last so many, with today."""


def _day(context: click.Context, parameter: click.Parameter, value: str) -> date:
    """The first day that is meant. Raises click.BadParameter."""
    try:
        if (days := DAYS.fullmatch(value)) is not None:
            return datetime.now(UTC).date() - timedelta(days=int(days[1]) - 1)
        return date.fromisoformat(value)
    except (ValueError, OverflowError):
        what = f"{plain(value)!r} is neither a day (2026-11-25) nor a number of days (30d)"
        raise click.BadParameter(what, context, parameter) from None


@click.command()
@click.option(
    "--since",
    callback=_day,
    default="30d",
    show_default=True,
    metavar="DAY|Nd",
    help="From this day on (2026-11-25), or for the last N days with today (7d). Days are those of UTC.",
)
@click.option(
    "--by",
    type=click.Choice(COUNTED_BY),
    multiple=True,
    default=("member",),
    show_default=True,
    help="What to count by. Can be said several times; pool is the pool.toml.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180) instead of a table.")
@json_option
def usage(since: date, by: Sequence[str], as_csv: bool, as_json: bool) -> None:
    """Turns and tokens of each member, as the proxies of this machine have counted them.

    A turn is one request to the model: a prompt that makes it use tools is several. Tokens are those that the backend
    counts at the end of a turn: cached ones are among those in, reasoning among those out. A turn that ended before
    that is without; how many those are is said.

    Counts are kept for 400 days, and what members wrote and were answered is kept nowhere. Times are UTC; a table
    that has no room for them leaves them out.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv or --json, not both")
    by = list(dict.fromkeys(by))
    rows = _used(state_file(), by, since)
    out = Output()
    with quiet_end():
        if as_json:
            out.line(json.dumps(_document(rows, by, since), indent=2))
        elif as_csv:
            click.echo(_csv(rows, by), nl=False)
        elif rows:
            _show(rows, by, out)
        else:
            out.line(f"No turns since {since} (UTC).")


def _used(path: Path, by: Sequence[str], since: date) -> Rows:
    """What was used. Raises Failure where that cannot be read."""
    try:
        return read_spent(path, by, since.isoformat())
    except (StateError, sqlite3.Error, OSError) as error:
        raise Failure(f"{path} cannot be read: {error}") from None


def _total(spents: Collection[Spent]) -> Spent:
    numbers = {name: sum(getattr(spent, name) for spent in spents) for name in ("turns", "unmetered", *TOKENS)}
    return Spent(
        **numbers,
        first_at=min((spent.first_at for spent in spents), default=0.0),
        last_at=max((spent.last_at for spent in spents), default=0.0),
    )


def _document(rows: Rows, by: Sequence[str], since: date) -> dict[str, Any]:
    """All of it as JSON has it. Who has no key, and which model is not known, is null."""
    return {
        "version": VERSION,
        "since": since.isoformat(),
        "by": by,
        "rows": [
            {**{name: value or None for name, value in zip(by, key, strict=True)}, **_fields(spent)}
            for key, spent in rows.items()
        ],
        "total": _fields(_total(rows.values())),
    }


def _fields(spent: Spent) -> dict[str, Any]:
    tokens = {f"{name}_tokens": getattr(spent, name) for name in TOKENS}
    used = {"first_at": moment(spent.first_at), "last_at": moment(spent.last_at)} if spent.turns else {}
    return {"turns": spent.turns, "unmetered": spent.unmetered, **tokens, "first_at": None, "last_at": None, **used}


def _csv(rows: Rows, by: Sequence[str]) -> str:
    """A line for each row, below one with the names of the columns."""
    text = io.StringIO()
    written = csv.writer(text)
    written.writerow([*by, *_fields(Spent())])
    for key, spent in rows.items():
        written.writerow([*map(_harmless, _names(key, by)), *_fields(spent).values()])
    return text.getvalue()


def _harmless(value: str) -> str:
    """A value that no spreadsheet takes for a formula: clients name models as they like."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def _names(key: Sequence[str], by: Sequence[str]) -> list[str]:
    return [plain(value) or NOBODY.get(name, "") for name, value in zip(by, key, strict=True)]


TITLES: Final = ("turns", "tokens in", "cached", "tokens out", "reasoning", "first used", "last used")

WIDE: Final = 110
"""Columns from which on there is room for the times."""


def _show(rows: Rows, by: Sequence[str], out: Output) -> None:
    """Print it as a table, and below it what is to be said of the numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    total = _total(rows.values())
    titles = TITLES if out.width >= WIDE else TITLES[:-2]
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, padding=(0, 1))
    for name in by:
        shown.add_column(name, "total" if name == by[0] else "", overflow="fold")
    for title, value in zip(titles, _cells(total), strict=False):
        is_time = title in TITLES[-2:]
        shown.add_column(title, value, justify="left" if is_time else "right", no_wrap=True)
    for key, spent in rows.items():
        shown.add_row(*map(Text, [*_names(key, by), *_cells(spent)][: len(shown.columns)]))
    out.show(shown)
    if total.unmetered:
        what = "turn is" if total.unmetered == 1 else "turns are"
        out.lines(Text(f"{_number(total.unmetered)} {what} without tokens: nobody said how many.", "yellow"))


def _cells(spent: Spent) -> list[str]:
    """The numbers and times of a row, in the order of `TITLES`."""
    numbers = (spent.turns, *(getattr(spent, name) for name in TOKENS))
    return [*map(_number, numbers), *(clock(at, day=True)[:16] for at in (spent.first_at, spent.last_at))]


def _number(value: int) -> str:
    """A number as a person reads it: ``12 345 678``."""
    return f"{value:,}".replace(",", " ")
