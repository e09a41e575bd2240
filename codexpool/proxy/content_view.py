"""What mitmproxy and mitmweb show of a flow: a content view and a command, for what was done to it and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from mitmproxy import contentviews, flow, http, types

from codexpool.proxy import tracer
from codexpool.traces.trace import METADATA, Trace
from codexpool.views.formatting import wrap
from codexpool.views.header_table import header_lines, label, rows, sent
from codexpool.views.story import explained

WIDTH = 110  # columns of the content view; mitmproxy does not tell how many there are


def document_of(one: flow.Flow) -> dict[str, Any]:
    """Return the document of a flow's trace, live or saved, or why the flow was not touched."""
    kept = one.metadata.get(METADATA)
    if isinstance(kept, dict):
        return kept
    if isinstance(kept, Trace):
        return kept.document()
    if not isinstance(one, http.HTTPFlow):
        raise ValueError("codexpool has a view for HTTP flows only")
    return tracer.untouched(one).document()


class HeadersView:
    """The content view ``codexpool``, which is never chosen automatically and shows no body.

    It has both interfaces of mitmproxy: ``prettify`` since 12, a call up to 11.
    """

    name = "codexpool"
    syntax_highlight = "none"

    def prettify(self, data: bytes, metadata: Any) -> str:
        return _text(metadata.flow)

    def __call__(self, data: bytes, *, flow: flow.Flow | None = None, **more: Any) -> tuple[str, Iterator[Any]]:
        return "codexpool", ([("text", line)] for line in _text(flow).splitlines())

    def render_priority(self, data: bytes, metadata: Any = None, **more: Any) -> float:
        return -1

    def __lt__(self, other: Any) -> bool:
        return self.name < str(other.name)


def add_view() -> None:
    """Add the view to mitmproxy, in place of the one from before a reload."""
    adding: Any = contentviews
    if not hasattr(adding, "registry") and (before := adding.get(HeadersView.name)) is not None:
        adding.remove(before)
    adding.add(HeadersView())


def headers_of(flows: Sequence[flow.Flow]) -> types.Data:
    """Return the header tables of flows as rows of cells, each below a row of titles."""
    cells = []
    for one in flows:
        document = document_of(one)
        request = f"{document['method']} {document['path']}" if len(flows) > 1 else "header"
        cells.append(["", request, "client", *map(label, sent(document))])
        for row in rows(document):
            cells.append([row.sign.value, row.name, row.client or "", *(value or "" for value in row.upstream)])
    width = max(map(len, cells), default=0)
    return cast(types.Data, [row + [""] * (width - len(row)) for row in cells])


def _text(one: flow.Flow | None) -> str:
    if one is None:
        return "there is no flow"
    document = document_of(one)
    table = [text for line in header_lines(document) for text in wrap(line, WIDTH)]
    return "\n".join([*(line.text for line in explained(document)), "", *table])
