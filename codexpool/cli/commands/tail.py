"""`codexpool tail`: what happens in a running proxy, as it happens."""

from __future__ import annotations

import json
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from codexpool.cli.common import Failure
from codexpool.cli.output import Output, until_ended
from codexpool.cli.running_proxy import STATUS, Refused, RunningProxy, find_proxy, proxy_option, successor
from codexpool.views.formatting import clock, plain, wrap
from codexpool.views.header_table import header_lines

if TYPE_CHECKING:
    from rich.text import Text

REMEMBERED: Final = 1_000
"""Events that a proxy remembers: this far back is looked for those that fit a filter."""

WAIT: Final = 5
"""Seconds the proxy holds its answer back until there is an event."""

GRACE: Final = 5.0
"""Seconds more after which its answer is missed."""

PAGE: Final = 500
"""Events of one answer."""

PAUSE: Final = 1.0
"""Seconds before a proxy that does not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown; empty for all."""

    session: str = ""
    identity: str = ""

    @property
    def is_all(self) -> bool:
        return not self.session and not self.identity

    def has(self, event: dict[str, Any]) -> bool:
        """Whether an event is of the session, and has to do with the identity."""
        if self.session and not (event["session"] or "").startswith(self.session):
            return False
        if not self.identity:
            return True
        names = (event["identity"], event["was"], event["becomes"])
        return self.identity in names or any(text.startswith(f"{self.identity}: ") for text in event["refusals"])


@click.command("tail")
@click.option("--headers", is_flag=True, help="Show with each request what was done to its headers.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option(
    "-n", "number", type=click.IntRange(0, REMEMBERED), default=10, show_default=True, metavar="N",
    help="Begin with so many events of the past.",
)  # fmt: skip
@click.option("--session", metavar="KEY", default="", help="Only events of this session; its beginning is enough.")
@click.option("--identity", metavar="NAME", default="", help="Only events that have to do with this identity.")
@proxy_option
def tail(headers: bool, as_json: bool, number: int, session: str, identity: str, proxy_url: str | None) -> None:
    """What happens in a running proxy, as it happens, until Ctrl-C.

    One line for each request that has its answer: when (UTC), client, session, identity, what was asked, status,
    time, bytes of the answer, attempts; below it the attempts that were refused. It goes on over restarts of the
    proxy.
    """
    if headers and as_json:
        raise click.UsageError("--headers is for people; with --json, ask for http://codex.pool/api/flows/ID")
    out = Output()
    feed = Feed(find_proxy(proxy_url), Wanted(session.rstrip("…"), identity))
    past = feed.past(number)
    with until_ended():
        from codexpool.cli.event_lines import EventLines

        lines = EventLines(out.width)
        for event in feed.all(past):
            if as_json:
                out.line(json.dumps(event))
                continue
            out.lines(*lines.of(event))
            if headers and event["event"] == "request" and event["flow"]:
                out.lines(*_headers(feed.asked, event["flow"], out.columns))


def _headers(asked: RunningProxy, flow: str, columns: int | None) -> Iterator[Text]:
    """Yield the header table of a flow, if the proxy still remembers it."""
    from rich.text import Text

    try:
        document = asked.get(f"/api/flows/{quote(flow, safe='')}")["flow"]
    except Failure as failure:
        is_forgotten = isinstance(failure, Refused) and failure.status == 404
        yield Text(f"{' ' * INDENT}headers: {'no longer kept' if is_forgotten else plain(failure.message)}", "dim")
        return
    for line in header_lines(document):
        for text in wrap(line, None if columns is None else columns - INDENT):
            yield Text(" " * INDENT + text, line.role.value)


INDENT: Final = 9
"""Columns by which what belongs to a line is moved in: as wide as its time."""


class Feed:
    """The events of a proxy, over restarts. Notes about the feed itself go to standard error."""

    def __init__(self, asked: RunningProxy, wanted: Wanted) -> None:
        self.asked = asked
        self._wanted = wanted
        self._after = 0
        self._run: object = None
        """What tells one run of the proxy from the next: numbers begin anew."""
        self._named = ""
        """The same, in the words of the answers with events: a reload of the addon counts, too."""

    def past(self, number: int) -> list[dict[str, Any]]:
        """The last events that are wanted, the oldest first. Raises Failure."""
        last = self._begin()
        self._after = max(0, last - (number if self._wanted.is_all else REMEMBERED))
        kept: deque[dict[str, Any]] = deque(maxlen=number)
        while self._after < last:
            answer = self._ask(0)
            if not answer["events"]:
                break
            kept.extend(event for event in answer["events"] if self._wanted.has(event))
        return list(kept)

    def all(self, past: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Those of the past, and then each one as it happens. Ends by an exception."""
        yield from past
        while True:
            for event in self._newer():
                if self._wanted.has(event):
                    yield event
            _notice_that_nobody_reads()

    def _newer(self) -> list[dict[str, Any]]:
        """What has happened since; waits for it for a while, and for the proxy if that is not there."""
        before = self._after
        begun = time.monotonic()
        try:
            answer = self._ask(WAIT)
        except Failure as failure:
            self._wait_for_the_proxy(failure)
            return []
        events: list[dict[str, Any]] = answer["events"]
        if answer["lost"]:
            is_anew = answer["last"] < before or (events and events[0]["number"] <= before)
            _say("the proxy was started anew" if is_anew else "some events are lost: more came than it remembers")
        if not events and time.monotonic() - begun < PAUSE:
            time.sleep(PAUSE)  # It has not waited: too many do.
        return events

    def _wait_for_the_proxy(self, failure: Failure) -> None:
        """Until it answers again, or another one in its place."""
        _say(f"{clock(time.time())} UTC: {plain(failure.message)} Waiting for it")
        while True:
            time.sleep(PAUSE)
            _notice_that_nobody_reads()
            before, after = self._run, self._after
            try:
                self._begin()
            except Failure:
                if (other := successor(self.asked)) is not None:
                    self.asked = other
                continue
            self._after = after if self._run == before else 0
            _say(f"{self.asked} answers again" + ("" if self._run == before else "; the proxy was started anew"))
            return

    def _begin(self) -> int:
        """Ask which run of the proxy this is; gives the number of its last event."""
        status = self.asked.get(STATUS)
        self._run = (status["proxy"]["pid"], status["proxy"]["started_at"])
        return int(status["events_last"])

    def _ask(self, wait: int) -> dict[str, Any]:
        run = f"&run={self._named}" if self._named else ""
        answer = self.asked.get(f"/api/events?after={self._after}&wait={wait}&limit={PAGE}{run}", wait + GRACE)
        self._after, self._named = answer["last"], str(answer.get("run", ""))
        return answer


def _say(text: str) -> None:
    click.echo(f"codexpool: {text}", err=True)


def _notice_that_nobody_reads() -> None:
    """Raise BrokenPipeError if the reader of a pipe has gone: while nothing happens, no writing would tell."""
    if not hasattr(select, "poll"):
        return
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return
    if any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0)):
        raise BrokenPipeError
