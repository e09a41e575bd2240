"""What the demo prints: steps, tables and checks; colours on a terminal only, and no token anywhere."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codexpool.redaction.logs import redacted
from codexpool.tokens.bearer import fingerprint
from codexpool.views.header_table import Sign, joined, sign_of

WIDTH: Final = 120
"""Columns where the output is no terminal and nobody says how wide a line may be."""

WIDE: Final = 110
"""Columns from which on there is room for a table."""

LONGEST: Final = 28
"""Characters of a kept value that are shown: some are long, and none is news."""

STYLES: Final = {Sign.REPLACED: "yellow", Sign.ADDED: "green", Sign.REMOVED: "red", Sign.KEPT: "dim"}

PLACES: Final = ("the client sent", "the proxy's flow shows", "the backend got")
"""Where a header is looked at."""

NOTHING: Final = "(nothing)"

LEGEND: Final = "~ replaced   + added   - removed   = kept as the client sent it"


Headers = Sequence[tuple[str, str]]


class Row(NamedTuple):
    """One header in three places; None where it is not there."""

    sign: Sign
    name: str
    client: str | None
    flow: str | None
    upstream: str | None


class Screen:
    """The terminal, or the file or pipe in its place.

    ``output`` and ``errors`` are for what was shown and for what went wrong. All text goes through here, where
    every token that is `hide`-den is put in words.
    """

    def __init__(self, output: Console | None = None, errors: Console | None = None) -> None:
        self._output = output or _console(stderr=False)
        self._errors = errors or _console(stderr=True)
        self._hidden: dict[str, str] = {}
        self._steps = 0
        self._checks = 0
        self._broken: list[str] = []

    def hide(self, tokens: Sequence[str]) -> None:
        """From now on show these as kind, length and fingerprint."""
        self._hidden.update({token: described(token) for token in tokens})

    def safe(self, text: str) -> str:
        """The text without any token."""
        for token, shown in self._hidden.items():
            text = text.replace(token, shown)
        return redacted(text)

    # -- parts

    def title(self, text: str) -> None:
        self._line(text, "bold")

    def step(self, text: str) -> None:
        """The heading of the next step."""
        self._steps += 1
        self._output.print()
        self._line(f"{self._steps}. {text}", "bold cyan")

    def say(self, text: str, style: str = "") -> None:
        """A line of a step."""
        self._line(f"   {text}", style)

    def check(self, holds: object, text: str) -> None:
        """Say whether something held that the demo promises."""
        self._checks += 1
        if holds:
            self._line(f"   ok   {text}", "green")
        else:
            self._broken.append(text)
            self._line(f"   NOT  {text}", "bold red")

    def headers(self, rows: Sequence[Row], every: bool) -> None:
        """The way of each header from the client over the proxy's flow to the backend.

        Without ``every`` those that were kept are counted only.
        """
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
        """What was changed in a file."""
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=2)
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in lines:
            self.say(line, styles.get(line[0], ""))

    def fail(self, text: str) -> None:
        """The demo cannot go on."""
        self._errors.print(Text(self.safe(f"codexpool demo: {text}"), "red"), soft_wrap=True)

    def verdict(self, seconds: float) -> int:
        """The last line, and the exit code."""
        self._output.print()
        if self._broken:
            self.fail(f"{len(self._broken)} of {self._checks} checks did not hold: {'; '.join(self._broken)}")
            return 1
        self._line(f"Everything held: {self._checks} checks in {seconds:.1f} s.", "bold green")
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
        """The same where a table has no room."""
        for row in rows:
            values = self._values(row)
            if row.sign is Sign.KEPT:
                self._line(f" =   {row.name}: {values[0]}", STYLES[row.sign])
                continue
            self._line(f" {row.sign.value}   {row.name}", STYLES[row.sign])
            for place, value in zip(PLACES, values, strict=True):
                self._line(f"        {place}: {value or NOTHING}", STYLES[row.sign])

    def _values(self, row: Row) -> tuple[str, str, str]:
        """What the client, the flow and the backend had of a header, fit to be shown."""
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
    """One row for each header that the client or the backend saw, what was changed first.

    Names are compared without case and shown in lower case; of a repeated one the values are joined, so that a
    second one cannot hide.
    """
    sent, shown, received = joined(client), joined(flow), joined(upstream)
    names = list(sent) + [name for name in received if name not in sent]
    rows = [Row(sign_of(sent.get(n), received.get(n)), n, sent.get(n), shown.get(n), received.get(n)) for n in names]
    return sorted(rows, key=lambda row: list(Sign).index(row.sign))


def described(token: str) -> str:
    """A token in words that give nothing away: its kind, length and fingerprint."""
    kind = {"at-": "PAT", "eyJ": "JWT"}.get(token[:3], "token")
    return f"{kind}, {len(token)} characters, sha256:{fingerprint(token)}"


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    return console
