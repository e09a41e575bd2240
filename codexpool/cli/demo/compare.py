"""What became of each header between the client, the proxy's flow and the backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from codexpool.views.header_table import Sign, joined, sign_of

Headers = Sequence[tuple[str, str]]


class Row(NamedTuple):
    """One header in three places; None where it is not there."""

    sign: Sign
    name: str
    client: str | None
    flow: str | None
    upstream: str | None


def compared(client: Headers, flow: Headers, upstream: Headers) -> list[Row]:
    """One row for each header that the client or the backend saw, what was changed first.

    Names are compared without case and shown in lower case; of a repeated one the values are joined, so that a
    second one cannot hide.
    """
    sent, shown, received = joined(client), joined(flow), joined(upstream)
    names = list(sent) + [name for name in received if name not in sent]
    rows = [Row(sign_of(sent.get(n), received.get(n)), n, sent.get(n), shown.get(n), received.get(n)) for n in names]
    return sorted(rows, key=lambda row: list(Sign).index(row.sign))
