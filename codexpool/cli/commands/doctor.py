"""`codexpool doctor`: what is wrong between a client and the pool, and how to fix it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from codexpool.cli.common import json_option
from codexpool.cli.output import Output, console, quiet_end
from codexpool.cli.processes import Signals
from codexpool.cli.running_proxy import proxy_option
from codexpool.doctor import environment, machine
from codexpool.doctor.findings import VERSION, Finding, Level
from codexpool.protocol.routes import ROUTES
from codexpool.views.formatting import Line, wrap

if TYPE_CHECKING:
    from rich.text import Text

OTHERS: Final = (("other hosts of openai.com and chatgpt.com", "never"), ("every other host", "passed through"))
STYLES: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "bold red"}

AREA: Final = 10  # columns for the name of an area

INDENT: Final = 5 + 2 + AREA + 2  # columns before a finding's text


@click.command()
@proxy_option
@click.option(
    "--client",
    "program",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The Codex client. Default: $CODEXPOOL_CODEX, then the codex on the PATH.",
)
@click.option("--routes", "only_routes", is_flag=True, help="Print which paths are swapped, and check nothing.")
@json_option
@click.pass_context
def doctor(
    context: click.Context, proxy_url: str | None, program: Path | None, only_routes: bool, as_json: bool
) -> None:
    """Find out what is wrong between a client started from this shell and the pool.

    Checks pool.toml, the running proxy, the variables and files that a client reads, its version, the modes of
    files, and the clock. Sends a probe along the path of a client's request, over HTTP and as a WebSocket, which the
    proxy answers itself: nothing reaches the backend. No secret is shown.

    The exit code is 1 if something is wrong; notes do not count.
    """
    out = Output()
    if only_routes:
        with quiet_end():
            _print_routes(out, as_json)
        return
    client = environment.client_environment(os.environ)
    named = machine.find_program(program, os.environ)
    if program is not None and named is None:
        raise click.UsageError(f"--client: {program} is not a program")
    with Signals(), quiet_end():
        # Slow to import, and not needed for --help and --routes.
        from codexpool.cli.examination import Examination

        found = _check(out, Examination(client, named, proxy_url).areas(), as_json)
    context.exit(1 if _count(found, Level.WRONG) else 0)


def _check(out: Output, areas: Iterable[tuple[str, Iterator[Finding]]], as_json: bool) -> list[Finding]:
    """Check all areas, and print what is found in each."""
    found: list[Finding] = []
    terminal = console(stderr=True)
    for area, findings in areas:
        with terminal.status(f"checking {area}") if terminal.is_terminal else contextlib.nullcontext():
            new = [finding.safe() for finding in findings]
        found += new
        for finding in new if not as_json else ():
            _print(out, finding)
    if as_json:
        rows = [{**finding._asdict(), "level": finding.level.value} for finding in found]
        document = {"version": VERSION, "findings": rows, "wrong": _count(found, Level.WRONG)}
        out.line(json.dumps(document, indent=2))
    else:
        out.lines(_summary(found))
    return found


def _print(out: Output, finding: Finding) -> None:
    """Print a finding: on one line in a file, otherwise wrapped, with its remedy below."""
    from rich.text import Text

    text = f"{finding.level:<5}  {finding.about:<{AREA}}  {finding.text}"
    remedy = f"-> {finding.remedy}" if finding.remedy else ""
    if out.columns is None:
        text, remedy = f"{text} {remedy}".rstrip(), ""
    lines = [Text(line) for line in wrap(Line(text, hang=INDENT), out.columns)]
    lines[0].stylize(STYLES[finding.level], 0, len(finding.level))
    if remedy:
        lines += [Text(line, "cyan") for line in wrap(Line(" " * INDENT + remedy, hang=INDENT + 3), out.columns)]
    out.lines(*lines)


def _count(found: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in found)


def _summary(found: Sequence[Finding]) -> Text:
    from rich.text import Text

    wrong, notes = _count(found, Level.WRONG), _count(found, Level.NOTE)
    more = f"; {notes} {'note' if notes == 1 else 'notes'}" if notes else ""
    if not wrong:
        return Text(f"Nothing is wrong{more}.", "bold green")
    return Text(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong{more}.", "bold red")


def _print_routes(out: Output, as_json: bool) -> None:
    """Print the table of `codexpool.protocol.routes`."""
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
