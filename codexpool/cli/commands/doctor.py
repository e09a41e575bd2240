"""`codexpool doctor`: what is wrong between a client and the pool, and what mends it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from codexpool.cli.common import console, json_option
from codexpool.cli.output import Output, quiet_end
from codexpool.cli.processes import InterruptedBySignal, Signals
from codexpool.cli.running_proxy import proxy_option
from codexpool.doctor import environment, versions
from codexpool.doctor.findings import Finding, Level, count, document
from codexpool.protocol.hosts import OTHERS
from codexpool.protocol.routes import ROUTES

if TYPE_CHECKING:
    from rich.status import Status
    from rich.text import Text

STYLES: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "bold red"}

AREA: Final = 10
"""Columns of the longest name of an area."""


@click.command()
@proxy_option
@click.option(
    "--client",
    "program",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The Codex client; else CODEXPOOL_CODEX says it, else it is the codex on the PATH.",
)
@click.option("--routes", "only_routes", is_flag=True, help="Print which paths are swapped, and look at nothing.")
@json_option
@click.pass_context
def doctor(
    context: click.Context, proxy_url: str | None, program: Path | None, only_routes: bool, as_json: bool
) -> None:
    """Find out what is wrong between a client started from this shell and the pool.

    Looks at pool.toml, the running proxy, the variables and files that a client reads, its version, the modes of
    files, and the clock. A probe goes the way of a client's request, over HTTP and as a WebSocket; the proxy answers
    it itself, nothing of it reaches the backend. No secret is shown.

    The exit code is 1 if something is wrong; notes do not count.
    """
    out = Output()
    if only_routes:
        with quiet_end():
            _print_routes(out, as_json)
        return
    client = environment.client_environment(os.environ)
    named = versions.program_of(program, os.environ)
    if program is not None and named is None:
        raise click.UsageError(f"--client: {program} is no program")
    try:
        with Signals(), quiet_end():
            # Proxies and pool.toml take their time to be imported; --help and --routes need none of it.
            from codexpool.cli.examination import Examination

            found = _shown(out, Examination(client, named, proxy_url).areas(), as_json)
    except InterruptedBySignal as end:
        raise SystemExit(128 + end.number) from None
    context.exit(1 if count(found, Level.WRONG) else 0)


def _shown(out: Output, areas: Iterable[tuple[str, Iterator[Finding]]], as_json: bool) -> list[Finding]:
    """Look at one area after the other, and show what is found as it is found; all of it."""
    found: list[Finding] = []
    progress = _Progress()
    try:
        for area, findings in areas:
            progress.looks_at(area)
            for finding in findings:
                found.append(finding.safe())
                if not as_json:
                    progress.rests()
                    _print(out, found[-1])
                    progress.looks_at(area)
    finally:
        progress.rests()
    if as_json:
        out.line(json.dumps(document(found), indent=2))
    else:
        out.lines(_verdict(found))
    return found


def _print(out: Output, finding: Finding) -> None:
    """One finding: a line of a file, or a paragraph with its remedy below on a terminal."""
    from rich.table import Table
    from rich.text import Text

    style, text = STYLES[finding.level], Text(finding.text)
    if out.columns is None:
        text.append(f" -> {finding.remedy}" if finding.remedy else "")
        out.lines(Text.assemble((f"{finding.level:<5}", style), f"  {finding.about:<{AREA}}  ", text))
        return
    if finding.remedy:
        text.append(f"\n{'->' if out.ascii_only else '→'} {finding.remedy}", "cyan")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=5)
    grid.add_column(width=AREA)
    grid.add_column(overflow="fold")
    grid.add_row(Text(finding.level.value, style), finding.about, text)
    out.show(grid)


def _verdict(found: Iterable[Finding]) -> Text:
    from rich.text import Text

    found = list(found)
    bad, notes = count(found, Level.WRONG), count(found, Level.NOTE)
    said = f"; {notes} {'note' if notes == 1 else 'notes'}" if notes else ""
    if not bad:
        return Text(f"Nothing is wrong{said}.", "bold green")
    return Text(f"{bad} {'thing is' if bad == 1 else 'things are'} wrong{said}.", "bold red")


class _Progress:
    """What is being looked at, on standard error, if that is a terminal. It is away while something is printed."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._status: Status | None = None

    def looks_at(self, area: str) -> None:
        if not self._console.is_terminal:
            return
        if self._status is not None:
            self._status.update(f"looking at {area}")
            return
        self._status = self._console.status(f"looking at {area}")
        self._status.start()

    def rests(self) -> None:
        status, self._status = self._status, None
        if status is not None:
            status.stop()


def _print_routes(out: Output, as_json: bool) -> None:
    """The table of paths, in the words of `codexpool.protocol.routes`."""
    if as_json:
        rows = [{**route._asdict(), "policy": route.policy.value} for route in ROUTES]
        others = [{"hosts": hosts, "policy": policy} for hosts, policy in OTHERS]
        out.line(json.dumps({"version": 1, "routes": rows, "hosts": others}, indent=2))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("path", "methods", "policy", "repeatable"):
        table.add_column(name, overflow="fold")
    for route in ROUTES:
        methods = " ".join(route.methods) or "any"
        table.add_row(route.path, methods, route.policy.value, "yes" if route.repeatable else "GET only")
    for hosts, policy in (("all other paths", "own"), *OTHERS):
        table.add_row(hosts, "any", policy, "")
    out.show(table)
