"""`codexpool status`: show what a running proxy reports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from codexpool.cli.common import Failure, json_option, remark
from codexpool.cli.output import Output, print_json, print_json_line
from codexpool.cli.processes import Signals
from codexpool.cli.running_proxy import STATUS, RunningProxy, find_proxy, proxy_option
from codexpool.cli.status_view import StatusView
from codexpool.views.formatting import clock, plain

EVERY: Final = 2.0  # seconds between updates by default


@click.command()
@click.option(
    "--watch",
    "every",
    type=click.FloatRange(0.2, 3600),
    is_flag=False,
    flag_value=EVERY,
    metavar="[SECONDS]",
    help=f"Update every SECONDS (default: {EVERY:.0f}) until Ctrl-C, even if the proxy restarts.",
)
@json_option
@proxy_option
def status(every: float | None, as_json: bool, proxy_url: str | None) -> None:
    """Show the identities, limits, sessions and traffic of a running proxy.

    Asks the proxy; `codexpool list` works without one. With --watch, --json prints one document a line.

    Exit code 1 if no proxy answers.
    """
    out = Output()
    watched = Watched(find_proxy(proxy_url))
    if every is not None:
        with Signals():
            if as_json:
                _watch_lines(watched, out, every)
            _watch(watched, out, every)
    if as_json:
        print_json(watched.document)
    else:
        out.show(watched.drawn(out))


class Watched:
    """A proxy that is asked again and again, and its last answer. Raises Failure if it does not answer at first."""

    def __init__(self, proxy: RunningProxy) -> None:
        self.proxy = proxy
        self.document: dict[str, Any] = proxy.get(STATUS)
        self.error = ""
        """That and why the proxy does not answer; empty if it does."""

    def update(self) -> None:
        try:
            self.document = self.proxy.get(STATUS)
            self.error = ""
        except Failure as failure:
            since = f"{self.proxy} does not answer since {clock(time.time())}"
            self.error = self.error or f"{since}: {plain(failure.message)}"

    def drawn(self, out: Output) -> RenderableType:
        view = StatusView(self.document, out.console).drawn()
        return Group(Text(f"{self.error}. This is its last status.", "bold red"), view) if self.error else view


def _watch(watched: Watched, out: Output, every: float) -> NoReturn:
    with _screen(out, lambda: watched.drawn(out)) as draw:
        while True:
            draw(watched.drawn(out))
            time.sleep(every)
            watched.update()


def _watch_lines(watched: Watched, out: Output, every: float) -> NoReturn:
    was_silent = False
    while True:
        if not watched.error:
            print_json_line(watched.document)
        if bool(watched.error) is not was_silent:
            was_silent = not was_silent
            remark(watched.error or f"{watched.proxy} answers again")
        time.sleep(every)
        watched.update()


@contextlib.contextmanager
def _screen(out: Output, last: Callable[[], RenderableType]) -> Iterator[Callable[[RenderableType], None]]:
    """Draw on a terminal's alternate screen, and leave the ``last`` picture on the usual one; else print each."""
    if not out.console.is_terminal:
        yield lambda picture: out.show(picture, "")
        return
    try:
        with Live(console=out.console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda picture: live.update(picture, refresh=True)
    finally:
        out.show(last())
