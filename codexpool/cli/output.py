"""Standard output: unbuffered, safe for a terminal, and quiet when the reader is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from codexpool.cli.processes import InterruptedBySignal, Signals
from codexpool.pool.identity import Status
from codexpool.pool.states import CONDEMNED

WIDE: Final = 150  # columns of a terminal from which all columns of a table fit
NARROW: Final = 72  # columns of a terminal below which a table has only what matters most
WIDTH: Final = 160  # columns of a table in a file or a pipe, if COLUMNS is not set


STATUS_STYLES: Final = {
    Status.READY: "green",
    Status.UNVERIFIED: "cyan",
    Status.SUSPECT: "yellow",
    Status.LIMITED: "yellow",
    Status.RESTING: "yellow",
    Status.PAUSED: "dim",
    **dict.fromkeys(CONDEMNED, "bold red"),
}


def console(stderr: bool = False) -> Console:
    """Return a console for tables: with colours on a terminal, and wide elsewhere."""
    made = Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDTH
    return made


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
        """Print tables and texts. Raises BrokenPipeError."""
        with self.console.capture() as captured:
            for renderable in renderables:
                self.console.print(renderable)
        text = captured.get()
        if not self.console.is_terminal:  # Programs have no use for the blanks that fill up a table.
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        self._write(text)

    def lines(self, *texts: Text) -> None:
        """Print lines whole, for the terminal to wrap. Raises BrokenPipeError."""
        with self.console.capture() as captured:
            for text in texts:
                self.console.print(text, soft_wrap=True)
        self._write(captured.get())

    def line(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def print_table(
    out: Console,
    columns: Mapping[str, str],
    documents: Iterable[Mapping[str, Any]],
    styles: Mapping[Any, str],
    optional: Collection[str] = (),
    secondary: Collection[str] = (),
) -> None:
    """Print documents as rows. ``columns`` has a key for each title.

    The ``optional`` columns need a wide terminal, and a narrow one lacks the ``secondary`` ones, too.
    """
    left_out = {*(optional if out.width < WIDE else ()), *(secondary if out.width < NARROW else ())}
    titles = [title for title in columns if title not in left_out]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in ("kind", "status", "last used", "fingerprint"))
    for document in documents:
        style = {"status": styles[document["status"]]}
        table.add_row(*(Text(_cell(document[columns[title]]), style.get(title, "")) for title in titles))
    out.print(table)


def _cell(value: object) -> str:
    return "" if value is None else ", ".join(value) or "all" if isinstance(value, list) else str(value)


@contextlib.contextmanager
def until_ended() -> Iterator[None]:
    """End with exit code 0 on Ctrl-C or when the reader of the output is gone; with 128 + N on another signal."""
    try:
        with Signals(), quiet_end():
            yield
    except InterruptedBySignal as end:
        if end.number == signal.SIGINT:
            raise SystemExit(0) from None
        raise


@contextlib.contextmanager
def quiet_end() -> Iterator[None]:
    """End the command silently when the reader of the output (``| head``) is gone."""
    try:
        yield
    except BrokenPipeError:
        # Otherwise the interpreter tries to flush at exit, and prints an error.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        raise SystemExit(0) from None
