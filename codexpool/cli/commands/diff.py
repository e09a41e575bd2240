"""`codexpool diff`: what differs between two requests, or between two identities."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from codexpool.cli import completions
from codexpool.cli.common import Failure, config_option, json_option
from codexpool.cli.output import Output, print_json
from codexpool.cli.running_proxy import proxy_option
from codexpool.cli.saved_flows import side_of
from codexpool.redaction import redact_text
from codexpool.views.formatting import Line, Role, plain
from codexpool.views.header_table import ROLES, Sign
from codexpool.views.request_diff import Comparison, Difference, compare, compare_identities


class _Trouble(Failure):
    exit_code = 2  # as diff(1) has it


@click.command()
@click.argument("a", metavar="A", shell_complete=completions.flows_or_identities)
@click.argument("b", metavar="B", shell_complete=completions.flows_or_identities)
@click.option("--identities", is_flag=True, help="Compare the identities A and B, not requests.")
@click.option("--no-answers", is_flag=True, help="Compare the requests only, not their answers.")
@click.option("--full", is_flag=True, help="Show long values in full.")
@json_option
@proxy_option
@config_option
def diff(
    a: str,
    b: str,
    identities: bool,
    no_answers: bool,
    full: bool,
    as_json: bool,
    proxy_url: str | None,
    named: Path | None,
) -> None:
    """Show what differs between two requests, or two identities.

    A and B are each a request in a flow file (mitmproxy's -w) or in a HAR file, or a flow of the running proxy: its
    id, or last. FILE#2 is the second request of a file, FILE#-1 the last, FILE#0d5f the one with an id that begins
    with 0d5f; FILE is the last one that codexpool has handled.

    Signs: - only in A, + only in B, ~ different. Secrets are not shown. The exit code is 0 if nothing differs, 1 if
    something does, and 2 on errors.
    """
    try:
        if identities:
            if full or no_answers:
                raise click.UsageError("--full and --no-answers are for requests, not for identities")
            titles, comparison = [plain(a), plain(b)], _identities(a, b, proxy_url, named)
        else:
            one, other = side_of(a, proxy_url), side_of(b, proxy_url)
            titles = [f"{side.label}: {redact_text(side.method)} {redact_text(side.url)}" for side in (one, other)]
            comparison = compare(one, other, answers=not no_answers, full=full)
    except Failure as failure:
        raise _Trouble(failure.message) from None
    if as_json:
        differences = [difference.document() for difference in comparison.differences]
        document = {"a": titles[0], "b": titles[1], "differences": differences, "notes": comparison.notes}
        print_json(document)
    else:
        from rich.text import Text

        Output().lines(*(Text(line.text, line.role.value) for line in _lines(titles, comparison)))
    raise SystemExit(1 if comparison.differences else 0)


def _identities(a: str, b: str, proxy_url: str | None, named: Path | None) -> Comparison:
    """Compare two identities, as a running proxy knows them, or else as files do. Raises Failure."""
    at = time.time()
    known = _of_proxy(proxy_url) if named is None else None
    known = _of_files(named) if known is None else known
    for name in (a, b):
        if name not in known:
            raise click.UsageError(
                f"there is no identity {plain(name)}; there is: {', '.join(map(plain, known)) or 'none'}"
            )
    return compare_identities(known[a], known[b], at)


def _of_proxy(proxy_url: str | None) -> dict[str, Mapping[str, Any]] | None:
    """Return the identities by name; None if no proxy runs. Raises Failure."""
    from codexpool.cli import running_proxy

    try:
        identities = running_proxy.find_proxy(proxy_url).get("/api/status")["identities"]
    except running_proxy.ProxyFailure as failure:
        if failure.status or proxy_url is not None:
            raise
        return None
    return {identity["name"]: identity for identity in identities}


def _of_files(named: Path | None) -> dict[str, Mapping[str, Any]]:
    """Return the identities by name, from pool.toml and the state. Raises Failure."""
    from codexpool.cli.common import Pool, pool_path
    from codexpool.cli.identity_rows import identity_rows

    rows = identity_rows(Pool(pool_path(named)))
    return {row.spec.name: row.document() for row in rows}


def _lines(titles: list[str], comparison: Comparison) -> Iterator[Line]:
    yield Line(f"- A  {titles[0]}", Role.HEADING)
    yield Line(f"+ B  {titles[1]}", Role.HEADING)
    part = None
    for difference in comparison.differences:
        if difference.part is not part:
            part = difference.part
            yield Line(f"\n{part}", Role.HEADING)
        yield from _difference_lines(difference)
    if not comparison.differences:
        yield Line("nothing differs")
    if comparison.notes:
        yield Line("")
    yield from (Line(f"({plain(note)})", Role.DIM) for note in comparison.notes)


def _difference_lines(difference: Difference) -> Iterator[Line]:
    role, sign, name = ROLES[difference.sign], difference.sign.value, plain(difference.name)
    if difference.sign is Sign.REPLACED:
        yield Line(f"{sign} {name}", role)
        yield Line(f"    A  {difference.a}", role)
        yield Line(f"    B  {difference.b}", role)
    else:
        yield Line(f"{sign} {name}: {difference.a if difference.b is None else difference.b}", role)
    if difference.means:
        yield Line(f"      {difference.means}", Role.DIM)
