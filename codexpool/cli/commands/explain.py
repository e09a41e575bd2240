"""`codexpool explain`: what happened to a request, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from codexpool.cli import completions
from codexpool.cli.common import Failure, json_option
from codexpool.cli.output import Output, print_json
from codexpool.cli.running_proxy import ProxyFailure, RunningProxy, find_proxy, proxy_option
from codexpool.cli.saved_flows import named, pick
from codexpool.views.formatting import Role, plain, wrap
from codexpool.views.header_table import header_lines, rows
from codexpool.views.story import explained

if TYPE_CHECKING:
    from rich.text import Text

Document = Mapping[str, Any]

VERSION: Final = 1  # the version of the documents that can be read


@click.command()
@click.argument("flow", metavar="FLOW|last|FILE[#N]", shell_complete=completions.flows)
@json_option
@proxy_option
def explain(flow: str, as_json: bool, proxy_url: str | None) -> None:
    """Explain what happened to a request, and why.

    FLOW is the id of a flow in a running proxy, or its beginning (see `codexpool tail --json`); last is the last one
    that has ended. FILE is a dump of mitmproxy (`codexpool run -w FILE`) or a HAR file; FILE#2 is its second flow,
    FILE#-1 the last, FILE#0d5f the one with an id that begins with 0d5f; FILE is the last one that codexpool has
    handled.
    """
    out = Output()
    where = named(flow)
    if where is None:
        document = _from_proxy(find_proxy(proxy_url), flow)
    else:
        from codexpool.proxy import content_view

        document = content_view.document_of(pick(where)[0])
    try:
        if document["version"] != VERSION:
            raise Failure("written by another release of codexpool; use that release to explain it")
        if as_json:
            table = [row.document() for row in rows(document)]
            explanation = [line.text for line in explained(document)]
            print_json({"flow": document, "table": table, "explanation": explanation})
        else:
            out.lines(*_texts(document, out.columns))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):  # A file may contain anything.
        raise Failure("this is not a trace that codexpool has written") from None


def _texts(document: Document, columns: int | None) -> Iterator[Text]:
    from rich.text import Text

    for number, line in enumerate([*explained(document), *header_lines(document, changed_only=True)]):
        if line.role is Role.HEADING and number:
            yield Text()
        yield from (Text(text, line.role.value) for text in wrap(line, columns))


def _from_proxy(running: RunningProxy, flow: str) -> dict[str, Any]:
    """Return the document of a flow that a proxy remembers. Raises Failure."""
    try:
        document = running.get(f"/api/flows/{quote(flow, safe='')}")["flow"]
    except ProxyFailure as refused:
        if refused.status != 404:
            raise
        which = f"no flow {plain(flow)}, or several that begin so" if flow != "last" else "no flow yet"
        raise Failure(f"the proxy at {running} remembers {which}; for ids run: codexpool tail") from None
    assert isinstance(document, dict)
    return document
