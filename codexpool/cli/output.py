"""Standard output of commands that may run for long: at once, safe for a terminal, and quiet when its reader goes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from codexpool.cli.common import console
from codexpool.cli.processes import InterruptedBySignal, Signals

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text


class Output:
    """Standard output. What is said through it is there at once, also in a file or a pipe."""

    def __init__(self) -> None:
        if reconfigure := getattr(sys.stdout, "reconfigure", None):
            reconfigure(errors="replace")  # An arrow is no reason to fail where text is ASCII.
        self.console: Console = console()

    @property
    def width(self) -> int:
        """Columns."""
        return self.console.width

    @property
    def columns(self) -> int | None:
        """Columns that text is to be wrapped at; None where it goes into a file, and nobody says how wide that is."""
        return self.console.width if self.console.is_terminal or "COLUMNS" in os.environ else None

    @property
    def ascii_only(self) -> bool:
        """Whether blocks and arrows would not be seen."""
        return self.console.options.ascii_only

    def show(self, *renderables: RenderableType) -> None:
        """Print tables and texts. Raises BrokenPipeError."""
        with self.console.capture() as captured:
            for renderable in renderables:
                self.console.print(renderable)
        text = captured.get()
        if not self.console.is_terminal:  # Tables are filled up with blanks, which are of no use to a program.
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        self._write(text)

    def lines(self, *texts: Text) -> None:
        """Print lines that are not cut into columns: a terminal wraps them, a file has them whole. As `show`."""
        with self.console.capture() as captured:
            for text in texts:
                self.console.print(text, soft_wrap=True)
        self._write(captured.get())

    def line(self, text: str) -> None:
        """Print a line as it is: JSON. Raises BrokenPipeError."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def until_ended() -> Iterator[None]:
    """Whoever has started this ends it: with Ctrl-C, or by not reading any more. That is no failure: exit code 0.

    Any other signal ends it as well, and with everything put away: the exit code is then 128 and its number.
    """
    with Signals():
        try:
            with quiet_end():
                yield
        except InterruptedBySignal as end:
            raise SystemExit(0 if end.number == signal.SIGINT else 128 + end.number) from None


@contextlib.contextmanager
def quiet_end() -> Iterator[None]:
    """A reader who has seen enough (``| head``) ends the command without a word."""
    try:
        yield
    except BrokenPipeError:
        # The interpreter would write what is left, once more in vain, and say so.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise SystemExit(0) from None
