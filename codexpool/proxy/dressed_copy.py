"""The copy of a request that goes upstream with an identity's headers. The flow itself never has the token."""

from __future__ import annotations

from typing import NamedTuple

from mitmproxy import http

from codexpool.protocol import headers
from codexpool.protocol.routes import asks_for_stream, host_of


class Clothes(NamedTuple):
    """The values of an identity's headers, and the origin its workspace is served from."""

    authorization: str
    account_id: str
    fedramp: bool
    routing_override: str | None
    origin: str


def dressed(request: http.Request, clothes: Clothes, keep_turn_state: bool) -> http.Request:
    """Return a copy of the request as the identity sends it. The body, which may be large, is shared."""
    values = headers.identity_values(
        clothes.authorization, clothes.account_id, clothes.fedramp, clothes.routing_override
    )
    host = host_of(clothes.origin)
    for_stream = asks_for_stream(request.method, request.path.partition("?")[0])
    fields = headers.swapped(request.headers.fields, values, keep_turn_state, host.encode(), for_stream)
    wire = with_headers(request, fields)
    data = wire.data
    data.host = host
    if data.authority:
        data.authority = host.encode()
    if data.trailers is not None:
        fields = data.trailers.fields  # No header of the table belongs into trailers.
        data.trailers = http.Headers(field for field in fields if field[0].lower() not in headers.HEADERS)
    return wire


def with_headers(request: http.Request, fields: headers.Fields) -> http.Request:
    """Return a copy of the request with other headers and the same body."""
    # Done for every request: `copy.copy`, or validating the headers again, takes several times as long.
    data = http.RequestData.__new__(http.RequestData)
    data.__dict__.update(request.data.__dict__)
    data.headers = http.Headers.__new__(http.Headers)
    data.headers.fields = fields
    copied = http.Request.__new__(http.Request)
    copied.data = data
    return copied


def with_body(wire: http.Request, body: bytes) -> None:
    """Replace the body of a copy; it keeps its encoding."""
    length = str(len(body)).encode()
    wire.data.content = body
    wire.headers.fields = tuple(
        (name, length if name.lower() == b"content-length" else value) for name, value in wire.headers.fields
    )


def label(flow: http.HTTPFlow, name: str) -> None:
    """Show the name of an identity in the flow instead of secrets."""
    flow.request.headers.fields = headers.labelled(flow.request.headers.fields, name)
