"""What mitmproxy and mitmweb show of a flow: a content view, and a command, that say what was done to it and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from mitmproxy import contentviews, flow, http, types

from codexpool.proxy import tracer
from codexpool.traces.trace import METADATA, Trace
from codexpool.views.formatting import wrap
from codexpool.views.header_table import header_lines, rows
from codexpool.views.story import explained

WIDTH = 110
"""Columns of the content view: neither of the programs says how many there are."""


def document_of(one: flow.Flow) -> dict[str, Any]:
    """The document of a flow's trace, live or saved; of one that was not touched what there is to be said."""
    kept = one.metadata.get(METADATA)
    if isinstance(kept, dict):
        return kept
    if isinstance(kept, Trace):
        return kept.document()
    if not isinstance(one, http.HTTPFlow):
        raise ValueError("codexpool has a view for HTTP flows only")
    return tracer.untouched(one).document()


class HeadersView:
    """The content view ``codexpool``: it never comes by itself, and it shows no body.

    One class for both of mitmproxy's interfaces: ``prettify`` since 12, a call up to 11.
    """

    name = "codexpool"
    syntax_highlight = "none"

    def prettify(self, data: bytes, metadata: Any) -> str:
        """All that is to be said of the flow that a message belongs to."""
        return _told(metadata.flow)

    def __call__(self, data: bytes, *, flow: flow.Flow | None = None, **more: Any) -> tuple[str, Iterator[Any]]:
        return "codexpool", ([("text", line)] for line in _told(flow).splitlines())

    def render_priority(self, data: bytes, metadata: Any = None, **more: Any) -> float:
        """Below all views for what a body has in it."""
        return -1

    def __lt__(self, other: Any) -> bool:
        return self.name < str(other.name)


VIEW = HeadersView()


def add_view() -> None:
    """Have mitmproxy offer the view. Once more after a reload: the one of before goes."""
    adding: Any = contentviews
    if not hasattr(adding, "registry") and (before := adding.get(VIEW.name)) is not None:
        adding.remove(before)
    adding.add(VIEW)


def headers_of(flows: Sequence[flow.Flow]) -> types.Data:
    """The header tables of flows, as rows of cells."""
    cells = []
    for one in flows:
        for row in rows(document_of(one)):
            cells.append([row.sign.value, row.name, row.client or "", *(value or "" for value in row.upstream)])
    width = max(map(len, cells), default=0)
    return cast(types.Data, [row + [""] * (width - len(row)) for row in cells])


def _told(one: flow.Flow | None) -> str:
    if one is None:
        return "there is no flow"
    document = document_of(one)
    table = [text for line in header_lines(document) for text in wrap(line, WIDTH)]
    return "\n".join([*(line.text for line in explained(document)), "", *table])
