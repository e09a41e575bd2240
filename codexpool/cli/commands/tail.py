"""`codexpool tail`: print the events of a running proxy as they happen."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import click
from rich.text import Text

from codexpool.cli import completions
from codexpool.cli.common import Failure, remark
from codexpool.cli.completions import SHOWN_OF_ID
from codexpool.cli.ending import reader_is_gone
from codexpool.cli.output import Output, print_json_line
from codexpool.cli.processes import Signals
from codexpool.cli.running_proxy import STATUS, ProxyFailure, RunningProxy, find_proxy, proxy_option
from codexpool.cli.status_view import short, style_of
from codexpool.protocol.endpoints import CHATGPT
from codexpool.views.formatting import clock, plain, plain_document, size, took, wrap
from codexpool.views.header_table import header_lines

KEPT: Final = 1_000  # events a proxy keeps; a filter searches all of them
WAIT: Final = 5  # seconds the proxy may wait for an event before it answers
GRACE: Final = 5.0  # seconds after that until the proxy counts as silent
PAGE: Final = 500  # events in one answer
PAUSE: Final = 1.0  # seconds until a silent proxy is asked again
INDENT: Final = 9  # columns before what belongs to an event: the width of its time


LONGEST: Final = 24  # the widest a column grows to fit a name
PREFIX: Final = "/backend-api/"  # left out: all paths of the backend begin with it


@click.command("tail")
@click.option("--headers", is_flag=True, help="Print what codexpool changed in the headers of each request.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option(
    "-n", "number", type=click.IntRange(0, KEPT), default=10, show_default=True, metavar="N",
    help="Start with the last N events.",
)  # fmt: skip
@click.option("--no-follow", is_flag=True, help="Print them and exit.")
@click.option(
    "--session", metavar="KEY", default="", shell_complete=completions.sessions,
    help="Only events of this session. KEY may be shortened.",
)  # fmt: skip
@click.option(
    "--identity", metavar="NAME", default="", shell_complete=completions.identities,
    help="Only events about this identity.",
)  # fmt: skip
@proxy_option
def tail(
    headers: bool, as_json: bool, number: int, no_follow: bool, session: str, identity: str, proxy_url: str | None
) -> None:
    """Print the events of a running proxy as they happen, until Ctrl-C.

    A request is one line: time, client, session, identity, method and path, status, duration, size of the
    answer, attempts, and its id for `codexpool explain`. Refused attempts are below it. Follows a restarted proxy.
    """
    if headers and as_json:
        raise click.UsageError("--headers cannot be combined with --json; use http://codex.pool/api/flows/ID")
    out = Output()
    feed = Feed(find_proxy(proxy_url), session.rstrip("…"), identity)
    past = feed.past(number)
    with Signals():
        lines = EventLines(out.console.width)
        for event in past if no_follow else feed.all(past):
            if as_json:
                print_json_line(event)
                continue
            out.lines(*lines.of(event))
            if headers and event["event"] == "request" and event["flow"]:
                out.lines(*_headers(feed.proxy, event["flow"], out.columns))


def _headers(proxy: RunningProxy, flow: str, columns: int | None) -> Iterator[Text]:
    try:
        document = proxy.get(f"/api/flows/{quote(flow, safe='')}")["flow"]
    except ProxyFailure as failure:
        reason = "no longer kept" if failure.status == 404 else plain(failure.message)
        yield Text(f"{' ' * INDENT}headers: {reason}", "dim")
        return
    for line in header_lines(document):
        for text in wrap(line, None if columns is None else columns - INDENT):
            yield Text(" " * INDENT + text, line.role.value)


class EventLines:
    """Formats events in columns that grow with their content; ``width`` is that of the terminal."""

    def __init__(self, width: int) -> None:
        self._longest_path = max(30, width - 60)
        self._widths = {"client": 9, "session": 14, "identity": 4}

    def of(self, event: dict[str, Any]) -> list[Text]:
        event = plain_document(event)
        line = Text.assemble(
            (_clock(event["time"]), "dim"),
            " ",
            (self._column("client", event.get("member") or event["client"]), "dim"),
            " ",
            self._column("session", short(event["session"]) if event["session"] else None),
            " ",
            (self._column("identity", event["identity"]), "bold"),
            " ",
            *self._what(event),
        )
        line.no_wrap = False
        refusals = [Text(f"{' ' * INDENT}{refusal}", "yellow") for refusal in event["refusals"]]
        return [line, *refusals]

    def _column(self, name: str, text: str | None) -> str:
        shown = "-" if text is None else text
        width = self._widths[name] = max(self._widths[name], min(LONGEST, len(shown)))
        return shown.ljust(width)

    def _what(self, event: dict[str, Any]) -> Iterator[str | tuple[str, str]]:
        match event["event"]:
            case "request":
                yield f"{event['method']} {self._target(event)} "
                status = event["status"]
                yield ("no answer", "red") if status is None else (str(status), _style(status))
                yield from self._numbers(event)
            case "turn":
                failed = "failed" in event["text"]
                yield event["text"], "red" if failed else "green"
                yield from self._numbers(event)
            case "socket":
                yield event["text"], "dim"
                yield from self._numbers(event)
            case "identity":
                yield event["text"].removeprefix(f"{event['identity']}: "), style_of(event["becomes"] or "")
            case "move" if event["becomes"]:
                yield f"the session moves: {event['was'] or '?'} -> {event['becomes']}", "cyan"
            case "breaker":
                yield event["text"], "bold red"
            case _:
                yield event["text"], "dim"

    def _target(self, event: dict[str, Any]) -> str:
        host, path = event["host"] or "", event["path"] or ""
        target = path.removeprefix(PREFIX) if f"https://{host}" == CHATGPT else f"{host}{path}"
        return target if len(target) <= self._longest_path else f"{target[: self._longest_path - 1]}…"

    @staticmethod
    def _numbers(event: dict[str, Any]) -> Iterator[str | tuple[str, str]]:
        words = []
        if event["milliseconds"] is not None:
            words.append(took(event["milliseconds"]))
        if event["bytes_in"] is not None:
            words.append(size(event["bytes_in"]))
        if words:
            yield f" {' '.join(words)}", "dim"
        if (attempts := event["attempts"] or 0) > 1:
            yield f" {attempts} attempts", "yellow"
        if event["event"] == "request" and event["flow"]:
            yield f" {event['flow'][:SHOWN_OF_ID]}", "dim"


def _clock(time: str) -> str:
    """Return the time of an event for people; as it is if it cannot be read."""
    try:
        return clock(datetime.fromisoformat(time).timestamp())
    except ValueError:
        return time[:8]


def _style(status: int) -> str:
    return "green" if 0 < status < 300 else "yellow" if 300 <= status < 400 else "red"


class Feed:
    """The events of a proxy, over restarts. Prints notes about the feed to standard error."""

    def __init__(self, proxy: RunningProxy, session: str, identity: str) -> None:
        self.proxy = proxy
        self._session = session
        self._identity = identity
        self._after = 0
        """The number of the last event seen in this run of the proxy."""
        self._run = ""
        """Identifies the run: each one numbers its events from 1."""
        self._is_silent = False

    def past(self, number: int) -> list[dict[str, Any]]:
        """Return the last matching events, oldest first. Raises Failure."""
        last = int(self.proxy.get(STATUS)["events_last"])
        self._after = max(0, last - (KEPT if self._session or self._identity else number))
        kept: deque[dict[str, Any]] = deque(maxlen=number)
        while self._after < last:
            answer = self._ask(0)
            if not answer["events"]:
                break
            kept.extend(filter(self._is_wanted, answer["events"]))
        return list(kept)

    def all(self, past: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the past events, then each new one. Ends when its reader is gone."""
        yield from past
        while True:
            yield from filter(self._is_wanted, self._next())
            if reader_is_gone(sys.stdout):
                return

    def _is_wanted(self, event: dict[str, Any]) -> bool:
        if not (event["session"] or "").startswith(self._session):
            return False
        names = (event["identity"], event["was"], event["becomes"])
        refusals = event["refusals"]
        name = self._identity
        return not name or name in names or any(refusal.startswith(f"{name}: ") for refusal in refusals)

    def _next(self) -> list[dict[str, Any]]:
        """Return new events, or none after a while."""
        run, begun = self._run, time.monotonic()
        try:
            answer = self._ask(WAIT)
        except Failure as failure:
            if not self._is_silent:
                remark(f"{clock(time.time())}: {plain(failure.message)}. Waiting for it")
            self._is_silent = True
            time.sleep(PAUSE)
            return []
        if self._is_silent:
            remark(f"{self.proxy} answers again")
        self._is_silent = False
        if run and self._run != run:
            remark("the proxy was restarted")
        elif answer["lost"]:
            remark("some events were missed: there were more than the proxy keeps")
        events: list[dict[str, Any]] = answer["events"]
        if not events and time.monotonic() - begun < PAUSE:
            time.sleep(PAUSE)  # The proxy answers at once if too many clients wait.
        return events

    def _ask(self, wait: int) -> dict[str, Any]:
        run = f"&run={self._run}" if self._run else ""
        answer = self.proxy.get(f"/api/events?after={self._after}&wait={wait}&limit={PAGE}{run}", wait + GRACE)
        self._after, self._run = answer["last"], answer["run"]
        return answer
