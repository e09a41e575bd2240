"""The copy of a request that goes upstream, with the identity's headers. The flow itself never holds its token."""

from __future__ import annotations

from typing import NamedTuple

from mitmproxy import http

from codexpool.protocol import headers
from codexpool.protocol.routes import asks_for_stream, host_of


class Clothes(NamedTuple):
    """What an identity's requests wear. ``origin`` is where its workspace is served from."""

    token: str
    account_id: str
    fedramp: bool
    routing_override: str | None
    origin: str


def dressed(request: http.Request, clothes: Clothes, keep_turn_state: bool) -> http.Request:
    """A copy of the request as the identity sends it. Shallow: the body, which may be large, is shared."""
    values = headers.identity_values(clothes.token, clothes.account_id, clothes.fedramp, clothes.routing_override)
    host = host_of(clothes.origin)
    for_stream = asks_for_stream(request.method, request.path.partition("?")[0])
    fields = headers.swapped(request.headers.fields, values, keep_turn_state, host.encode(), for_stream)
    data = _shallow(request.data)
    data.host = host
    if data.authority:
        data.authority = host.encode()
    data.headers = http.Headers.__new__(http.Headers)
    data.headers.fields = fields
    if data.trailers is not None:
        data.trailers = http.Headers(headers.trailing(data.trailers.fields))
    wire = http.Request.__new__(http.Request)
    wire.data = data
    return wire


def with_headers(request: http.Request, fields: headers.Fields) -> http.Request:
    """A copy of the request with other headers, and the same body."""
    data = _shallow(request.data)
    data.headers = http.Headers.__new__(http.Headers)
    data.headers.fields = fields
    copied = http.Request.__new__(http.Request)
    copied.data = data
    return copied


def with_body(wire: http.Request, body: bytes) -> None:
    """Put another body, encoded as the first, into a copy."""
    length = str(len(body)).encode()
    wire.data.content = body
    wire.headers.fields = tuple(
        (name, length if name.lower() == b"content-length" else value) for name, value in wire.headers.fields
    )


def _shallow(data: http.RequestData) -> http.RequestData:
    # This is done for every request: `copy.copy`, or checking the headers once more, takes several times as long.
    copied = http.RequestData.__new__(http.RequestData)
    copied.__dict__.update(data.__dict__)
    return copied


def label(flow: http.HTTPFlow, name: str) -> None:
    """Have the flow say, in place of any secret, which identity it is sent under."""
    flow.request.headers.fields = headers.labelled(flow.request.headers.fields, name)
