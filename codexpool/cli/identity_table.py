"""The table of identities that `codexpool list` and `codexpool check` print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from codexpool.cli.common import console
from codexpool.cli.identity_rows import IdentityRow
from codexpool.pool.identity import Status
from codexpool.pool.states import CONDEMNED

STYLES: Final = {
    Status.READY: "green",
    Status.UNVERIFIED: "cyan",
    Status.SUSPECT: "yellow",
    Status.LIMITED: "yellow",
    Status.RESTING: "yellow",
    Status.PAUSED: "dim",
    **dict.fromkeys(CONDEMNED, "bold red"),
}

WIDE: Final = 150
"""Columns from which on there is room for everything in one row."""

COLUMNS: Final[Mapping[str, Callable[[IdentityRow], str]]] = {
    "name": lambda row: row.spec.name,
    "kind": lambda row: str(row.kind),
    "account": lambda row: row.account_id,
    "user": lambda row: row.user_id,
    "plan": lambda row: row.metadata.plan if row.metadata is not None else "",
    "status": lambda row: str(row.status),
    "last used": lambda row: _short(row.last_used),
    "fingerprint": lambda row: row.fingerprint,
}
"""What a row shows of an identity."""

LEFT_OUT: Final = ("account", "user", "fingerprint")
"""Where there is little room: `codexpool show` has them."""


def table(rows: Sequence[IdentityRow]) -> None:
    """Print the identities as a table, and below it what is to be said of some."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    titles = [title for title in COLUMNS if out.width >= WIDE or title not in LEFT_OUT]
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for title in titles:
        shown.add_column(title, overflow="fold", no_wrap=title in ("kind", "status", "last used", "fingerprint"))
    for row in rows:
        styles = {"status": STYLES[row.status]}
        shown.add_row(*(Text(COLUMNS[title](row), styles.get(title, "")) for title in titles))
    out.print(shown)
    for row in rows:
        yellow = [(words, "yellow") for words in (*row.not_for, row.reminder)]
        for words, style in ((_why(row), STYLES[row.status]), *yellow):
            if words:
                out.print(Text.assemble((row.spec.name, "bold"), ": ", (words, style)), soft_wrap=True)


def _why(row: IdentityRow) -> str:
    """Why an identity stands as it does, where that is not plain."""
    if not row.evidence:
        return ""
    if row.until is not None:
        return f"{row.status} until {_short(row.until)}: {row.evidence}"
    since = f" since {_short(row.since)}" if row.since is not None else ""
    return f"{row.status}{since}: {row.evidence}"


def _short(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
