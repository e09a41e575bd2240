"""`codexpool explain`: what became of a request, and why."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from codexpool.cli.common import Failure, json_option
from codexpool.cli.diff_sources import named
from codexpool.cli.output import STYLES, Output, quiet_end
from codexpool.cli.running_proxy import Refused, RunningProxy, proxy, proxy_option
from codexpool.cli.saved_flows import pick
from codexpool.views.formatting import clock, plain
from codexpool.views.header_table import HeaderTable, rows
from codexpool.views.story import Role, explained

if TYPE_CHECKING:
    from rich.text import Text

Document = Mapping[str, Any]

VERSION: Final = 1
"""Of the documents that are understood here."""

SHOWN: Final = 5
"""Flows that are named where it is not clear which one is meant."""


@click.command()
@click.argument("flow", metavar="FLOW|last|FILE[#N]")
@json_option
@proxy_option
def explain(flow: str, as_json: bool, proxy_url: str | None) -> None:
    """What became of a request, and why.

    FLOW is the id of a flow in a running proxy, or the beginning of it (`codexpool tail --json` says them); last is
    the last one that has ended. FILE is a dump of mitmproxy (`codexpool run -w FILE`); FILE#2 is the second flow of
    it, FILE#-1 the last one, FILE#0d5f the one whose id begins so; FILE alone is the last one that codexpool had to
    do with.
    """
    out = Output()
    where = named(flow)
    if where is None:
        with proxy(proxy_url) as asked:
            document = _asked(asked, flow)
    else:
        from codexpool.proxy import content_view

        document = content_view.document_of(pick(where))
    with _understanding(document), quiet_end():
        if as_json:
            out.line(json.dumps(_whole(document), indent=2))
        else:
            out.lines(*_story(document, out.columns))
            out.show(HeaderTable(document, changed_only=True))


@contextlib.contextmanager
def _understanding(document: Document) -> Iterator[None]:
    """Raises Failure for a document that is none of ours: a file may hold anything."""
    try:
        if document["version"] != VERSION:
            raise Failure("another release of codexpool has written this; the one that did can explain it")
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise Failure("this does not have the form in which codexpool writes what it did") from None


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    """What the proxy's API says of a flow."""
    return {
        "flow": document,
        "table": [row.document() for row in rows(document)],
        "explanation": [line.text for line in explained(document)],
    }


def _story(document: Document, columns: int | None) -> Iterator[Text]:
    from rich.text import Text

    for number, line in enumerate(explained(document)):
        if line.role is Role.HEADING and number:
            yield Text()
        for text in wrapped(line.text, columns):
            yield Text(text, STYLES[line.role])
    yield Text()


def _asked(asked: RunningProxy, flow: str) -> dict[str, Any]:
    """The document of a flow that a proxy remembers. Raises Failure."""
    try:
        document = asked.get(f"/api/flows/{quote(flow, safe='')}")["flow"]
    except Refused as refused:
        if refused.status != 404:
            raise
        flows = asked.get("/api/flows?limit=500")["flows"]
        raise Failure(_unknown(asked, flow, flows)) from None
    assert isinstance(document, dict)
    return document


def _unknown(asked: RunningProxy, flow: str, flows: list[Document]) -> str:
    """Why no flow is meant by this."""
    if not flows:
        return f"no request has come through the proxy at {asked} yet"
    alike = [one for one in flows if one["id"].startswith(flow)]
    if alike:
        text = f"the ids of {len(alike)} flows begin with {plain(flow)}"
    else:
        text = f"the proxy at {asked} remembers no flow {plain(flow)} (it remembers the last {len(flows)})"
    return "\n".join([f"{text}. There is:", *(f"  {_named(one)}" for one in (alike or flows)[:SHOWN])])


def _named(flow: Document) -> str:
    status = flow["answer"]["status"]
    said = "no answer" if status is None else status
    return plain(f"{flow['id']}  {clock(flow['at'])} UTC  {flow['method']} {flow['path']}: {said}")


def wrapped(text: str, columns: int | None) -> list[str]:
    """A line, on as many as it needs; those that follow are indented. Without ``columns`` it stays whole."""
    if columns is None:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")) + 2)
    return textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)
