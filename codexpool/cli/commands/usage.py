"""`codexpool usage`: turns and tokens of each member, as proxies counted them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import click

from codexpool.cli.common import Failure, json_option, moment, remark, state_location
from codexpool.cli.output import Column, print_json, print_table
from codexpool.members.ledger import Spent
from codexpool.state import StateError
from codexpool.state.opening import COUNTED_BY, read_spent
from codexpool.views.formatting import local_time, plain

Rows = Mapping[tuple[str, ...], Spent]
"""What was used, by the values of the columns it is counted by."""

EMPTY: Final[Mapping[str, str]] = {"member": "(no key)", "model": "(unknown)"}
"""Shown for empty values; names in pool.toml have no brackets."""

TOKENS: Final = ("input", "cached", "output", "reasoning")
NUMBERS: Final = {
    "turns": "turns",
    "tokens in": "input_tokens",
    "cached": "cached_tokens",
    "tokens out": "output_tokens",
    "reasoning": "reasoning_tokens",
}
TIMES: Final = {"first used": "first_at", "last used": "last_at"}
"""Columns of the table, and their keys in JSON."""


def _day(context: click.Context, parameter: click.Parameter, value: str) -> date:
    """Parse the first day, or a number of days until today (``30d``). Raises click.BadParameter."""
    try:
        if (days := re.fullmatch(r"([1-9]\d{0,5})d", value)) is not None:
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
    help="First day (2026-11-25), or the last N days including today (7d). Days are UTC.",
)
@click.option(
    "--by",
    type=click.Choice(COUNTED_BY),
    multiple=True,
    default=("member",),
    show_default=True,
    help="What to count by; pool is the path of pool.toml. Repeatable.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180).")
@json_option
def usage(since: date, by: Sequence[str], as_csv: bool, as_json: bool) -> None:
    """Show the turns and tokens of each member, as proxies counted them.

    A turn is one request to the model; a prompt with tool calls takes several. Tokens are the backend's count at the
    end of a turn: "in" includes cached tokens, "out" includes reasoning. A turn that broke off has no count.

    Counts are kept for 400 days; prompts and answers are never kept.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot be combined")
    by, at = list(dict.fromkeys(by)), state_location()
    try:
        rows = read_spent(at, by, since.isoformat())
    except StateError as error:
        raise Failure(f"state: {error}") from None
    if as_json:
        print_json(_document(rows, by, since))
    elif as_csv:
        click.echo(_csv(rows, by), nl=False)
    else:
        if not rows:
            remark(f"no turns since {since} (UTC)")
        _show(rows, by)


def _total(rows: Rows) -> Spent:
    spents = rows.values()
    return Spent(
        **{name: sum(getattr(spent, name) for spent in spents) for name in ("turns", "unmetered", *TOKENS)},
        first_at=min((spent.first_at for spent in spents), default=0.0),
        last_at=max((spent.last_at for spent in spents), default=0.0),
    )


def _document(rows: Rows, by: Sequence[str], since: date) -> dict[str, Any]:
    return {
        "since": since.isoformat(),
        "by": by,
        "rows": [
            {**{name: value or None for name, value in zip(by, key, strict=True)}, **_fields(spent)}
            for key, spent in rows.items()
        ],
        "total": _fields(_total(rows)),
    }


def _fields(spent: Spent) -> dict[str, Any]:
    return {
        "turns": spent.turns,
        "unmetered": spent.unmetered,
        **{f"{name}_tokens": getattr(spent, name) for name in TOKENS},
        "first_at": moment(spent.first_at) if spent.turns else None,
        "last_at": moment(spent.last_at) if spent.turns else None,
    }


def _csv(rows: Rows, by: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*by, *_fields(Spent())])
    for key, spent in rows.items():
        # Clients choose the names of models; a spreadsheet must not take one for a formula.
        names = [f"'{name}" if name.startswith(("=", "+", "-", "@")) else name for name in _names(key, by)]
        writer.writerow([*names, *_fields(spent).values()])
    return text.getvalue()


def _names(key: Sequence[str], by: Sequence[str]) -> list[str]:
    return [plain(value) or EMPTY.get(name, "") for name, value in zip(by, key, strict=True)]


def _show(rows: Rows, by: Sequence[str]) -> None:
    total = _total(rows)
    columns = [Column(name, name) for name in by]
    columns += [Column(title, name, rank=1, is_number=True) for title, name in NUMBERS.items()]
    columns += [Column(title, name, rank=2, shown=local_time) for title, name in TIMES.items()]
    shown = [{**dict(zip(by, _names(key, by), strict=True)), **_fields(spent)} for key, spent in rows.items()]
    print_table(columns, shown, {by[0]: "total", **dict.fromkeys(by[1:]), **_fields(total)})
    if total.unmetered:
        turns = "1 turn has" if total.unmetered == 1 else f"{total.unmetered:,} turns have"
        remark(f"{turns} no token count")
