"""`codexpool status`: how a running proxy stands, as it says itself."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from codexpool.cli.common import Failure, json_option
from codexpool.cli.output import Output, quiet_end, until_ended
from codexpool.cli.running_proxy import STATUS, RunningProxy, find_proxy, proxy_option, successor
from codexpool.views.formatting import clock, plain, span

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY: Final = 2.0
"""Seconds between two pictures, where nobody says otherwise."""


@click.command()
@click.option(
    "--watch",
    "every",
    type=click.FloatRange(0.2, 3600),
    is_flag=False,
    flag_value=EVERY,
    metavar="[SECONDS]",
    help=f"Draw it anew every so many seconds ({EVERY:.0f} if none are said), until Ctrl-C.",
)
@json_option
@proxy_option
def status(every: float | None, as_json: bool, proxy_url: str | None) -> None:
    """How the identities of a running proxy stand, and what it has done.

    Unlike `codexpool list`, which reads files, this asks the proxy itself: also for what is used of each limit, the
    last hour, and where the sessions are. Exit code 1 if no proxy can be asked. --watch goes on over restarts of the
    proxy; with --json it prints one document a line.
    """
    out = Output()
    asked = find_proxy(proxy_url)
    document = asked.get(STATUS)
    if every is not None:
        with until_ended():
            _watch(_Watched(asked, document), out, every, as_json)
    elif as_json:
        with quiet_end():
            out.line(json.dumps(document, indent=2))
    else:
        with quiet_end():
            out.show(_picture(document, out))


class _Watched:
    """A proxy that is asked again and again: what it said last, and since when it says nothing."""

    def __init__(self, asked: RunningProxy, document: dict[str, Any]) -> None:
        self.asked = asked
        self.document = document
        self.trouble = ""
        """Why there is no answer, if there is none."""
        self.silent_since = 0.0
        self.answered_at = time.time()

    def ask(self) -> None:
        """Ask once more. Raises nothing for want of an answer."""
        try:
            try:
                self.document = self.asked.get(STATUS)
            except Failure:
                if (other := successor(self.asked)) is None:
                    raise
                self.asked = other
                self.document = other.get(STATUS)
        except Failure as failure:
            if not self.trouble:
                self.silent_since = time.time()
            self.trouble = plain(failure.message)
        else:
            self.trouble = ""
            self.answered_at = time.time()

    @property
    def notice(self) -> str:
        """That it does not answer, and since when; empty if it does."""
        if not self.trouble:
            return ""
        now = time.time()
        since = f"since {clock(self.silent_since)} UTC ({span(now - self.silent_since)})"
        return (
            f"{self.asked} does not answer {since}: {self.trouble} "
            f"(This is how it stood {span(now - self.answered_at)} ago.)"
        )


def _watch(watched: _Watched, out: Output, every: float, as_json: bool) -> None:
    """Show how it stands, again and again. Ends by an exception."""
    if as_json:
        _watch_lines(watched, out, every)
    with _screen(out, lambda: _watched_picture(watched, out)) as draw:
        while True:
            draw(_watched_picture(watched, out))
            time.sleep(every)
            watched.ask()


def _watch_lines(watched: _Watched, out: Output, every: float) -> None:
    """One document a line; that there is none is said elsewhere, once."""
    was_silent = False
    while True:
        if not watched.trouble:
            out.line(json.dumps(watched.document))
        if bool(watched.trouble) is not was_silent:
            was_silent = not was_silent
            click.echo(f"codexpool: {watched.notice or f'{watched.asked} answers again'}", err=True)
        time.sleep(every)
        watched.ask()


@contextlib.contextmanager
def _screen(out: Output, last: Callable[[], RenderableType]) -> Iterator[Callable[[RenderableType], None]]:
    """Somewhere to draw one picture in the place of another.

    On a terminal that is the alternate screen, so that what was there before is there again at the end, and so that
    no size of it leaves parts of older pictures behind. The last picture stays, below what was there before.
    Elsewhere the pictures follow each other.
    """
    if not out.console.is_terminal:
        yield lambda picture: out.show(picture, "")
        return
    from rich.live import Live

    try:
        with Live(console=out.console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda picture: live.update(picture, refresh=True)
    finally:
        out.show(last())


def _watched_picture(watched: _Watched, out: Output) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    picture = _picture(watched.document, out)
    return Group(Text(watched.notice, "bold red"), picture) if watched.notice else picture


def _picture(document: dict[str, Any], out: Output) -> RenderableType:
    from codexpool.cli.status_view import Picture

    return Picture(document, out.width, out.ascii_only).whole()
