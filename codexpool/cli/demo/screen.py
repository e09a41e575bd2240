"""What the demo prints: steps, tables and checks. Colours only on a terminal; never a token."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import fingerprint
from codexpool.views.header_table import Sign, joined, sign_of

WIDTH: Final = 120
"""Columns of output that is not a terminal, unless COLUMNS is set."""

WIDE: Final = 110
"""Columns a table needs."""

LONGEST: Final = 28
"""Characters shown of an unchanged value."""

STYLES: Final = {Sign.REPLACED: "yellow", Sign.ADDED: "green", Sign.REMOVED: "red", Sign.KEPT: "dim"}

PLACES: Final = ("the client sent", "the proxy's flow shows", "the backend got")
NOTHING: Final = "(nothing)"

LEGEND: Final = "~ replaced   + added   - removed   = kept as the client sent it"


Headers = Sequence[tuple[str, str]]


class Row(NamedTuple):
    """A header in three places; None where it is missing."""

    sign: Sign
    name: str
    client: str | None
    flow: str | None
    upstream: str | None


class Screen:
    """The output of the demo. All text goes through here, where tokens passed to `hide` are described instead."""

    def __init__(self, output: Console | None = None, errors: Console | None = None) -> None:
        self._output = output or _console(stderr=False)
        self._errors = errors or _console(stderr=True)
        self._hidden: dict[str, str] = {}
        self._steps = 0
        self._checks = 0
        self._broken: list[str] = []

    def hide(self, tokens: Sequence[str]) -> None:
        """From now on, show these as kind, length and fingerprint."""
        self._hidden.update({token: described(token) for token in tokens})

    def safe(self, text: str) -> str:
        """Return the text without any token."""
        for token, shown in self._hidden.items():
            text = text.replace(token, shown)
        return redact_tokens(text)

    # -- parts

    def title(self, text: str) -> None:
        self._line(text, "bold")

    def step(self, text: str) -> None:
        """Print the heading of the next step."""
        self._steps += 1
        self._output.print()
        self._line(f"{self._steps}. {text}", "bold cyan")

    def say(self, text: str, style: str = "") -> None:
        """Print a line of a step."""
        self._line(f"   {text}", style)

    def check(self, holds: object, text: str) -> None:
        """Print and count the result of a check."""
        self._checks += 1
        if holds:
            self._line(f"   ok   {text}", "green")
        else:
            self._broken.append(text)
            self._line(f"   NOT  {text}", "bold red")

    def headers(self, rows: Sequence[Row], every: bool) -> None:
        """Print each header as client, flow and backend saw it; without ``every``, only count unchanged ones."""
        kept = [row for row in rows if row.sign is Sign.KEPT]
        shown = rows if every else [row for row in rows if row not in kept]
        if self._output.width >= WIDE:
            self._output.print(self._table(shown))
        else:
            self._list(shown)
        if not every:
            self._line(f" =   {len(kept)} others", STYLES[Sign.KEPT])
        self.say(LEGEND, "dim")

    def diff(self, before: str, after: str, name: str) -> None:
        """Print what changed in a file."""
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=2)
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in lines:
            self.say(line, styles.get(line[0], ""))

    def fail(self, text: str) -> None:
        """Print why the demo failed."""
        self._errors.print(Text(self.safe(f"codexpool demo: {text}"), "red"), soft_wrap=True)

    def verdict(self, seconds: float) -> int:
        """Print the last line and return the exit code."""
        self._output.print()
        if self._broken:
            self.fail(f"{len(self._broken)} of {self._checks} checks failed: {'; '.join(self._broken)}")
            return 1
        self._line(f"All {self._checks} checks passed in {seconds:.1f} s.", "bold green")
        return 0

    def _table(self, rows: Sequence[Row]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
        table.add_column("")
        table.add_column("header", no_wrap=True)
        for place in PLACES:
            table.add_column(place, overflow="fold")
        for row in rows:
            cells = (row.sign.value, row.name, *self._values(row))
            table.add_row(*map(Text, cells), style=STYLES[row.sign])
        return table

    def _list(self, rows: Sequence[Row]) -> None:
        """Print the rows as a list: the terminal is too narrow for a table."""
        for row in rows:
            values = self._values(row)
            if row.sign is Sign.KEPT:
                self._line(f" =   {row.name}: {values[0]}", STYLES[row.sign])
                continue
            self._line(f" {row.sign.value}   {row.name}", STYLES[row.sign])
            for place, value in zip(PLACES, values, strict=True):
                self._line(f"        {place}: {value or NOTHING}", STYLES[row.sign])

    def _values(self, row: Row) -> tuple[str, str, str]:
        """Return a header as client, flow and backend had it, without tokens."""
        if row.sign is Sign.KEPT:
            return self._short(row.client or ""), "=", "="
        client, flow, upstream = ("" if value is None else self.safe(value) for value in row[2:])
        return client, flow, upstream

    def _short(self, value: str) -> str:
        text = self.safe(value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."

    def _line(self, text: str, style: str) -> None:
        self._output.print(Text(self.safe(text), style), soft_wrap=True)


def compared(client: Headers, flow: Headers, upstream: Headers) -> list[Row]:
    """Return a row for each header of the client or the backend, changed ones first.

    Names are compared without case. The values of a repeated header are joined, so that none is hidden.
    """
    sent, shown, received = joined(client), joined(flow), joined(upstream)
    names = list(sent) + [name for name in received if name not in sent]
    rows = [Row(sign_of(sent.get(n), received.get(n)), n, sent.get(n), shown.get(n), received.get(n)) for n in names]
    return sorted(rows, key=lambda row: list(Sign).index(row.sign))


def described(token: str) -> str:
    """Describe a token by kind, length and fingerprint."""
    kind = {"at-": "PAT", "eyJ": "JWT"}.get(token[:3], "token")
    return f"{kind}, {len(token)} characters, sha256:{fingerprint(token)}"


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    return console
